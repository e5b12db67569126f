//! Keeping blocks by request, for a time.

use crate::input::LedgerReply;
use crate::machine::Ledger;
use crate::record::BlockIndex;
use kvd_block::{LayoutHandle, SequenceHash, Tick};
use std::collections::{BTreeMap, BTreeSet};

/// Blocks something holds for, by request, and when it ends for each: pins, and priorities.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    ends: BTreeMap<BlockIndex, Tick>,
    by_end: BTreeSet<(Tick, BlockIndex)>,
}

impl Pins {
    pub fn contains(&self, index: BlockIndex) -> bool {
        self.ends.contains_key(&index)
    }

    pub fn insert(&mut self, index: BlockIndex, end: Tick) {
        self.remove(index);
        self.ends.insert(index, end);
        self.by_end.insert((end, index));
    }

    pub fn remove(&mut self, index: BlockIndex) {
        if let Some(end) = self.ends.remove(&index) {
            self.by_end.remove(&(end, index));
        }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn first_end(&self) -> Option<Tick> {
        self.by_end.first().map(|(end, _)| *end)
    }

    /// One whose time is over.
    pub fn first_overdue(&self, now: Tick) -> Option<BlockIndex> {
        self.by_end.first().filter(|(end, _)| *end <= now).map(|(_, index)| *index)
    }

    pub fn blocks(&self) -> impl Iterator<Item = &BlockIndex> {
        self.ends.keys()
    }
}

impl Ledger {
    /// Pins (or with `ttl_ms` zero unpins) the blocks that are resident. A pinned block is never evicted from its last tier.
    pub(crate) fn pin(&mut self, layout: LayoutHandle, keys: &[SequenceHash], ttl_ms: u64) -> LedgerReply {
        let mut count = 0;
        for hash in keys {
            let Some(index) = self.find(layout, *hash).filter(|index| !self.records[*index].resident.is_empty()) else { continue };
            if ttl_ms == 0 {
                self.pinned.remove(index);
            } else if self.pinned.contains(index) || self.pinned.len() < self.config.max_pinned {
                self.pinned.insert(index, self.now.after_ms(ttl_ms));
                count += 1;
            }
            self.relist(index);
        }
        LedgerReply::Pinned(count)
    }

    pub(crate) fn end_overdue_pins(&mut self) {
        while let Some(index) = self.pinned.first_overdue(self.now) {
            self.pinned.remove(index);
            self.relist(index);
        }
    }
}
