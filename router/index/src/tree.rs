//! The index: runs of blocks, found by name or by following a prompt.
//!
//! A block is stored once however many hold it: 18 bytes in its run and about 17 in the table of names. What a holder adds is a
//! stretch of eight bytes per run. Following a prompt compares it with whole runs, so its cost is that of reading memory in
//! order, plus one table look-up a run.

use super::alias::Aliases;
use super::orphan::{Orphan, Waiting};
use super::run::Run;
use super::slab::Slab;
use super::table::{Place, Table};
use super::{BlockName, HolderId, NameDomain, TooManyHolders};
use kvd_block::LocalHash;
use kvd_block::digest::{Digest, mix};
use std::collections::HashMap;
use std::hint::black_box;

/// Names looked up while waiting for memory once.
const BATCH: usize = 64;

/// What the index may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexLimits {
    /// Bytes of memory; beyond them the runs that were of use longest ago are forgotten, and counted.
    pub most_bytes: usize,
    /// Blocks waiting for a parent nobody has told of; more are lost, and counted.
    pub most_orphans: usize,
}

impl Default for IndexLimits {
    fn default() -> IndexLimits {
        IndexLimits { most_bytes: 8 << 30, most_orphans: 1 << 20 }
    }
}

/// What the index holds, and what it had to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IndexStats {
    /// Distinct blocks that somebody holds.
    pub blocks: u64,
    /// (block, medium) pairs of all holders.
    pub memberships: u64,
    /// Runs they are kept in.
    pub runs: u64,
    /// Blocks waiting for their parents.
    pub orphans: u64,
    /// Bytes used.
    pub bytes: u64,
    /// Memberships forgotten for want of memory, ever.
    pub evicted: u64,
    /// Orphans lost for want of room, ever.
    pub lost_orphans: u64,
    /// Names that two holders of one domain used for different blocks, ever.
    pub name_conflicts: u64,
}

#[derive(Debug)]
pub(super) struct Holder {
    pub(super) domain: NameDomain,
    pub(super) salt: u64,
    pub(super) digest: Digest,
    pub(super) aliases: Aliases,
    pub(super) orphans: HashMap<u64, Orphan>,
    pub(super) evicted: u64,
}

impl Holder {
    pub(super) fn new(domain: NameDomain, salt: u64) -> Holder {
        let (aliases, orphans) = (Aliases::default(), HashMap::new());
        Holder { domain, salt, digest: Digest::default(), aliases, orphans, evicted: 0 }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    pub(super) runs: Slab,
    /// Heads of runs, by the block before them and their local hash.
    pub(super) heads: Table,
    /// By domain.
    pub(super) names: Vec<Table>,
    pub(super) holders: Vec<Option<Holder>>,
    pub(super) waiting: Waiting,
    pub(super) limits: IndexLimits,
    pub(super) stats: IndexStats,
    /// Bytes of all runs beyond the slab.
    pub(super) run_bytes: usize,
    pub(super) tick: u32,
    /// Where the search for a run to evict goes on.
    pub(super) hand: u32,
}

pub(super) fn head_hash(parent: Option<Place>, local: u64) -> u64 {
    mix(local.wrapping_add(parent.map_or(0, Place::packed).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

impl Index {
    /// An empty index.
    pub fn new(limits: IndexLimits) -> Index {
        Index { limits, ..Index::default() }
    }

    /// Follows one more stream, whose digest is salted with `salt` (see [`kvd_block::digest`]).
    pub fn add_holder(&mut self, domain: NameDomain, salt: u64) -> Result<HolderId, TooManyHolders> {
        let free = self.holders.iter().position(Option::is_none).unwrap_or(self.holders.len());
        if free >= usize::from(u16::MAX) {
            return Err(TooManyHolders);
        }
        if free == self.holders.len() {
            self.holders.push(None);
        }
        while self.names.len() <= usize::from(domain.0) {
            self.names.push(Table::default());
        }
        self.holders[free] = Some(Holder::new(domain, salt));
        Ok(HolderId(free as u16))
    }

    /// Forgets a stream and all it said.
    pub fn remove_holder(&mut self, id: HolderId) {
        self.clear(id);
        if let Some(holder) = self.holders.get_mut(usize::from(id.0)) {
            *holder = None;
        }
    }

    /// Every stream that is followed.
    pub fn holders(&self) -> impl Iterator<Item = HolderId> {
        (0u16..).zip(&self.holders).filter(|(_, holder)| holder.is_some()).map(|(id, _)| HolderId(id))
    }

    /// Sum and number of all (block, medium) pairs a holder told of.
    pub fn digest(&self, id: HolderId) -> Digest {
        self.holders.get(usize::from(id.0)).and_then(Option::as_ref).map_or(Digest::default(), |holder| holder.digest)
    }

    /// Memberships of a holder that were forgotten for want of memory since it was added or cleared. Above 0, the index
    /// may say less of it than is true, never more.
    pub fn evicted(&self, id: HolderId) -> u64 {
        self.holders.get(usize::from(id.0)).and_then(Option::as_ref).map_or(0, |holder| holder.evicted)
    }

    /// What the index holds.
    pub fn stats(&self) -> IndexStats {
        let memberships = self.holders.iter().flatten().map(|holder| holder.digest.count - holder.evicted.min(holder.digest.count)).sum();
        IndexStats {
            memberships,
            runs: self.runs.len() as u64,
            orphans: self.waiting.len() as u64,
            bytes: self.bytes() as u64,
            ..self.stats
        }
    }

    /// Bytes in use, without what the allocator adds.
    pub fn bytes(&self) -> usize {
        let tables: usize = self.names.iter().chain([&self.heads]).map(Table::bytes).sum();
        let aliases: usize = self.holders.iter().flatten().map(|holder| holder.aliases.bytes()).sum();
        self.run_bytes + self.runs.bytes() + tables + self.waiting.bytes() + aliases
    }

    pub(super) fn holder(&self, id: HolderId) -> &Holder {
        self.holders[usize::from(id.0)].as_ref().expect("a holder that was added and not removed")
    }

    pub(super) fn holder_mut(&mut self, id: HolderId) -> &mut Holder {
        self.holders[usize::from(id.0)].as_mut().expect("a holder that was added and not removed")
    }

    /// The block a holder means by `name`.
    pub(super) fn place_of(&self, id: HolderId, name: BlockName) -> Option<Place> {
        let holder = self.holder(id);
        let own = if holder.aliases.is_empty() { None } else { holder.aliases.get(name) };
        own.map(|alias| alias.place).or_else(|| self.named(holder.domain, name))
    }

    /// The block a domain calls `name`.
    pub(super) fn named(&self, domain: NameDomain, name: BlockName) -> Option<Place> {
        let table = &self.names[usize::from(domain.0)];
        table.find(mix(name.0), |place| self.runs.get(place.run).is_named(domain, place.offset, name))
    }

    /// Loads what looking up `names` will need, so that memory is waited for once, not once a name.
    pub(super) fn touch(&self, domain: NameDomain, names: &[BlockName]) {
        let table = &self.names[usize::from(domain.0)];
        for batch in names.chunks(BATCH) {
            black_box(batch.iter().fold(0, |all, name| all ^ table.touch(mix(name.0))));
        }
    }

    /// The run whose head follows `parent` with `local`.
    pub(super) fn head(&self, parent: Option<Place>, local: u64) -> Option<u32> {
        let found = self.heads.find(head_hash(parent, local), |place| {
            let run = self.runs.get(place.run);
            run.parent == parent && run.locals().first() == Some(&local)
        });
        found.map(|place| place.run)
    }

    /// The known blocks that continue `at` as `locals` do: their run, first offset and number.
    pub(super) fn follow(&self, at: Option<Place>, locals: &[LocalHash]) -> Option<(u32, u16, usize)> {
        if let Some(place) = at {
            let next = usize::from(place.offset) + 1;
            let same = common(&self.runs.get(place.run).locals()[next..], locals);
            if same > 0 {
                return Some((place.run, next as u16, same));
            }
        }
        let run = self.head(at, locals.first()?.0)?;
        Some((run, 0, common(self.runs.get(run).locals(), locals)))
    }

    /// Changes a run, and keeps account of its memory.
    pub(super) fn with_run<T>(&mut self, number: u32, change: impl FnOnce(&mut Run) -> T) -> T {
        let run = self.runs.get_mut(number);
        let before = run.heap_bytes();
        let result = change(run);
        self.run_bytes = self.run_bytes + run.heap_bytes() - before;
        result
    }
}

/// How many leading blocks are the same.
pub(super) fn common(known: &[u64], asked: &[LocalHash]) -> usize {
    const STEP: usize = 16;
    let length = known.len().min(asked.len());
    let (known, asked) = (&known[..length], &asked[..length]);
    let steps = known.chunks_exact(STEP).zip(asked.chunks_exact(STEP));
    // One test for many blocks: compilers turn the inner loop into vector instructions.
    let equal =
        steps.take_while(|(known, asked)| known.iter().zip(*asked).fold(0, |differ, (a, b)| differ | (a ^ b.0)) == 0).count() * STEP;
    equal + known[equal..].iter().zip(&asked[equal..]).take_while(|(a, b)| **a == b.0).count()
}
