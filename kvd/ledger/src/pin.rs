//! Keeping blocks by request, for a time.

use crate::input::LedgerReply;
use crate::machine::Ledger;
use crate::record::BlockIndex;
use kvd_block::{LayoutHandle, SequenceHash};

impl Ledger {
    /// Pins (or with `ttl_ms` zero unpins) the blocks that are resident. A pinned block is never evicted from its last tier.
    pub(crate) fn pin(&mut self, layout: LayoutHandle, keys: &[SequenceHash], ttl_ms: u64) -> LedgerReply {
        let mut count = 0;
        for hash in keys {
            let Some(index) = self.find(layout, *hash).filter(|index| !self.records[*index].resident.is_empty()) else { continue };
            if ttl_ms == 0 {
                self.pinned.remove(&index);
            } else if self.pinned.contains_key(&index) || self.pinned.len() < self.config.max_pinned {
                self.pinned.insert(index, self.now.after_ms(ttl_ms));
                count += 1;
            }
            self.relist(index);
        }
        LedgerReply::Pinned(count)
    }

    pub(crate) fn end_overdue_pins(&mut self) {
        if self.pinned.is_empty() {
            return;
        }
        let over: Vec<BlockIndex> = self.pinned.iter().filter(|(_, until)| **until <= self.now).map(|(index, _)| *index).collect();
        for index in over {
            self.pinned.remove(&index);
            self.relist(index);
        }
    }
}
