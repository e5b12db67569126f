//! What all origins together say: who is there, who said so first, and until when.
//!
//! A name belongs to whoever gave it first. The same origin may say something else of it later (a new address), but never
//! another model or block size: that is another engine under an old name, and its blocks must not be taken for the old one's.

use super::{InstanceName, NodeSpec, SpecError, WorkerSpec};
use kvd_block::Tick;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Who says that a worker or node is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The configuration.
    Configuration,
    /// A file of the discovery directory.
    File(PathBuf),
    /// Itself, or somebody for it, over HTTP or gRPC.
    Registration,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Configuration => f.write_str("the configuration"),
            Origin::File(path) => write!(f, "the file {}", path.display()),
            Origin::Registration => f.write_str("a registration"),
        }
    }
}

/// One registration, until it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    id: LeaseId,
    expires: Tick,
    ttl_ms: u64,
}

/// A worker or node that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Member<S> {
    /// What is said of it.
    pub spec: S,
    /// Who says so.
    pub origin: Origin,
    lease: Option<Lease>,
}

/// A registration that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// What is said cannot be, whoever says it.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The name is another engine's.
    #[error(
        "worker `{name}` is here with {there} (from {origin}), and now comes with {here}: the first keeps its place; remove it or use another name"
    )]
    Changed {
        /// The name.
        name: InstanceName,
        /// Model and block size of the first.
        there: String,
        /// Model and block size of the second.
        here: String,
        /// Who told of the first.
        origin: Origin,
    },
    /// The model's other workers have blocks of another size, so that nothing they tell could be compared.
    #[error(
        "worker `{name}` has blocks of {here} tokens of `{model}`, but worker `{other}` (from {origin}) has blocks of {there}: start them with one block size, or give the models different names"
    )]
    BlockSize {
        /// Who comes.
        name: InstanceName,
        /// The model of both.
        model: String,
        /// Its block size.
        here: u32,
        /// Who is there.
        other: InstanceName,
        /// Its block size.
        there: u32,
        /// Who told of it.
        origin: Origin,
    },
    /// The model's other workers call it otherwise in kvd, so that their blocks would be kept apart.
    #[error(
        "worker `{name}` calls its model `{here}` in kvd, but worker `{other}` calls it `{there}`: give them one `kvd_model`, or the models different names"
    )]
    KvdModel {
        /// Who comes.
        name: InstanceName,
        /// What it calls it.
        here: String,
        /// Who is there.
        other: InstanceName,
        /// What that calls it.
        there: String,
    },
    /// The name was given by another origin.
    #[error("{kind} `{name}` is here already (from {origin}): remove it there first, or use another name")]
    Elsewhere {
        /// Worker or node.
        kind: &'static str,
        /// The name.
        name: InstanceName,
        /// Who told of the first.
        origin: Origin,
    },
    /// No room.
    #[error("there are {limit} {kind}s already, the most allowed: raise `[discovery] max_members`")]
    Full {
        /// Worker or node.
        kind: &'static str,
        /// How many there may be.
        limit: usize,
    },
}

/// There is no such registration, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unregistered {
    /// Its time was over, or the router restarted.
    #[error("lease {} is not known: it expired or the router restarted; register again", .0.0)]
    Lease(LeaseId),
    /// Nobody has that name.
    #[error("there is no worker `{0}`: GET /workers lists them")]
    Name(InstanceName),
    /// Only who told of it can take it back.
    #[error("worker `{name}` is from {origin}: remove it there")]
    Elsewhere {
        /// The name.
        name: InstanceName,
        /// Who told of it.
        origin: Origin,
    },
}

/// Everybody who is there.
#[derive(Debug)]
pub struct Fleet {
    workers: BTreeMap<InstanceName, Member<WorkerSpec>>,
    nodes: BTreeMap<InstanceName, Member<NodeSpec>>,
    max_members: usize,
    next_lease: u64,
    version: u64,
}

impl Fleet {
    /// Nobody. `first_lease` should differ from one life of the router to the next, so that no old lease is taken for a new one.
    pub fn new(max_members: usize, first_lease: u64) -> Fleet {
        Fleet { workers: BTreeMap::new(), nodes: BTreeMap::new(), max_members, next_lease: first_lease, version: 0 }
    }

    /// Grows whenever a worker or node comes, changes or goes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Workers by name.
    pub fn workers(&self) -> impl Iterator<Item = &Member<WorkerSpec>> {
        self.workers.values()
    }

    /// Nodes by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Member<NodeSpec>> {
        self.nodes.values()
    }

    /// One worker.
    pub fn worker(&self, name: &InstanceName) -> Option<&Member<WorkerSpec>> {
        self.workers.get(name)
    }

    /// A worker registers, for `ttl_ms` from `now` on or for good. Registering the same again is a heartbeat with the same lease.
    pub fn register(&mut self, spec: WorkerSpec, ttl_ms: Option<u64>, now: Tick) -> Result<Option<LeaseId>, Conflict> {
        let name = spec.name.clone();
        let held = self.workers.get(&name).and_then(|member| member.lease);
        self.put_worker(spec, &Origin::Registration)?;
        let lease = ttl_ms.map(|ttl_ms| {
            let id = held.map_or_else(|| self.take_lease(), |lease| lease.id);
            Lease { id, ttl_ms, expires: Tick(now.0.saturating_add(ttl_ms)) }
        });
        self.workers.get_mut(&name).expect("put above").lease = lease;
        Ok(lease.map(|lease| lease.id))
    }

    /// A registered worker is alive as of `now`. Returns for how many milliseconds it is believed from now on.
    pub fn heartbeat(&mut self, lease: LeaseId, now: Tick) -> Result<u64, Unregistered> {
        let held = self.workers.values_mut().filter_map(|member| member.lease.as_mut()).find(|held| held.id == lease);
        let held = held.ok_or(Unregistered::Lease(lease))?;
        held.expires = Tick(now.0.saturating_add(held.ttl_ms));
        Ok(held.ttl_ms)
    }

    /// A registered worker goes. What others told of stays.
    pub fn unregister(&mut self, name: &InstanceName) -> Result<(), Unregistered> {
        let member = self.workers.get(name).ok_or_else(|| Unregistered::Name(name.clone()))?;
        if member.origin != Origin::Registration {
            return Err(Unregistered::Elsewhere { name: name.clone(), origin: member.origin.clone() });
        }
        self.workers.remove(name);
        self.version += 1;
        Ok(())
    }

    /// Removes whose lease is over at `now`, and returns their names.
    pub fn expire(&mut self, now: Tick) -> Vec<InstanceName> {
        let over = |member: &Member<WorkerSpec>| member.lease.is_some_and(|lease| lease.expires <= now);
        let gone: Vec<InstanceName> = self.workers.iter().filter(|(_, member)| over(member)).map(|(name, _)| name.clone()).collect();
        for name in &gone {
            self.workers.remove(name);
        }
        self.version += u64::from(!gone.is_empty());
        gone
    }

    /// `origin` now tells of exactly these. Returns what of it cannot be; the rest holds.
    pub fn replace(&mut self, origin: &Origin, workers: Vec<WorkerSpec>, nodes: Vec<NodeSpec>) -> Vec<Conflict> {
        let before = self.workers.len() + self.nodes.len();
        self.workers.retain(|name, member| member.origin != *origin || workers.iter().any(|spec| spec.name == *name));
        self.nodes.retain(|name, member| member.origin != *origin || nodes.iter().any(|spec| spec.name == *name));
        self.version += u64::from(self.workers.len() + self.nodes.len() != before);
        let workers: Vec<_> = workers.into_iter().map(|spec| self.put_worker(spec, origin)).collect();
        let nodes: Vec<_> = nodes.into_iter().map(|spec| self.put_node(spec, origin)).collect();
        workers.into_iter().chain(nodes).filter_map(Result::err).collect()
    }

    fn put_worker(&mut self, spec: WorkerSpec, origin: &Origin) -> Result<(), Conflict> {
        spec.check()?;
        self.check_model(&spec)?;
        if let Some(first) = self.workers.get_mut(&spec.name) {
            let says = |spec: &WorkerSpec| format!("blocks of {} tokens of `{}`", spec.block_tokens, spec.model);
            if first.spec.block_tokens != spec.block_tokens || first.spec.model != spec.model {
                let (there, here) = (says(&first.spec), says(&spec));
                return Err(Conflict::Changed { name: spec.name, there, here, origin: first.origin.clone() });
            }
            if first.origin != *origin {
                return Err(Conflict::Elsewhere { kind: "worker", name: spec.name, origin: first.origin.clone() });
            }
            self.version += u64::from(first.spec != spec);
            first.spec = spec;
            return Ok(());
        }
        if self.workers.len() >= self.max_members {
            return Err(Conflict::Full { kind: "worker", limit: self.max_members });
        }
        self.workers.insert(spec.name.clone(), Member { spec, origin: origin.clone(), lease: None });
        self.version += 1;
        Ok(())
    }

    /// Refuses what the other workers of its model contradict.
    fn check_model(&self, spec: &WorkerSpec) -> Result<(), Conflict> {
        let others = self.workers.values().filter(|member| member.spec.model == spec.model && member.spec.name != spec.name);
        for Member { spec: other, origin, .. } in others {
            if other.block_tokens != spec.block_tokens {
                return Err(Conflict::BlockSize {
                    name: spec.name.clone(),
                    model: spec.model.clone(),
                    here: spec.block_tokens,
                    other: other.name.clone(),
                    there: other.block_tokens,
                    origin: origin.clone(),
                });
            }
            if other.model_in_kvd() != spec.model_in_kvd() {
                return Err(Conflict::KvdModel {
                    name: spec.name.clone(),
                    here: spec.model_in_kvd().into(),
                    other: other.name.clone(),
                    there: other.model_in_kvd().into(),
                });
            }
        }
        Ok(())
    }

    fn put_node(&mut self, spec: NodeSpec, origin: &Origin) -> Result<(), Conflict> {
        spec.check()?;
        if let Some(first) = self.nodes.get_mut(&spec.name) {
            if first.origin != *origin {
                return Err(Conflict::Elsewhere { kind: "node", name: spec.name, origin: first.origin.clone() });
            }
            self.version += u64::from(first.spec != spec);
            first.spec = spec;
            return Ok(());
        }
        if self.nodes.len() >= self.max_members {
            return Err(Conflict::Full { kind: "node", limit: self.max_members });
        }
        self.nodes.insert(spec.name.clone(), Member { spec, origin: origin.clone(), lease: None });
        self.version += 1;
        Ok(())
    }

    fn take_lease(&mut self) -> LeaseId {
        let id = LeaseId(self.next_lease);
        self.next_lease = self.next_lease.wrapping_add(1);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str, block_tokens: u32) -> WorkerSpec {
        WorkerSpec { name: name.into(), model: "m".into(), block_tokens, ..WorkerSpec::default() }
    }

    fn fleet() -> Fleet {
        Fleet::new(4, 100)
    }

    fn names(fleet: &Fleet) -> Vec<&str> {
        fleet.workers().map(|member| member.spec.name.as_str()).collect()
    }

    #[test]
    fn a_second_block_size_is_refused_naming_both_and_the_first_stays() {
        let mut fleet = fleet();
        fleet.register(worker("a", 16), None, Tick(0)).unwrap();
        let refused = fleet.register(worker("a", 32), None, Tick(0)).unwrap_err().to_string();
        assert!(refused.contains("blocks of 16 tokens of `m` (from a registration)"), "{refused}");
        assert!(refused.contains("now comes with blocks of 32 tokens of `m`"), "{refused}");
        assert_eq!(fleet.worker(&"a".into()).unwrap().spec.block_tokens, 16);
    }

    #[test]
    fn workers_of_one_model_have_blocks_of_one_size() {
        let mut fleet = fleet();
        fleet.register(worker("a", 16), None, Tick(0)).unwrap();
        let refused = fleet.register(worker("b", 32), None, Tick(0)).unwrap_err().to_string();
        assert!(refused.starts_with("worker `b` has blocks of 32 tokens of `m`, but worker `a` (from a registration) has blocks of 16"));
        let elsewhere = WorkerSpec { model: "n".into(), ..worker("b", 32) };
        assert_eq!(fleet.register(elsewhere, None, Tick(0)), Ok(None));
    }

    #[test]
    fn a_lease_that_is_not_renewed_ends_the_worker() {
        let mut fleet = fleet();
        let lease = fleet.register(worker("a", 16), Some(10), Tick(0)).unwrap().unwrap();
        assert_eq!(fleet.heartbeat(lease, Tick(8)), Ok(10));
        assert_eq!(fleet.expire(Tick(17)), []);
        assert_eq!(fleet.expire(Tick(18)), ["a".into()]);
        assert_eq!(fleet.heartbeat(lease, Tick(18)), Err(Unregistered::Lease(lease)));
    }

    #[test]
    fn registering_again_keeps_the_lease_and_changes_nothing() {
        let mut fleet = fleet();
        let lease = fleet.register(worker("a", 16), Some(10), Tick(0)).unwrap();
        let version = fleet.version();
        assert_eq!(fleet.register(worker("a", 16), Some(10), Tick(9)).unwrap(), lease);
        assert_eq!((fleet.version(), fleet.expire(Tick(18))), (version, vec![]));
    }

    #[test]
    fn a_name_belongs_to_the_origin_that_gave_it_first() {
        let mut fleet = fleet();
        assert_eq!(fleet.replace(&Origin::Configuration, vec![worker("a", 16)], vec![]), []);
        let refused = fleet.register(worker("a", 16), None, Tick(0)).unwrap_err().to_string();
        assert!(refused.contains("is here already (from the configuration)"), "{refused}");
        assert!(fleet.unregister(&"a".into()).is_err());
    }

    #[test]
    fn a_file_that_says_less_takes_the_rest_away() {
        let mut fleet = fleet();
        let file = Origin::File("w.toml".into());
        fleet.replace(&file, vec![worker("a", 16), worker("b", 16)], vec![]);
        fleet.register(worker("c", 16), None, Tick(0)).unwrap();
        fleet.replace(&file, vec![worker("b", 16)], vec![]);
        assert_eq!(names(&fleet), ["b", "c"]);
    }

    #[test]
    fn one_bad_entry_does_not_take_the_others_along() {
        let mut fleet = fleet();
        let conflicts = fleet.replace(&Origin::Configuration, vec![worker("", 16), worker("b", 16)], vec![]);
        assert_eq!((conflicts.len(), names(&fleet)), (1, vec!["b"]));
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut fleet = fleet();
        for name in ["a", "b", "c", "d"] {
            fleet.register(worker(name, 16), None, Tick(0)).unwrap();
        }
        let refused = fleet.register(worker("e", 16), None, Tick(0)).unwrap_err();
        assert_eq!(refused, Conflict::Full { kind: "worker", limit: 4 });
    }
}
