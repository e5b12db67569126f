//! Taking a whole extent from another slot size.
//!
//! When a slot size has no block of its own to evict, or far less than its share of the medium, everything in one extent goes: of
//! the size that has most, where the blocks are that would go first.

use crate::input::Action;
use crate::machine::Ledger;
use crate::record::BlockIndex;
use kvd_block::TierKind;

/// Extents looked at before giving up on taking one from another slot size.
const EXTENT_TRIES: usize = 8;
/// Blocks looked at to find them.
const BLOCK_TRIES: usize = 1024;

impl Ledger {
    /// True when a slot size holds less than half of its equal share while another holds more than its own.
    pub(super) fn is_short(&self, tier: TierKind, slot_pages: u32) -> bool {
        let Some(state) = &self.tiers[tier as usize] else { return false };
        let own = state.space.extents_of(slot_pages);
        let sizes = state.space.sizes().count() as u32 + u32::from(own == 0);
        let share = state.space.extent_count() / sizes.max(1);
        own < share / 2 && state.space.sizes().any(|(pages, extents)| pages != slot_pages && extents > share)
    }

    /// Evicts everything in one extent of the slot size that holds most, for the good of `wanting`.
    pub(super) fn take_extent(&mut self, tier: TierKind, slot_pages: u32, wanting: BlockIndex, actions: &mut Vec<Action>) -> bool {
        let Some(state) = &self.tiers[tier as usize] else { return false };
        let richest = state.space.sizes().filter(|(pages, _)| *pages != slot_pages).max_by_key(|(_, extents)| *extents);
        let Some((pages, _)) = richest else { return false };
        let mut extents: Vec<u32> = Vec::new();
        let queues = state.lists.of_size(pages).map(|(_, queues)| queues);
        let listed = queues.flat_map(|queues| queues.heads().flat_map(|head| queues.from(head.queue, 0)));
        for head in listed.take(BLOCK_TRIES) {
            let extent = state.space.extent_of(self.records[head.index].slot(tier));
            if !extents.contains(&extent) {
                extents.push(extent);
            }
            if extents.len() == EXTENT_TRIES {
                break;
            }
        }
        extents.into_iter().any(|extent| self.empty_extent(tier, extent, wanting, actions))
    }

    fn empty_extent(&mut self, tier: TierKind, extent: u32, wanting: BlockIndex, actions: &mut Vec<Action>) -> bool {
        let Some(state) = &self.tiers[tier as usize] else { return false };
        let Some(inside) = state.space.owners_in(extent) else { return false };
        let inside: Vec<BlockIndex> = inside.into_iter().map(BlockIndex::from_number).collect();
        let parent = self.records[wanting].parent;
        if !inside.iter().all(|index| self.removable(*index, tier) && Some(*index) != parent) {
            return false;
        }
        inside.into_iter().for_each(|index| self.evict(index, tier, actions));
        self.tiers[tier as usize].as_ref().is_some_and(|state| state.space.has_idle())
    }
}
