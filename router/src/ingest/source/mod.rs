//! Sources: publishers that are followed, and the tasks that do it.
//!
//! A task for each stream owns its machine, its decoder and its holders; what it knows is published as a [`StreamView`]. Removing a
//! source ends its tasks and forgets its blocks.

mod follow;
mod live;
mod replay;
mod snapshot;
mod view;

pub use view::{StreamStatus, StreamView};

use super::apply::{Applier, Publisher};
use super::holders::Holders;
use super::namespaces::Namespaces;
use super::saved::{self, SavedError, SavedProgress, SavedStream};
use super::stream::{Limits, Reason, State};
use follow::{Follower, Parts, Places, Save};
use live::Endpoint;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A stream that does not answer for so long keeps a state from being saved.
const SAVE_PATIENCE: Duration = Duration::from_secs(5);
/// Most streams of one source.
const MOST_RANKS: u16 = 1024;

/// Names a source. Never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u64);

/// A publisher to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// What people call it.
    pub name: String,
    /// What it is, and where.
    pub kind: SourceKind,
}

/// Kinds of publishers. Addresses are ZeroMQ's, such as `tcp://10.0.0.1:5557`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// A kvd daemon.
    Kvd {
        /// Where its events come from.
        events: String,
        /// Where it answers who missed some.
        replay: Option<String>,
        /// Where its administration listens, such as `10.0.0.1:7411`.
        admin: String,
    },
    /// vLLM, SGLang or TensorRT-LLM.
    Engine {
        /// Where its events come from: of rank 0, the others have the ports that follow.
        events: String,
        /// The engine connects to `events`, where we listen.
        bind: bool,
        /// Where it answers who missed some: likewise.
        replay: Option<String>,
        /// Prefix of its topic; empty for all.
        topic: String,
        /// Data-parallel ranks, each with a stream of its own.
        ranks: u16,
        /// Model, as requests name it.
        model: String,
        /// Tokens in each block, if it is known: other blocks are refused.
        block_tokens: Option<u32>,
    },
}

/// Why a source cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Its name is taken by another.
    #[error("source `{name}` is followed already as {known}, and cannot be added as {asked}: remove it first")]
    Different {
        /// The name.
        name: String,
        /// The one that is followed.
        known: String,
        /// The new one.
        asked: String,
    },
    /// No ranks, or too many.
    #[error("source `{name}` has {ranks} ranks, allowed is 1 to {MOST_RANKS}")]
    Ranks {
        /// The source.
        name: String,
        /// How many it has.
        ranks: u16,
    },
    /// The address of a rank cannot be made from that of rank 0.
    #[error("source `{name}` has several ranks, and `{address}` does not end with a port to count from")]
    NoPort {
        /// The source.
        name: String,
        /// Its address.
        address: String,
    },
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceKind::Kvd { events, admin, .. } => write!(f, "kvd at {events}, administration at {admin}"),
            SourceKind::Engine { events, model, ranks, block_tokens, .. } => {
                write!(f, "engine of {model} at {events}, ranks: {ranks}, ")?;
                match block_tokens {
                    Some(tokens) => write!(f, "blocks of {tokens} tokens"),
                    None => f.write_str("blocks of any size"),
                }
            }
        }
    }
}

#[derive(Debug)]
struct Source {
    spec: SourceSpec,
    tasks: Vec<JoinHandle<()>>,
    views: watch::Receiver<Vec<StreamView>>,
    status: Vec<Arc<Mutex<StreamStatus>>>,
    saving: Vec<Saving>,
}

/// How one stream is asked for what the next life needs.
#[derive(Debug)]
struct Saving {
    name: String,
    /// Where it publishes, and all the rest that was declared.
    declared: String,
    save: mpsc::Sender<Save>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// All sources. Needs a runtime of tokio.
#[derive(Debug)]
pub struct Sources {
    namespaces: Arc<Namespaces>,
    limits: Limits,
    known: Mutex<(u64, BTreeMap<SourceId, Source>)>,
    /// What a former life knew, until somebody asks to follow it.
    restored: Mutex<Vec<SavedStream>>,
}

impl Sources {
    /// Sources that write to `namespaces`.
    pub fn new(namespaces: Arc<Namespaces>, limits: Limits) -> Sources {
        Sources { namespaces, limits, known: Mutex::default(), restored: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, (u64, BTreeMap<SourceId, Source>)> {
        self.known.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    /// Follows `spec`. Adding an equal one again gives the same source; another one of its name is refused.
    pub fn add(&self, spec: SourceSpec) -> Result<SourceId, SpecError> {
        let streams = streams(&spec)?;
        let mut known = self.known();
        if let Some((id, source)) = known.1.iter().find(|(_, source)| source.spec.name == spec.name) {
            if source.spec == spec {
                return Ok(*id);
            }
            let (name, known, asked) = (spec.name, source.spec.kind.to_string(), spec.kind.to_string());
            return Err(SpecError::Different { name, known, asked });
        }
        known.0 += 1;
        let id = SourceId(known.0);
        let source = self.start(spec, streams);
        known.1.insert(id, source);
        Ok(id)
    }

    fn start(&self, spec: SourceSpec, streams: Vec<(Publisher, Places)>) -> Source {
        let unknown = StreamView { state: State::Unknown(Reason::Starting), why: None, holders: Vec::new() };
        let (sender, views) = watch::channel(vec![unknown; streams.len()]);
        let sender = Arc::new(sender);
        let several = streams.len() > 1;
        let (mut tasks, mut status, mut saving) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (publisher, places)) in streams.into_iter().enumerate() {
            let name = if several { format!("{} rank {at}", spec.name) } else { spec.name.clone() };
            let shared = Arc::new(Mutex::new(StreamStatus::starting(&name)));
            let declared = declared(&places, &publisher);
            let (applier, resumed) = self.begin(&name, &declared, publisher);
            let (save, saves) = mpsc::channel(1);
            let (limits, views) = (self.limits, sender.clone());
            let parts = Parts { name: name.clone(), at, places, limits, applier, views, status: shared.clone(), saves, resumed };
            tasks.push(tokio::spawn(Follower::new(parts).run()));
            status.push(shared);
            saving.push(Saving { name, declared, save });
        }
        Source { spec, tasks, views, status, saving }
    }

    /// A stream goes on where a former life was, if that was of the same publisher.
    fn begin(&self, name: &str, declared: &str, publisher: Publisher) -> (Applier, Option<SavedProgress>) {
        let mut restored = self.restored.lock().unwrap_or_else(|broken| broken.into_inner());
        let found = restored.iter().position(|saved| saved.source == name && saved.declared == declared);
        let saved = found.map(|at| restored.swap_remove(at));
        let resumed = saved.and_then(|saved| Some((Applier::resume(publisher.clone(), self.namespaces.clone(), &saved)?, saved.progress)));
        match resumed {
            Some((applier, progress)) => (applier, Some(progress)),
            None => (Applier::new(publisher, self.namespaces.clone()), None),
        }
    }

    /// Reads what a former life wrote to `path`, before any source is added. Returns how many streams may be resumed.
    pub fn restore(&self, path: &Path) -> Result<usize, SavedError> {
        let streams = saved::read(path, &self.namespaces)?;
        let many = streams.len();
        *self.restored.lock().unwrap_or_else(|broken| broken.into_inner()) = streams;
        Ok(many)
    }

    /// Forgets what a former life knew of publishers that nobody follows now.
    pub fn forget_unclaimed(&self) {
        let left = std::mem::take(&mut *self.restored.lock().unwrap_or_else(|broken| broken.into_inner()));
        for stream in left {
            drop(Holders::resume(self.namespaces.clone(), stream.seats.iter().all(|seat| seat.domain == 0), &stream.seats));
        }
    }

    /// Writes all that is proven to `path`. Streams wait meanwhile. Returns how many bytes it took.
    pub async fn save(&self, path: PathBuf) -> Result<u64, SavedError> {
        let (going_on, written) = watch::channel(());
        let mut asked = Vec::new();
        for Saving { name, declared, save } in self.known().1.values().flat_map(|source| &source.saving) {
            let (saved, answer) = oneshot::channel();
            let save_it = Save { source: name.clone(), declared: declared.clone(), saved, written: written.clone() };
            if save.try_send(save_it).is_ok() {
                asked.push(answer);
            }
        }
        let mut streams = Vec::new();
        for answer in asked {
            let answered = timeout(SAVE_PATIENCE, answer).await;
            // A stream that does not wait might change the index while it is written.
            let Ok(answered) = answered else { return Err(SavedError::Unsound("a stream is too busy to wait; try again".into())) };
            streams.extend(answered.ok().flatten());
        }
        let namespaces = self.namespaces.all();
        let outcome = tokio::task::spawn_blocking(move || saved::write(&path, &namespaces, streams)).await;
        drop(going_on);
        outcome.unwrap_or_else(|error| Err(SavedError::Unsound(error.to_string())))
    }

    /// Follows a source no more, and forgets its blocks soon after. False when there is none.
    pub fn remove(&self, id: SourceId) -> bool {
        self.known().1.remove(&id).is_some()
    }

    /// What is known of a source, one entry for each of its streams; changes can be waited for.
    pub fn views(&self, id: SourceId) -> Option<watch::Receiver<Vec<StreamView>>> {
        self.known().1.get(&id).map(|source| source.views.clone())
    }

    /// Every stream of every source.
    pub fn status(&self) -> Vec<(SourceId, StreamStatus)> {
        let known = self.known();
        let one = |status: &Mutex<StreamStatus>| status.lock().unwrap_or_else(|broken| broken.into_inner()).clone();
        known.1.iter().flat_map(|(id, source)| source.status.iter().map(|status| (*id, one(status)))).collect()
    }
}

/// All that tells a stream from another of its name.
fn declared(places: &Places, publisher: &Publisher) -> String {
    format!("{publisher:?} {places:?}")
}

/// Who publishes each stream of a source, and where.
fn streams(spec: &SourceSpec) -> Result<Vec<(Publisher, Places)>, SpecError> {
    match &spec.kind {
        SourceKind::Kvd { events, replay, admin } => {
            let live = Endpoint { address: events.clone(), bind: false, topic: String::new() };
            Ok(vec![(Publisher::Kvd, Places { live, replay: replay.clone(), admin: Some(admin.clone()) })])
        }
        SourceKind::Engine { events, bind, replay, topic, ranks, model, block_tokens } => {
            if !(1..=MOST_RANKS).contains(ranks) {
                return Err(SpecError::Ranks { name: spec.name.clone(), ranks: *ranks });
            }
            let at = |address: &str, rank: u16| {
                of_rank(address, rank).ok_or_else(|| SpecError::NoPort { name: spec.name.clone(), address: address.to_owned() })
            };
            let stream = |rank: u16| {
                let live = Endpoint { address: at(events, rank)?, bind: *bind, topic: topic.clone() };
                let replay = replay.as_deref().map(|address| at(address, rank)).transpose()?;
                let publisher = Publisher::Engine { model: model.clone(), block_tokens: *block_tokens, rank: rank.into() };
                Ok((publisher, Places { live, replay, admin: None }))
            };
            (0..*ranks).map(stream).collect()
        }
    }
}

/// Where vLLM's rank `rank` is when rank 0 is at `address`.
fn of_rank(address: &str, rank: u16) -> Option<String> {
    if rank == 0 {
        return Some(address.to_owned());
    }
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse::<u16>().ok()?.checked_add(rank)?;
    Some(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_have_the_ports_that_follow() {
        assert_eq!(of_rank("tcp://node:5557", 0).as_deref(), Some("tcp://node:5557"));
        assert_eq!(of_rank("tcp://node:5557", 3).as_deref(), Some("tcp://node:5560"));
        assert_eq!(of_rank("tcp://node:65535", 1), None);
        assert_eq!(of_rank("ipc:///tmp/events", 1), None);
    }
}
