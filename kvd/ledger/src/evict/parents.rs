//! When no leaf can go: parents that have a copy below.
//!
//! A chain whose end is in use has no leaf to evict, however long it is: without this, a load longer than the arena would end as
//! a miss with most of the arena idle. A parent with a copy in a tier below is not lost by leaving this one, so its children
//! keep their worth. Which of them goes is left to a hand that walks over the table: it is rare, and every one is a read away.

use crate::machine::Ledger;
use crate::record::BlockIndex;
use kvd_block::TierKind;

/// Records looked at for one slot: some ten microseconds when nothing is found.
const TRIES: usize = 4096;

impl Ledger {
    /// A block with children in `tier` that can go for the good of `wanting`, of the same slot size; never its parent.
    pub(super) fn parent_to_evict(&mut self, tier: TierKind, wanting: BlockIndex) -> Option<BlockIndex> {
        let (pages, parent) = (self.slot_pages(wanting), self.records[wanting].parent);
        let table = self.records.slots();
        for _ in 0..TRIES.min(table) {
            self.parents_hand = (self.parents_hand + 1) % table;
            let index = BlockIndex::from_number(self.parents_hand as u32);
            let Some(record) = self.records.get(index) else { continue };
            let below = TierKind::ALL.into_iter().any(|other| other > tier && record.resident.contains(other));
            if below && Some(index) != parent && self.slot_pages(index) == pages && self.removable(index, tier) {
                return Some(index);
            }
        }
        None
    }
}
