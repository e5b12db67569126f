//! Priorities by request, for a time.

use crate::input::LedgerReply;
use crate::machine::Ledger;
use crate::record::{BlockIndex, USUAL_PRIORITY};
use kvd_block::{LayoutHandle, SequenceHash};

/// The priority that goes last.
const HIGHEST_PRIORITY: u8 = 100;

impl Ledger {
    /// Gives blocks that are resident a priority, until `ttl_ms` have passed or, with `ttl_ms` zero, ends it.
    pub(crate) fn retain(&mut self, layout: LayoutHandle, keys: &[SequenceHash], priority: u8, ttl_ms: u64) -> LedgerReply {
        let mut count = 0;
        for hash in keys {
            let Some(index) = self.find(layout, *hash).filter(|index| !self.records[*index].resident.is_empty()) else { continue };
            if ttl_ms == 0 {
                self.end_priority(index);
            } else if self.retained.contains(index) || self.retained.len() < self.config.max_pinned {
                self.retained.insert(index, self.now.after_ms(ttl_ms));
                self.set_priority(index, priority.min(HIGHEST_PRIORITY));
                count += 1;
            }
        }
        LedgerReply::Pinned(count)
    }

    pub(crate) fn end_overdue_priorities(&mut self) {
        while let Some(index) = self.retained.first_overdue(self.now) {
            self.end_priority(index);
        }
    }

    /// Back to the usual priority.
    pub(crate) fn end_priority(&mut self, index: BlockIndex) {
        self.retained.remove(index);
        self.set_priority(index, USUAL_PRIORITY);
    }

    fn set_priority(&mut self, index: BlockIndex, priority: u8) {
        if self.records[index].priority != priority {
            self.unlist(index);
            self.records[index].priority = priority;
            self.relist(index);
        }
    }
}
