//! Which block goes when a slot is needed.
//!
//! Each tier has a [`Policy`], and lists the blocks that may be evicted from it in the order the policy wants ([`lists`]). What
//! is in use or pinned is in no list. Making room never evicts the parent of the block it is made for.

pub(crate) mod density;
mod extents;
pub(crate) mod lists;
mod parents;
pub(crate) mod policy;
mod retain;

use crate::input::Action;
use crate::machine::Ledger;
use crate::record::{BlockIndex, last_use};
use density::{History, SAME_USE_MS};
use kvd_block::{SlotIndex, TierKind};
use lists::{Head, Place};
use policy::Policy;

/// What touches a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// A new request asks for it.
    Asked,
    /// A request that has asked goes on.
    Served,
}

impl Ledger {
    /// Puts a block into, or takes it out of, the lists of all tiers, as its state demands.
    pub(crate) fn relist(&mut self, index: BlockIndex) {
        for tier in TierKind::ALL {
            let (listed, wanted) = (self.records[index].listed.contains(tier), self.evictable(index, tier));
            if listed != wanted {
                let place = self.place_of(index, tier);
                let lists = &mut self.tiers[tier as usize].as_mut().expect("resident tiers exist").lists;
                if wanted {
                    lists.insert(place, index);
                    self.records[index].listed.insert(tier);
                } else {
                    lists.remove(place, index);
                    self.records[index].listed.remove(tier);
                }
            }
        }
    }

    /// Takes a block out of all lists, before something changes that they are ordered by.
    pub(crate) fn unlist(&mut self, index: BlockIndex) {
        for tier in TierKind::ALL {
            if self.records[index].listed.contains(tier) {
                let place = self.place_of(index, tier);
                self.tiers[tier as usize].as_mut().expect("listed tiers exist").lists.remove(place, index);
                self.records[index].listed.remove(tier);
            }
        }
    }

    /// Where a block of `tier` stands while it is listed.
    pub(crate) fn place_of(&self, index: BlockIndex, tier: TierKind) -> Place {
        let record = &self.records[index];
        let policy = &self.tiers[tier as usize].as_ref().expect("the tier exists").policy;
        Place {
            slot_pages: self.slot_pages(index),
            priority: record.priority,
            queue: policy.queue(tier, record),
            order: policy.order(index, record),
        }
    }

    pub(crate) fn evictable(&self, index: BlockIndex, tier: TierKind) -> bool {
        let has_children = self.records[index].children[tier as usize] > 0;
        self.removable(index, tier) && !(has_children && self.tiers[tier as usize].as_ref().is_some_and(|state| state.policy.leaves_only()))
    }

    pub(super) fn removable(&self, index: BlockIndex, tier: TierKind) -> bool {
        let record = &self.records[index];
        let elsewhere = TierKind::ALL.into_iter().any(|other| other > tier && record.resident.contains(other));
        record.resident.contains(tier) && !record.doomed && !record.used_in(tier) && (elsewhere || !self.pinned.contains(index))
    }

    /// Marks a use: the block becomes the most recently used one.
    pub(crate) fn touch(&mut self, index: BlockIndex, how: Use) {
        let was_listed = !self.records[index].listed.is_empty();
        if was_listed {
            self.unlist(index);
        }
        let pause_ms = self.now.since_ms(last_use(self.records[index].stamp));
        let reused = how == Use::Asked && pause_ms >= SAME_USE_MS;
        let stamp = self.next_stamp();
        let record = &mut self.records[index];
        record.stamp = stamp;
        if reused {
            record.history = record.history.used_again(pause_ms);
            self.count_use(index);
            self.learn_use(index);
        }
        if self.orders_uses {
            let record = &self.records[index];
            self.tiers.iter_mut().flatten().for_each(|state| state.policy.used(index, record));
        }
        if was_listed {
            self.relist(index);
        }
    }

    /// Notes that a request brings a block that is not here, and recalls what is known of it.
    pub(crate) fn meet(&mut self, index: BlockIndex) {
        let record = &self.records[index];
        let pause_ms = self.now.since_ms(last_use(record.stamp));
        let name = record.key.hash.table_hash();
        let history = match self.density.as_ref().filter(|_| record.stamp == 0).and_then(|density| density.recall(self.now, name)) {
            Some((history, pause_ms)) => history.used_again(pause_ms),
            None if record.stamp == 0 => self.history_of_parent(index).map_or(History::default(), History::of_child),
            None if pause_ms < SAME_USE_MS => record.history,
            None => record.history.used_again(pause_ms),
        };
        let stamp = self.next_stamp();
        let record = &mut self.records[index];
        (record.history, record.stamp) = (history, stamp);
        self.count_use(index);
        self.learn_use(index);
    }

    fn history_of_parent(&self, index: BlockIndex) -> Option<History> {
        let parent = &self.records[self.records[index].parent?];
        let recalled = || self.density.as_ref()?.recall(self.now, parent.key.hash.table_hash()).map(|(history, _)| history);
        if parent.stamp == 0 { recalled() } else { Some(parent.history) }
    }

    fn learn_use(&mut self, index: BlockIndex) {
        let blocks = self.most_blocks();
        let Some(density) = &mut self.density else { return };
        let record = &self.records[index];
        let (name, resident) = (record.key.hash.table_hash(), record.resident);
        density.used(self.now, name, record.history.class(), blocks);
        for (tier, state) in TierKind::ALL.into_iter().zip(&mut self.tiers) {
            if let Some(state) = state
                && let Policy::Density(rival) = &mut state.policy
            {
                let hit = resident.fastest().is_some_and(|fastest| fastest <= tier);
                rival.used(name, hit, state.blocks, state.was_full);
            }
        }
    }

    /// Keeps what is known of a block that is nowhere any more.
    pub(crate) fn remember(&mut self, index: BlockIndex) {
        let blocks = self.most_blocks();
        let record = &self.records[index];
        if let Some(density) = &mut self.density {
            density.forget(record.key.hash.table_hash(), record.history, last_use(record.stamp), blocks);
        }
    }

    fn most_blocks(&self) -> u64 {
        self.tiers.iter().flatten().map(|state| state.blocks).max().unwrap_or(0)
    }

    /// A slot of `tier` for a block, evicting what must go; `None` when everything is in use.
    pub(crate) fn obtain_slot(&mut self, tier: TierKind, index: BlockIndex, actions: &mut Vec<Action>) -> Option<SlotIndex> {
        let slot_pages = self.slot_pages(index);
        let state = self.tier(tier)?;
        if let Some(slot) = state.space.take(slot_pages) {
            state.space.set_owner(slot, slot_pages, Some(index.number() as u32));
            return Some(slot);
        }
        if state.space.slots_per_extent(slot_pages) == 0 {
            return None;
        }
        state.was_full = true;
        let victim = self.victim(tier, index);
        if !(victim.is_none() || self.is_short(tier, slot_pages)) || !self.take_extent(tier, slot_pages, index, actions) {
            let victim = match victim {
                Some(victim) => victim.index,
                None => self.parent_to_evict(tier, index)?,
            };
            self.evict(victim, tier, actions);
        }
        let state = self.tier(tier).expect("seen above");
        let slot = state.space.take(slot_pages)?;
        state.space.set_owner(slot, slot_pages, Some(index.number() as u32));
        Some(slot)
    }

    /// The block to evict from `tier` to make room for `index`: never its parent.
    pub(crate) fn victim(&mut self, tier: TierKind, index: BlockIndex) -> Option<Head> {
        let (slot_pages, parent) = (self.slot_pages(index), self.records[index].parent);
        let state = self.tiers[tier as usize].as_mut()?;
        let (lists, policy) = (&state.lists, &mut state.policy);
        let spared = parent.filter(|_| policy.leaves_only());
        lists.of_size(slot_pages).find_map(|(_, queues)| policy.choose(self.now, queues, spared, self.density.as_deref()))
    }

    pub(crate) fn evict(&mut self, index: BlockIndex, tier: TierKind, actions: &mut Vec<Action>) {
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
