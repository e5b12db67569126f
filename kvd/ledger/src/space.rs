//! Which slots of a medium are free.
//!
//! A medium is cut into equal extents. An extent holds slots of one size; it takes that size when its first slot is taken and
//! loses it when its last slot is freed, so layouts of different sizes share a medium without fragmenting it. The first page
//! of each extent is not used for slots (on disk it labels the extent).

use kvd_block::{PAGE_BYTES, SlotIndex};
use std::collections::{BTreeMap, BTreeSet};

/// Size of a medium and of its extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceConfig {
    /// Size of the medium; what is left over behind the last whole extent is not used.
    pub capacity_bytes: u64,
    /// Size of an extent: a multiple of the page, at least two pages.
    pub extent_bytes: u64,
}

const NOBODY: u32 = u32::MAX;

#[derive(Debug, Default)]
struct Extent {
    slot_pages: u32,
    used: u32,
    /// A bit per slot: rows of a catalog claim slots in any order, and a list would be searched for each.
    taken: Vec<u64>,
    /// No slot is free in the words before this one.
    first_open: usize,
    /// Who has each slot; [`NOBODY`] for free slots and those of a straggler.
    owners: Vec<u32>,
}

impl Extent {
    /// Takes the first free slot. There must be one.
    fn take_first(&mut self) -> u32 {
        while self.taken[self.first_open] == u64::MAX {
            self.first_open += 1;
        }
        let bit = self.taken[self.first_open].trailing_ones();
        self.taken[self.first_open] |= 1 << bit;
        self.first_open as u32 * u64::BITS + bit
    }

    /// Takes exactly this slot; false when it is taken.
    fn take_this(&mut self, slot: u32) -> bool {
        let word = &mut self.taken[(slot / u64::BITS) as usize];
        let bit = 1 << (slot % u64::BITS);
        let free = *word & bit == 0;
        *word |= bit;
        free
    }

    /// Frees a slot; false when it was not taken.
    fn free(&mut self, slot: u32) -> bool {
        let at = (slot / u64::BITS) as usize;
        let bit = 1 << (slot % u64::BITS);
        let taken = self.taken[at] & bit != 0;
        self.taken[at] &= !bit;
        self.owners[slot as usize] = NOBODY;
        self.first_open = self.first_open.min(at);
        taken
    }
}

/// The allocator of one medium.
#[derive(Debug)]
pub struct SlotSpace {
    config: SpaceConfig,
    extent_pages: u32,
    extents: Vec<Extent>,
    idle: BTreeSet<u32>,
    /// Per slot size, extents with at least one free slot.
    open: BTreeMap<u32, BTreeSet<u32>>,
    /// Per slot size, how many extents have it.
    owned: BTreeMap<u32, u32>,
    used_pages: u64,
}

impl SlotSpace {
    /// An empty medium.
    ///
    /// # Panics
    /// When the extent is smaller than two pages or not whole pages, or the medium exceeds 16 TiB.
    pub fn new(config: SpaceConfig) -> SlotSpace {
        assert!(config.extent_bytes >= 2 * PAGE_BYTES && config.extent_bytes.is_multiple_of(PAGE_BYTES), "extents are whole pages");
        assert!(config.capacity_bytes.div_ceil(PAGE_BYTES) < u64::from(u32::MAX), "a medium is at most 16 TiB");
        let count = (config.capacity_bytes / config.extent_bytes) as u32;
        SlotSpace {
            config,
            extent_pages: (config.extent_bytes / PAGE_BYTES) as u32,
            extents: (0..count).map(|_| Extent::default()).collect(),
            idle: (0..count).collect(),
            open: BTreeMap::new(),
            owned: BTreeMap::new(),
            used_pages: 0,
        }
    }

    /// Slots of this size in one extent.
    pub fn slots_per_extent(&self, slot_pages: u32) -> u32 {
        (self.extent_pages - 1) / slot_pages
    }

    /// Takes a free slot, or `None` when there is none without eviction.
    pub fn take(&mut self, slot_pages: u32) -> Option<SlotIndex> {
        if self.slots_per_extent(slot_pages) == 0 {
            return None;
        }
        let open = self.open.get(&slot_pages).and_then(|extents| extents.first().copied());
        let extent = match open {
            Some(extent) => extent,
            None => {
                let extent = *self.idle.first()?;
                self.adopt(extent, slot_pages);
                extent
            }
        };
        let slot = self.extents[extent as usize].take_first();
        self.count_taken(extent, slot_pages);
        Some(self.index_of(extent, slot, slot_pages))
    }

    /// Takes exactly this slot; false when it is taken, or cannot be a slot of this size.
    pub fn claim(&mut self, at: SlotIndex, slot_pages: u32) -> bool {
        let Some((extent, slot)) = self.locate(at, slot_pages) else { return false };
        if self.extents[extent as usize].slot_pages == 0 {
            self.adopt(extent, slot_pages);
        }
        let state = &mut self.extents[extent as usize];
        if state.slot_pages != slot_pages || !state.take_this(slot) {
            return false;
        }
        self.count_taken(extent, slot_pages);
        true
    }

    /// Gives a slot back.
    ///
    /// # Panics
    /// When the slot is not taken: that would hand one slot to two blocks.
    pub fn give_back(&mut self, at: SlotIndex, slot_pages: u32) {
        let (extent, slot) = self.locate(at, slot_pages).expect("a slot of this medium");
        let state = &mut self.extents[extent as usize];
        assert!(state.slot_pages == slot_pages && state.free(slot), "slot {at} is not taken");
        state.used -= 1;
        self.used_pages -= u64::from(slot_pages);
        if state.used == 0 {
            *state = Extent::default();
            self.idle.insert(extent);
            self.open.entry(slot_pages).or_default().remove(&extent);
            self.count_owned(slot_pages, -1);
        } else {
            self.open.entry(slot_pages).or_default().insert(extent);
        }
    }

    /// Notes who has a taken slot: a number below `u32::MAX`, or nobody that could be asked to leave.
    pub fn set_owner(&mut self, at: SlotIndex, slot_pages: u32, owner: Option<u32>) {
        let (extent, slot) = self.locate(at, slot_pages).expect("a slot of this medium");
        self.extents[extent as usize].owners[slot as usize] = owner.unwrap_or(NOBODY);
    }

    /// Who has the slot; `None` when nobody does.
    pub fn owner(&self, at: SlotIndex, slot_pages: u32) -> Option<u32> {
        let (extent, slot) = self.locate(at, slot_pages)?;
        self.extents[extent as usize].owners.get(slot as usize).copied().filter(|owner| *owner != NOBODY)
    }

    /// The owners of all slots taken in an extent; `None` when one of them has no owner.
    pub fn owners_in(&self, extent: u32) -> Option<Vec<u32>> {
        let state = &self.extents[extent as usize];
        let owners: Vec<u32> = state.owners.iter().copied().filter(|owner| *owner != NOBODY).collect();
        (owners.len() == state.used as usize).then_some(owners)
    }

    /// Extents that hold slots of this size.
    pub fn extents_of(&self, slot_pages: u32) -> u32 {
        self.owned.get(&slot_pages).copied().unwrap_or(0)
    }

    /// Slot sizes in use, with the extents each holds.
    pub fn sizes(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.owned.iter().map(|(pages, extents)| (*pages, *extents))
    }

    /// All extents.
    pub fn extent_count(&self) -> u32 {
        self.extents.len() as u32
    }

    /// True when a slot of this size can be taken without eviction.
    pub fn has_room(&self, slot_pages: u32) -> bool {
        self.has_idle() || self.open.get(&slot_pages).is_some_and(|extents| !extents.is_empty())
    }

    /// True when an extent holds no slot at all.
    pub fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// The extent in which a slot lies.
    pub fn extent_of(&self, at: SlotIndex) -> u32 {
        at.0 / self.extent_pages
    }

    /// Bytes of the medium.
    pub fn capacity_bytes(&self) -> u64 {
        self.config.capacity_bytes
    }

    /// Bytes of slots taken.
    pub fn used_bytes(&self) -> u64 {
        self.used_pages * PAGE_BYTES
    }

    fn adopt(&mut self, extent: u32, slot_pages: u32) {
        self.idle.remove(&extent);
        let slots = self.slots_per_extent(slot_pages);
        let words = slots.div_ceil(u64::BITS) as usize;
        self.extents[extent as usize] =
            Extent { slot_pages, used: 0, taken: vec![0; words], first_open: 0, owners: vec![NOBODY; slots as usize] };
        self.open.entry(slot_pages).or_default().insert(extent);
        self.count_owned(slot_pages, 1);
    }

    fn count_owned(&mut self, slot_pages: u32, change: i32) {
        let owned = self.owned.entry(slot_pages).or_default();
        *owned = owned.checked_add_signed(change).expect("extents are owned before they are released");
        if *owned == 0 {
            self.owned.remove(&slot_pages);
            self.open.remove(&slot_pages);
        }
    }

    fn count_taken(&mut self, extent: u32, slot_pages: u32) {
        let most = self.slots_per_extent(slot_pages);
        self.used_pages += u64::from(slot_pages);
        let state = &mut self.extents[extent as usize];
        state.used += 1;
        if state.used == most {
            self.open.entry(slot_pages).or_default().remove(&extent);
        }
    }

    fn index_of(&self, extent: u32, slot: u32, slot_pages: u32) -> SlotIndex {
        SlotIndex(extent * self.extent_pages + 1 + slot * slot_pages)
    }

    fn locate(&self, at: SlotIndex, slot_pages: u32) -> Option<(u32, u32)> {
        let extent = self.extent_of(at);
        let page = (at.0 % self.extent_pages).checked_sub(1)?;
        let slot = page / slot_pages;
        let fits = page.is_multiple_of(slot_pages) && slot < self.slots_per_extent(slot_pages) && extent < self.extent_count();
        fits.then_some((extent, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(extents: u64) -> SlotSpace {
        SlotSpace::new(SpaceConfig { capacity_bytes: extents * 16 * PAGE_BYTES, extent_bytes: 16 * PAGE_BYTES })
    }

    #[test]
    fn slots_never_overlap_and_all_come_back() {
        let mut space = space(4);
        let taken: Vec<SlotIndex> = std::iter::from_fn(|| space.take(5)).collect();
        assert_eq!(taken.len(), 12, "three slots of five pages in each extent of sixteen");
        let mut pages: Vec<u32> = taken.iter().flat_map(|slot| slot.0..slot.0 + 5).collect();
        pages.sort();
        pages.dedup();
        assert_eq!(pages.len(), 60);
        taken.iter().for_each(|slot| space.give_back(*slot, 5));
        assert_eq!(space.used_bytes(), 0);
        assert_eq!(space.extents_of(5), 0);
    }

    #[test]
    fn an_empty_extent_serves_another_size() {
        let mut space = space(1);
        let slot = space.take(5).unwrap();
        assert_eq!(space.take(3), None, "the only extent holds slots of five pages");
        space.give_back(slot, 5);
        assert!(space.take(3).is_some());
    }

    #[test]
    fn a_claimed_slot_is_taken_once() {
        let mut space = space(2);
        let slot = SlotIndex(1 + 5 * 2);
        assert!(space.claim(slot, 5));
        assert!(!space.claim(slot, 5));
        assert!(!space.claim(SlotIndex(2), 5), "not the start of a slot");
        assert!(!space.claim(SlotIndex(1), 3), "the extent holds another size");
        let others: Vec<SlotIndex> = std::iter::from_fn(|| space.take(5)).collect();
        assert_eq!(others.len(), 5);
        assert!(!others.contains(&slot));
    }

    #[test]
    fn a_slot_larger_than_an_extent_is_never_granted() {
        assert_eq!(space(4).take(16), None);
    }
}
