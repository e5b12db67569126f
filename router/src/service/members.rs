//! Who is there: what the fleet says, made into spaces, ranks and followed streams.

use super::feeds::Feeds;
use super::space::{Ranked, Ranks, Space};
use super::{Service, Spaces, Target};
use crate::fleet::{Conflict, Fleet, InstanceName, LeaseId, NodeSpec, Origin, Role, Unregistered, WorkerSpec};
use crate::ingest::SavedError;
use crate::ingest::namespaces::{NamespaceKey, Namespaces};
use crate::ingest::source::StreamStatus;
use crate::route::{self, WorkerId, WorkerProfile};
use crate::settings::Settings;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use tracing::{info, warn};

/// A registration that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Nobody may.
    #[error("workers cannot register here: `[discovery] registration` is off")]
    Off,
    /// The lease asked for is none.
    #[error("a lease of {asked} ms: ask for 1 to {most} ms (`[discovery] max_lease_ms`), or leave `ttl_ms` out to stay until unregistered")]
    Lease {
        /// Milliseconds asked for.
        asked: u64,
        /// Most there are.
        most: u64,
    },
    /// This worker cannot be.
    #[error(transparent)]
    Conflict(#[from] Conflict),
}

/// How one stream of events is followed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct SourceView {
    /// Where it publishes.
    pub endpoint: String,
    /// `known`, or why not.
    pub status: String,
    /// Number of the last message applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_event: Option<u64>,
    /// Whether all it has is known, or only what it told since it was followed.
    pub complete: bool,
    /// What it publishes that is known: (block, medium) pairs.
    pub memberships: u64,
}

/// A worker, as `GET /workers` lists it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerView {
    /// Its name.
    pub instance_id: InstanceName,
    /// How its events come.
    pub source: &'static str,
    /// `active` when the blocks of all its ranks are known, else `pending`.
    pub status: &'static str,
    /// What it serves.
    pub model_name: String,
    /// Always `default`.
    pub routing_group: &'static str,
    /// Tokens in its blocks.
    pub block_size: u32,
    /// Where each rank publishes.
    pub endpoints: BTreeMap<u32, String>,
    /// How each rank is followed, its node's kvd included.
    pub listeners: BTreeMap<u32, SourceView>,
    /// Who told of it.
    pub origin: String,
    /// All that was told.
    pub spec: WorkerSpec,
}

/// A kvd node, and how it is followed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeView {
    /// All that was told.
    pub spec: NodeSpec,
    /// Who told of it.
    pub origin: String,
    /// How it is followed.
    pub source: SourceView,
}

/// Everybody.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listing {
    /// Workers by name.
    pub workers: Vec<WorkerView>,
    /// Nodes by name.
    pub nodes: Vec<NodeView>,
}

#[derive(Debug)]
struct Placed {
    spec: Arc<WorkerSpec>,
    worker: WorkerId,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Members {
    fleet: Fleet,
    seen: u64,
    /// What each rank is called at its space's desk.
    placed: BTreeMap<(InstanceName, u32), Placed>,
    feeds: Feeds,
}

impl Members {
    pub fn new(settings: &Settings, first_lease: u64, namespaces: Arc<Namespaces>) -> Members {
        let fleet = Fleet::new(settings.discovery.max_members, first_lease);
        Members { fleet, seen: 0, placed: BTreeMap::new(), feeds: Feeds::new(namespaces) }
    }
}

impl Service {
    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `origin` now tells of exactly these workers and nodes. Returns what of it cannot be; the rest holds.
    pub fn replace(&self, origin: &Origin, workers: Vec<WorkerSpec>, nodes: Vec<NodeSpec>) -> Vec<Conflict> {
        let mut members = self.members();
        let conflicts = members.fleet.replace(origin, workers, nodes);
        self.reconcile(&mut members);
        conflicts
    }

    /// A worker registers, for `ttl_ms` or for good. Returns its lease, and for how long it is believed.
    pub fn register(&self, spec: WorkerSpec, ttl_ms: Option<u64>) -> Result<Option<(LeaseId, u64)>, RegisterError> {
        let discovery = &self.settings.discovery;
        if !discovery.registration {
            return Err(RegisterError::Off);
        }
        if let Some(asked) = ttl_ms.filter(|ttl| *ttl == 0 || *ttl > discovery.max_lease_ms) {
            return Err(RegisterError::Lease { asked, most: discovery.max_lease_ms });
        }
        let mut members = self.members();
        let lease = members.fleet.register(spec, ttl_ms, self.clock.now())?;
        self.reconcile(&mut members);
        Ok(lease.zip(ttl_ms))
    }

    /// A registered worker is alive. Returns for how many milliseconds it is believed from now on.
    pub fn heartbeat(&self, lease: LeaseId) -> Result<u64, Unregistered> {
        self.members().fleet.heartbeat(lease, self.clock.now())
    }

    /// A registered worker goes.
    pub fn unregister(&self, name: &InstanceName) -> Result<(), Unregistered> {
        let mut members = self.members();
        members.fleet.unregister(name)?;
        self.reconcile(&mut members);
        Ok(())
    }

    /// What is said of a worker.
    pub fn worker(&self, name: &InstanceName) -> Option<WorkerSpec> {
        self.members().fleet.worker(name).map(|member| member.spec.clone())
    }

    /// Everybody, or only who serves `model` and their nodes.
    pub fn listing(&self, model: Option<&str>) -> Listing {
        let (spaces, members) = (self.spaces(), self.members());
        let streams = members.feeds.streams();
        let wanted = members.fleet.workers().filter(|member| model.is_none_or(|model| member.spec.model == model));
        let workers = wanted
            .map(|member| {
                let space = spaces.get(&member.spec.model);
                view(&member.spec, &member.origin, |rank| members.feeds.rank(&member.spec, rank, space.map(Arc::as_ref), &streams))
            })
            .collect();
        let nodes = members.fleet.nodes().map(|member| NodeView {
            spec: member.spec.clone(),
            origin: member.origin.to_string(),
            source: members.feeds.node(&member.spec, &streams),
        });
        Listing { workers, nodes: nodes.collect() }
    }

    /// Reads what a former life knew from `[state] path`, before anybody is told of. Returns how many streams may go on.
    pub fn restore(&self) -> Result<usize, SavedError> {
        let sources = self.members().feeds.sources();
        self.settings.state.path.as_deref().map_or(Ok(0), |path| sources.restore(path))
    }

    /// Writes what is known to `[state] path`. Returns how many bytes it took, 0 without such a path.
    pub async fn save(&self) -> Result<u64, SavedError> {
        let sources = self.members().feeds.sources();
        match self.settings.state.path.clone() {
            Some(path) => sources.save(path).await,
            None => Ok(0),
        }
    }

    /// Forgets what a former life knew of publishers that nobody has told of since.
    pub fn forget_unclaimed(&self) {
        let sources = self.members().feeds.sources();
        sources.forget_unclaimed();
    }

    /// Every stream that is followed.
    pub(super) fn streams(&self) -> Vec<StreamStatus> {
        self.members().feeds.streams().into_values().collect()
    }

    /// How many ranks there are, and of how many the blocks are not known.
    pub fn health(&self) -> (usize, usize) {
        let ranks: Vec<_> = self.spaces().values().map(|space| space.ranks()).collect();
        let all = ranks.iter().map(|ranks| ranks.list.len()).sum();
        let unknown = ranks.iter().flat_map(|ranks| &ranks.list).filter(|ranked| ranked.unknown.is_some()).count();
        (all, unknown)
    }

    /// What time brings: leases end, requests nobody finished are given up, whoever waited too long is told. Call it several
    /// times a second.
    pub fn tick(&self) {
        let expired = {
            let mut members = self.members();
            let expired = members.fleet.expire(self.clock.now());
            self.reconcile(&mut members);
            expired
        };
        for worker in expired {
            warn!(%worker, "removed: its lease ended without a heartbeat");
        }
        let now_ms = self.clock.now_ms();
        for space in self.spaces().values() {
            let lost = space.desk().route.expire(now_ms);
            if !lost.is_empty() {
                warn!(model = space.model, requests = lost.len(), "given up: nobody finished them");
            }
            space.pump(now_ms);
        }
    }

    /// Waits until what is known of some worker's blocks begins or ceases to be proven, and takes note of it.
    pub async fn watch(&self) {
        let changed = self.members().feeds.changed();
        loop {
            changed.notified().await;
            let members = self.members();
            self.rank(&members);
        }
    }

    /// Makes spaces, ranks and streams what the fleet says.
    fn reconcile(&self, members: &mut Members) {
        if members.seen == members.fleet.version() {
            return;
        }
        members.seen = members.fleet.version();
        let spaces = self.spaces_of(&members.fleet);
        *self.spaces.write().unwrap_or_else(PoisonError::into_inner) = spaces.clone();
        self.place(members, &spaces);
        members.feeds.follow(&members.fleet);
        self.rank(members);
    }

    /// One space for each model that is served; those that were there stay.
    fn spaces_of(&self, fleet: &Fleet) -> Arc<Spaces> {
        let before = self.spaces();
        let mut spaces = Spaces::new();
        for spec in fleet.workers().map(|member| &member.spec) {
            if spaces.contains_key(&spec.model) {
                continue;
            }
            // Engines and kvd call the model differently; what kvd calls it is what both are kept under.
            let key = NamespaceKey { model: spec.model_in_kvd().into(), block_tokens: spec.block_tokens };
            let space = before.get(&spec.model).filter(|space| space.index.key == key).cloned();
            let fresh = || match self.namespaces.get_or_make(&key) {
                Ok(index) => Some(Arc::new(Space::new(&spec.model, index, &self.settings.route))),
                Err(why) => {
                    warn!(model = spec.model, %why, "a model is not served");
                    None
                }
            };
            spaces.extend(space.or_else(fresh).map(|space| (spec.model.clone(), space)));
        }
        Arc::new(spaces)
    }

    /// Gives every rank a place at its model's desk.
    fn place(&self, members: &mut Members, spaces: &Spaces) {
        let wanted: BTreeMap<(InstanceName, u32), &WorkerSpec> = members
            .fleet
            .workers()
            .filter(|member| spaces.contains_key(&member.spec.model))
            .flat_map(|member| (0..member.spec.ranks).map(|rank| ((member.spec.name.clone(), rank), &member.spec)))
            .collect();
        members.placed.retain(|key, placed| {
            let stays = wanted.get(key).is_some_and(|spec| **spec == *placed.spec) && spaces.contains_key(&placed.spec.model);
            if let Some(space) = spaces.get(&placed.spec.model).filter(|_| !stays) {
                let gone = space.desk().route.remove_worker(self.clock.now_ms(), placed.worker);
                info!(worker = %key.0, rank = key.1, requests = gone.len(), "left");
            }
            stays
        });
        for ((name, rank), spec) in wanted {
            members.placed.entry((name, rank)).or_insert_with_key(|(name, rank)| {
                info!(worker = %name, rank, model = spec.model, block_tokens = spec.block_tokens, "joined");
                let worker = spaces[&spec.model].desk().route.add_worker(profile(spec, *rank));
                Placed { spec: Arc::new(spec.clone()), worker }
            });
        }
    }

    /// Tells every space from whom its ranks have their blocks, and whether that is known.
    fn rank(&self, members: &Members) {
        for (model, space) in self.spaces().iter() {
            let placed = members.placed.iter().filter(|(_, placed)| placed.spec.model == *model);
            let list = placed.map(|((name, rank), placed)| {
                let target = Target { worker: name.clone(), rank: *rank, url: placed.spec.url.clone() };
                let (shape, unknown) = match members.feeds.shape(&placed.spec, *rank, space) {
                    Ok(shape) => (shape, None),
                    Err(why) => (Default::default(), Some(why)),
                };
                Ranked { worker: placed.worker, target, shape, unknown }
            });
            let list: Vec<Ranked> = list.collect();
            let roles: BTreeSet<_> =
                members.placed.values().filter(|placed| placed.spec.model == *model).map(|placed| placed.spec.role as u8).collect();
            space.set_ranks(Ranks::new(list, roles.contains(&(Role::Prefill as u8))));
            space.pump(self.clock.now_ms());
        }
    }
}

/// A rank in the words of [`route`].
fn profile(spec: &WorkerSpec, rank: u32) -> WorkerProfile {
    WorkerProfile {
        name: if spec.ranks > 1 { format!("{}/{rank}", spec.name) } else { spec.name.to_string() },
        role: match spec.role {
            Role::Both => route::Role::Both,
            Role::Prefill => route::Role::Prefill,
            Role::Decode => route::Role::Decode,
        },
        labels: spec.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        node: spec.node.clone(),
        rack: spec.rack.clone(),
        adapters: spec.adapters.clone(),
        block_bytes: spec.block_bytes.0,
        device_blocks: spec.device_blocks,
        most_requests: spec.max_requests,
        most_waiting_tokens: spec.max_waiting_tokens,
    }
}

fn view(spec: &WorkerSpec, origin: &Origin, source: impl Fn(u32) -> SourceView) -> WorkerView {
    let ranks = 0..spec.ranks;
    let listeners: BTreeMap<u32, SourceView> = ranks.clone().map(|rank| (rank, source(rank))).collect();
    let known = listeners.values().all(|listener| listener.status == "known");
    WorkerView {
        instance_id: spec.name.clone(),
        source: if spec.events.is_empty() { "none" } else { "zmq" },
        status: if known { "active" } else { "pending" },
        model_name: spec.model.clone(),
        routing_group: "default",
        block_size: spec.block_tokens,
        endpoints: ranks.filter_map(|rank| Some((rank, spec.events.of(rank, spec.ranks)?))).collect(),
        listeners,
        origin: origin.to_string(),
        spec: spec.clone(),
    }
}
