//! The table of blocks: one record each, found by key, linked to the record of its parent.
//!
//! A record is kept as long as something needs it: residency, a transfer, a lease, or a child whose parent link points here. A
//! record that only children need is a *ghost*: it lets a parent that comes back find its children counted.
//!
//! Arithmetic: a record is 88 bytes; the table adds 4 bytes and one control byte at a load of at most 7/8, the tier's
//! space 4 for each slot; blocks that may be evicted add an entry of a B-tree. A million blocks take about 116 MB, and at most 48 MB
//! more for histories of blocks that left.

use crate::evict::density::History;
use crate::input::CatalogRow;
use hashbrown::HashTable;
use kvd_block::{BlockKey, LocalHash, SequenceHash, SlotIndex, Tick, TierKind, TierSet};
use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};

/// Where a record is in the table. Valid while the record lives. One more than its number, so that none takes no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlockIndex(NonZeroU32);

impl BlockIndex {
    /// Not after any other.
    pub const FIRST: BlockIndex = BlockIndex(NonZeroU32::MIN);

    pub fn number(self) -> usize {
        (self.0.get() - 1) as usize
    }

    pub fn from_number(number: u32) -> BlockIndex {
        BlockIndex(NonZeroU32::MIN.saturating_add(number))
    }
}

/// Bits of a stamp that tell uses of one millisecond apart.
pub(crate) const STAMP_BITS: u32 = 20;
/// What goes first when nobody asked otherwise, between 0 (first) and 100 (last).
pub(crate) const USUAL_PRIORITY: u8 = 50;

/// When a block with this stamp was used.
pub(crate) fn last_use(stamp: u64) -> Tick {
    Tick(stamp >> STAMP_BITS)
}

/// What the ledger knows about one block.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub key: BlockKey,
    /// Tiers it can be read from.
    pub resident: TierSet,
    /// Tiers in whose eviction lists it is.
    pub listed: TierSet,
    /// A store lease is filling its arena slot.
    pub filling: bool,
    /// An NVMe read into its arena slot is under way or waiting.
    pub staging: bool,
    /// … and it is under way: its NVMe image may not be evicted.
    pub reading: bool,
    /// An NVMe write from its arena slot is under way.
    pub writing: bool,
    /// In the backlog of blocks to write to NVMe.
    pub backlogged: bool,
    /// To be forgotten as soon as nothing uses it.
    pub doomed: bool,
    /// Its arena image does not match, and goes as soon as nothing uses it; NVMe has another.
    pub spoiled: bool,
    /// False for a ghost whose own place in the sequence is not known.
    pub known: bool,
    /// Loads that hold its arena slot.
    pub pins: u32,
    /// Records whose parent link points here.
    pub links: u32,
    /// … of which resident in each tier, or being stored into the arena.
    pub children: [u32; 2],
    /// Slot in each tier; meaningful while resident, filling, staging or written to.
    pub slots: [SlotIndex; 2],
    pub parent: Option<BlockIndex>,
    pub parent_hash: SequenceHash,
    pub local: LocalHash,
    /// How many blocks come before it; of a ghost, the least that any child ever claimed.
    pub position: u32,
    /// When it was used last, in milliseconds, and which use of that millisecond it was: orders all uses.
    pub stamp: u64,
    /// What eviction knows of it.
    pub history: History,
    /// Evicted before blocks of higher priority.
    pub priority: u8,
}

impl Record {
    fn ghost(key: BlockKey) -> Record {
        Record {
            key,
            resident: TierSet::EMPTY,
            listed: TierSet::EMPTY,
            filling: false,
            staging: false,
            reading: false,
            writing: false,
            backlogged: false,
            doomed: false,
            spoiled: false,
            known: false,
            pins: 0,
            links: 0,
            children: [0; 2],
            slots: [SlotIndex(u32::MAX); 2],
            parent: None,
            parent_hash: SequenceHash::ROOT,
            local: LocalHash(0),
            position: u32::MAX,
            stamp: 0,
            history: History::default(),
            priority: USUAL_PRIORITY,
        }
    }

    /// Its catalog row with the given address.
    pub fn row(&self, address: SlotIndex) -> CatalogRow {
        let position = if self.known { self.position } else { 0 };
        CatalogRow { key: self.key, address, parent: self.parent_hash, local: self.local, position }
    }

    /// Slot in `tier`.
    pub fn slot(&self, tier: TierKind) -> SlotIndex {
        self.slots[tier as usize]
    }

    /// True when its image in `tier` is being read or written.
    pub fn used_in(&self, tier: TierKind) -> bool {
        match tier {
            TierKind::Cpu => self.pins > 0 || self.writing,
            TierKind::Nvme => self.staging,
        }
    }

    /// True when a transfer, a lease or a load uses it.
    pub fn in_use(&self) -> bool {
        self.filling || self.staging || self.writing || self.pins > 0
    }

    fn needed(&self) -> bool {
        !self.resident.is_empty() || self.in_use() || self.links > 0
    }
}

#[derive(Debug, Default)]
pub(crate) struct Records {
    table: HashTable<u32>,
    slab: Vec<Option<Record>>,
    free: Vec<u32>,
}

fn table_hash(key: BlockKey) -> u64 {
    key.hash.table_hash() ^ u64::from(key.layout.0).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Records {
    pub fn find(&self, key: BlockKey) -> Option<BlockIndex> {
        self.table
            .find(table_hash(key), |at| self.slab[*at as usize].as_ref().is_some_and(|record| record.key == key))
            .map(|at| BlockIndex::from_number(*at))
    }

    pub fn find_or_create(&mut self, key: BlockKey) -> BlockIndex {
        if let Some(index) = self.find(key) {
            return index;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.slab.push(None);
            u32::try_from(self.slab.len() - 1).expect("fewer than 2^32 blocks")
        });
        self.slab[at as usize] = Some(Record::ghost(key));
        let slab = &self.slab;
        self.table.insert_unique(table_hash(key), at, |at| table_hash(slab[*at as usize].as_ref().expect("tabled records exist").key));
        BlockIndex::from_number(at)
    }

    /// Gives a record its place in its sequence and links it to its parent, which becomes a ghost when unknown.
    ///
    /// Links never form a circle, whatever an engine claims: a record is linked only to a parent without a link of its own or with a
    /// smaller position, and not at all when a child of it claims to come first. Such a block is the start of its chain.
    pub fn place(&mut self, index: BlockIndex, parent_hash: SequenceHash, local: LocalHash, position: u32) {
        if self[index].known {
            return;
        }
        let sensible = !parent_hash.is_root() && parent_hash != self[index].key.hash && position < self[index].position;
        let parent = sensible
            .then(|| self.find_or_create(BlockKey { layout: self[index].key.layout, hash: parent_hash }))
            .filter(|parent| self[*parent].parent.is_none() || self[*parent].position < position);
        if let Some(parent) = parent.filter(|parent| !self[*parent].known) {
            self[parent].position = self[parent].position.min(position);
        }
        let resident = self[index].resident;
        if let Some(parent) = parent {
            self[parent].links += 1;
            TierKind::ALL.into_iter().filter(|tier| resident.contains(*tier)).for_each(|tier| self[parent].children[tier as usize] += 1);
        }
        let record = &mut self[index];
        (record.known, record.parent, record.parent_hash) = (true, parent, parent_hash);
        (record.local, record.position) = (local, position);
    }

    /// Frees a record that nothing needs, and then its ancestors that nothing needs any more.
    pub fn release(&mut self, index: BlockIndex) {
        let mut next = Some(index);
        while let Some(index) = next.filter(|index| !self[*index].needed()) {
            let record = self.slab[index.number()].take().expect("indexed records exist");
            let entry = self.table.find_entry(table_hash(record.key), |at| *at as usize == index.number());
            entry.expect("every record is tabled").remove();
            self.free.push(index.number() as u32);
            next = record.parent;
            if let Some(parent) = next {
                self[parent].links -= 1;
            }
        }
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Places of the table, taken or not: every record is at one of them for as long as it lives.
    pub fn places(&self) -> usize {
        self.slab.len()
    }

    pub fn at(&self, place: usize) -> Option<&Record> {
        self.slab.get(place).and_then(Option::as_ref)
    }

    pub fn get(&self, index: BlockIndex) -> Option<&Record> {
        self.slab.get(index.number()).and_then(Option::as_ref)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.slab.iter().flatten()
    }

    /// The records of `count` places from place `start` on, and whether there are places after them.
    pub fn piece(&self, start: usize, count: usize) -> (impl Iterator<Item = &Record>, bool) {
        let (start, end) = (start.min(self.slab.len()), start.saturating_add(count).min(self.slab.len()));
        (self.slab[start..end].iter().flatten(), end < self.slab.len())
    }

    /// Places of the table, taken or not.
    pub fn slots(&self) -> usize {
        self.slab.len()
    }

    pub fn indices(&self) -> impl Iterator<Item = BlockIndex> + '_ {
        (0..self.slab.len()).filter(|at| self.slab[*at].is_some()).map(|at| BlockIndex::from_number(at as u32))
    }
}

impl Index<BlockIndex> for Records {
    type Output = Record;

    fn index(&self, index: BlockIndex) -> &Record {
        self.slab[index.number()].as_ref().expect("indexed records exist")
    }
}

impl IndexMut<BlockIndex> for Records {
    fn index_mut(&mut self, index: BlockIndex) -> &mut Record {
        self.slab[index.number()].as_mut().expect("indexed records exist")
    }
}
