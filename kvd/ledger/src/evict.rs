//! Which block goes when a slot is needed: the least recently used leaf.
//!
//! A block is useless without its parent, so a block with children in a tier is never evicted from it: only leaves are
//! listed. Per tier and slot size they are ordered by last use; a use of a block is a use of its ancestors, so a parent that
//! becomes a leaf is listed where it belongs. Why not the `lru` crate: its list cannot take an entry back in the middle.
//!
//! When a slot size has no leaf of its own, or far less than its share of the medium, a whole extent is taken from the size
//! that has most, least recently used first.

use crate::input::Action;
use crate::machine::Ledger;
use crate::record::BlockIndex;
use kvd_block::{SlotIndex, TierKind};
use std::collections::{BTreeMap, BTreeSet};

/// Leaves of one tier, per slot size, least recently used first.
#[derive(Debug, Default)]
pub(crate) struct LeafLists(BTreeMap<u32, BTreeSet<(u64, BlockIndex)>>);

impl LeafLists {
    pub fn insert(&mut self, slot_pages: u32, stamp: u64, index: BlockIndex) {
        self.0.entry(slot_pages).or_default().insert((stamp, index));
    }

    pub fn remove(&mut self, slot_pages: u32, stamp: u64, index: BlockIndex) {
        let removed = self.0.get_mut(&slot_pages).is_some_and(|list| list.remove(&(stamp, index)));
        assert!(removed, "a listed leaf is in its list");
    }

    pub fn coldest(&self, slot_pages: u32) -> Option<BlockIndex> {
        self.0.get(&slot_pages)?.first().map(|(_, index)| *index)
    }

    pub fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    fn coldest_first(&self, slot_pages: u32) -> impl Iterator<Item = BlockIndex> + '_ {
        self.0.get(&slot_pages).into_iter().flatten().map(|(_, index)| *index)
    }
}

/// Extents looked at before giving up on taking one from another slot size.
const EXTENT_TRIES: usize = 8;

impl Ledger {
    /// Puts a block into, or takes it out of, the leaf lists of all tiers, as its state demands.
    pub(crate) fn relist(&mut self, index: BlockIndex) {
        for tier in TierKind::ALL {
            let (listed, wanted) = (self.records[index].listed.contains(tier), self.evictable(index, tier));
            if listed == wanted {
                continue;
            }
            let (pages, stamp) = (self.slot_pages(index), self.records[index].stamp);
            let leaves = &mut self.tiers[tier as usize].as_mut().expect("resident tiers exist").leaves;
            if wanted {
                leaves.insert(pages, stamp, index);
                self.records[index].listed.insert(tier);
            } else {
                leaves.remove(pages, stamp, index);
                self.records[index].listed.remove(tier);
            }
        }
    }

    fn evictable(&self, index: BlockIndex, tier: TierKind) -> bool {
        self.removable(index, tier) && self.records[index].children[tier as usize] == 0
    }

    fn removable(&self, index: BlockIndex, tier: TierKind) -> bool {
        let record = &self.records[index];
        let elsewhere = TierKind::ALL.into_iter().any(|other| other > tier && record.resident.contains(other));
        record.resident.contains(tier) && !record.doomed && !record.used_in(tier) && (elsewhere || !self.pinned.contains(index))
    }

    /// Marks a use: the block becomes the most recently used one.
    pub(crate) fn touch(&mut self, index: BlockIndex) {
        let stamp = self.next_stamp();
        let (listed, old) = (self.records[index].listed, self.records[index].stamp);
        if !listed.is_empty() {
            let pages = self.slot_pages(index);
            for tier in TierKind::ALL.into_iter().filter(|tier| listed.contains(*tier)) {
                let leaves = &mut self.tiers[tier as usize].as_mut().expect("listed tiers exist").leaves;
                leaves.remove(pages, old, index);
                leaves.insert(pages, stamp, index);
            }
        }
        self.records[index].stamp = stamp;
    }

    /// A slot of `tier`, evicting what must go; `None` when everything is in use.
    pub(crate) fn obtain_slot(&mut self, tier: TierKind, slot_pages: u32, actions: &mut Vec<Action>) -> Option<SlotIndex> {
        if let Some(slot) = self.tier(tier)?.space.take(slot_pages) {
            return Some(slot);
        }
        let state = self.tiers[tier as usize].as_ref()?;
        if state.space.slots_per_extent(slot_pages) == 0 {
            return None;
        }
        let coldest = state.leaves.coldest(slot_pages);
        match coldest {
            Some(index) if !self.is_short(tier, slot_pages) => self.evict(index, tier, actions),
            _ => {
                if !self.take_extent(tier, slot_pages, actions) {
                    self.evict(coldest?, tier, actions);
                }
            }
        }
        self.tier(tier)?.space.take(slot_pages)
    }

    /// True when a slot size holds less than half of its equal share while another holds more than its own.
    fn is_short(&self, tier: TierKind, slot_pages: u32) -> bool {
        let Some(state) = &self.tiers[tier as usize] else { return false };
        let own = state.space.extents_of(slot_pages);
        let sizes = state.space.sizes().count() as u32 + u32::from(own == 0);
        let share = state.space.extent_count() / sizes.max(1);
        own < share / 2 && state.space.sizes().any(|(pages, extents)| pages != slot_pages && extents > share)
    }

    /// Evicts everything in one extent of the slot size that holds most.
    fn take_extent(&mut self, tier: TierKind, slot_pages: u32, actions: &mut Vec<Action>) -> bool {
        let Some(state) = &self.tiers[tier as usize] else { return false };
        let richest = state.space.sizes().filter(|(pages, _)| *pages != slot_pages).max_by_key(|(_, extents)| *extents);
        let Some((pages, _)) = richest else { return false };
        let mut extents: Vec<u32> = Vec::new();
        for index in state.leaves.coldest_first(pages) {
            let extent = state.space.extent_of(self.records[index].slot(tier));
            if !extents.contains(&extent) {
                extents.push(extent);
            }
            if extents.len() == EXTENT_TRIES {
                break;
            }
        }
        extents.into_iter().any(|extent| self.empty_extent(tier, extent, actions))
    }

    fn empty_extent(&mut self, tier: TierKind, extent: u32, actions: &mut Vec<Action>) -> bool {
        let Some(state) = &self.tiers[tier as usize] else { return false };
        let holds_slot = |index: &BlockIndex| {
            let record = &self.records[*index];
            let has_slot =
                record.resident.contains(tier) || (tier == TierKind::Cpu && (record.filling || record.reading)) || record.writing;
            has_slot && state.space.extent_of(record.slot(tier)) == extent
        };
        let inside: Vec<BlockIndex> = self.records.indices().filter(holds_slot).collect();
        // A slot may also belong to a late store or to an erase: then the extent stays what it is.
        let all = state.space.used_slots(extent) == inside.len();
        if !all || !inside.iter().all(|index| self.removable(*index, tier)) {
            return false;
        }
        inside.into_iter().for_each(|index| self.evict(index, tier, actions));
        self.tiers[tier as usize].as_ref().is_some_and(|state| state.space.has_idle())
    }

    fn evict(&mut self, index: BlockIndex, tier: TierKind, actions: &mut Vec<Action>) {
        match tier {
            TierKind::Cpu => {
                self.counters.evicted_cpu += 1;
                if !self.records[index].resident.contains(TierKind::Nvme) {
                    self.counters.evicted_cpu_unwritten += 1;
                }
            }
            TierKind::Nvme => self.counters.evicted_nvme += 1,
        }
        self.lose(index, tier, actions);
        self.records.release(index);
    }
}
