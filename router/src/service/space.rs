//! One model: the index of its workers' blocks, their loads, and the requests that wait for them.
//!
//! Two locks, never held across anything that waits: the index (readers beside each other, one writer per event message) and the
//! desk (loads, speeds, queue). A decision takes the index for the walk, lets go of it, then takes the desk.

use super::waiting::Waiter;
use super::{AskError, Overlap, Prompt, QueryAnswer, Target};
use crate::index::{Medium, Walk, WorkerShape};
use crate::ingest::namespaces::Namespace;
use crate::route::{self, Candidate, Known, Queue, RouteSettings, WorkerId};
use kvd_block::LocalHash;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// One rank that requests can be sent to, as it is now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ranked {
    pub worker: WorkerId,
    pub target: Target,
    /// From whom it has its blocks.
    pub shape: WorkerShape,
    /// Why what they say of them is not believed now.
    pub unknown: Option<String>,
}

/// All ranks of a model at one moment.
#[derive(Debug, Default)]
pub(crate) struct Ranks {
    pub list: Vec<Ranked>,
    /// Some need more than the prefix that one holder has all of.
    needs_spans: bool,
    /// Some do nothing but prefill.
    pub splits: bool,
}

impl Ranks {
    pub fn new(list: Vec<Ranked>, splits: bool) -> Ranks {
        let is_simple = |ranked: &Ranked| matches!(&ranked.shape.groups[..], [group] if group.holders.len() == 1 && group.window.is_none());
        let needs_spans = list.iter().any(|ranked| ranked.unknown.is_none() && !is_simple(ranked));
        Ranks { list, needs_spans, splits }
    }

    pub fn of(&self, worker: WorkerId) -> Option<&Ranked> {
        self.list.iter().find(|ranked| ranked.worker == worker)
    }

    pub fn named(&self, name: &str, rank: u32) -> Option<&Ranked> {
        self.list.iter().find(|ranked| ranked.target.rank == rank && ranked.target.worker.as_str() == name)
    }
}

/// What decisions rest on besides the index.
#[derive(Debug)]
pub(super) struct Desk {
    pub route: route::Router,
    pub queue: Queue<Waiter>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Space {
    pub model: String,
    pub block_tokens: u32,
    pub index: Arc<Namespace>,
    ranks: RwLock<Arc<Ranks>>,
    desk: Mutex<Desk>,
}

/// Memory of one thread's lookups, so that they allocate nothing once it has grown.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub locals: Vec<LocalHash>,
    pub walk: Walk,
    pub candidates: Vec<Candidate>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Space {
    pub fn new(model: &str, index: Arc<Namespace>, settings: &RouteSettings) -> Space {
        let route = route::Router::new(settings.clone()).expect("settings are checked before they are used");
        Space {
            model: model.into(),
            block_tokens: index.key.block_tokens,
            index,
            ranks: RwLock::default(),
            desk: Mutex::new(Desk { route, queue: Queue::new(settings.queue) }),
        }
    }

    pub fn ranks(&self) -> Arc<Ranks> {
        self.ranks.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_ranks(&self, ranks: Ranks) {
        *self.ranks.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ranks);
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes `prompt` and hands the hashes, the number of tokens, and free memory for the rest to `then`.
    pub(super) fn hashed<T>(&self, prompt: &Prompt, then: impl FnOnce(&mut Scratch, u64) -> Result<T, AskError>) -> Result<T, AskError> {
        SCRATCH.with_borrow_mut(|scratch| {
            let tokens = prompt.hash(self.block_tokens, &mut scratch.locals)?;
            then(scratch, tokens)
        })
    }

    /// What each rank has of a prompt, for a decision.
    pub(super) fn candidates(&self, ranks: &Ranks, locals: &[LocalHash], walk: &mut Walk, candidates: &mut Vec<Candidate>) {
        {
            let index = self.index.read();
            if ranks.needs_spans { index.find_spans(locals, walk) } else { index.find(locals, walk) }
        }
        candidates.clear();
        candidates.extend(ranks.list.iter().map(|ranked| {
            let known = if ranked.unknown.is_some() { Known::Unknown } else { Known::Exact(walk.reach(&ranked.shape)) };
            Candidate { worker: ranked.worker, known }
        }));
    }

    /// What each rank has of a prompt, for people and other routers.
    pub fn query(&self, prompt: &Prompt) -> Result<QueryAnswer, AskError> {
        self.hashed(prompt, |scratch, _| {
            let ranks = self.ranks();
            self.index.read().find_spans(&scratch.locals, &mut scratch.walk);
            let workers = ranks.list.iter().map(|ranked| overlap(ranked, &scratch.walk)).collect();
            Ok(QueryAnswer { block_tokens: self.block_tokens, prompt_blocks: scratch.locals.len() as u32, workers })
        })
    }
}

fn overlap(ranked: &Ranked, walk: &Walk) -> Overlap {
    let target = ranked.target.clone();
    if ranked.unknown.is_some() {
        return Overlap { target, blocks: 0, by_medium: [0; 4], cumulative: [0; 3], unknown: ranked.unknown.clone() };
    }
    let within = |slowest: Medium| {
        let counted = &Medium::ALL[..=slowest as usize];
        let inside = |media: crate::index::Media| counted.iter().any(|medium| media.contains(*medium));
        ranked.shape.reach(|holder| walk.covered(holder).filter(|span| inside(span.media)).collect())
    };
    let all = within(Medium::External);
    let cumulative = [within(Medium::Device).blocks, within(Medium::Host).blocks, all.blocks];
    Overlap { target, blocks: all.blocks, by_medium: all.by_medium, cumulative, unknown: None }
}
