//! The router as one value: who is there, where their blocks are, what they have to do, and decisions made of it.
//!
//! A frontend embeds it and calls [`Service::route`] (at once) or [`Service::select`] (waits for a worker with room); the
//! servers in [`crate::http`] and [`crate::rpc`] do nothing else. Every method can be called from any thread.

mod answers;
mod error;
mod feeds;
mod measure;
mod members;
mod prompt;
mod select;
mod space;
mod waiting;

pub use answers::{Explained, LoadView, LoadsAnswer, Overlap, QueryAnswer, SelectRequest, Selected, Target};
pub use error::AskError;
pub use members::{Listing, NodeView, RegisterError, SourceView, WorkerView};
pub use prompt::{Content, MAX_PROMPT_TOKENS, Prompt};

use crate::clock::{Clock, unix_ns};
use crate::ingest::namespaces::Namespaces;
use crate::settings::Settings;
use members::Members;
use space::Space;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Spaces by model.
type Spaces = BTreeMap<String, Arc<Space>>;

/// See the module.
#[derive(Debug)]
pub struct Service {
    settings: Settings,
    clock: Clock,
    /// Where the blocks are.
    namespaces: Arc<Namespaces>,
    spaces: RwLock<Arc<Spaces>>,
    members: Mutex<Members>,
    /// Requests without a name get one of these.
    next_id: AtomicU64,
}

impl Service {
    /// A router that knows nobody yet. Must be called on a tokio runtime: workers' streams are followed there.
    pub fn new(settings: Settings) -> Arc<Service> {
        let now = unix_ns();
        let namespaces = Arc::new(Namespaces::new(settings.index.limits()));
        Arc::new(Service {
            members: Mutex::new(Members::new(&settings, now, namespaces.clone())),
            settings,
            namespaces,
            clock: Clock::start(),
            spaces: RwLock::default(),
            next_id: AtomicU64::new(now),
        })
    }

    /// What was set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How much of a prompt each worker of its model has.
    pub fn query(&self, prompt: &Prompt) -> Result<QueryAnswer, AskError> {
        self.space(&prompt.model)?.query(prompt)
    }

    /// A name for a request that has none.
    pub fn fresh_id(&self) -> String {
        format!("r{:x}", self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    fn spaces(&self) -> Arc<Spaces> {
        self.spaces.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn space(&self, model: &str) -> Result<Arc<Space>, AskError> {
        let spaces = self.spaces();
        let unknown = || AskError::UnknownModel { model: model.into(), known: spaces.keys().cloned().collect() };
        spaces.get(model).cloned().ok_or_else(unknown)
    }
}
