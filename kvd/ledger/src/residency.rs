//! Gaining and losing a tier: the only places where residency changes, so each change is published exactly once.

use crate::input::Action;
use crate::machine::{LayoutFacts, Ledger};
use crate::record::BlockIndex;
use kvd_block::{ResidencyEdge, SlotIndex, TierKind};

impl Ledger {
    /// The block can be read from `tier`, where its slot is recorded already.
    pub(crate) fn gain(&mut self, index: BlockIndex, tier: TierKind, actions: &mut Vec<Action>) {
        self.mark_resident(index, tier);
        let record = &self.records[index];
        if tier == TierKind::Nvme {
            actions.push(Action::CatalogPut(record.row(record.slot(tier))));
        }
        actions.push(Action::Publish(ResidencyEdge::Stored {
            key: record.key,
            tier,
            parent: record.parent_hash,
            local: record.local,
            position: record.position,
        }));
    }

    /// As [`Ledger::gain`], without telling anyone: for what was there before this daemon.
    pub(crate) fn mark_resident(&mut self, index: BlockIndex, tier: TierKind) {
        let added = self.records[index].resident.insert(tier);
        assert!(added, "a tier is gained once");
        let stamp = self.next_stamp();
        let state = self.tiers[tier as usize].as_mut().expect("the tier exists");
        state.blocks += 1;
        state.policy.entered(index, &self.records[index], stamp);
        self.layout_of(index).blocks[tier as usize] += 1;
        if let Some(parent) = self.records[index].parent {
            self.records[parent].children[tier as usize] += 1;
            self.relist(parent);
        }
        self.relist(index);
    }

    /// The block can no longer be read from `tier`; its slot there is free again.
    pub(crate) fn lose(&mut self, index: BlockIndex, tier: TierKind, actions: &mut Vec<Action>) {
        let key = self.records[index].key;
        let (slot, pages) = self.forget(index, tier, actions);
        if tier == TierKind::Nvme {
            actions.push(Action::CatalogDelete(key));
        }
        self.tier(tier).expect("the tier exists").space.give_back(slot, pages);
    }

    /// The block can no longer be read from `tier`. Its slot there, with its pages, stays taken, and its row is the caller's.
    pub(crate) fn forget(&mut self, index: BlockIndex, tier: TierKind, actions: &mut Vec<Action>) -> (SlotIndex, u32) {
        let pages = self.slot_pages(index);
        let record = &mut self.records[index];
        let had = record.resident.remove(tier);
        assert!(had, "a tier is lost once");
        let is_nowhere = record.resident.is_empty();
        let (key, slot, parent) = (record.key, record.slot(tier), record.parent);
        self.relist(index);
        if is_nowhere {
            self.pinned.remove(index);
            self.end_priority(index);
            self.remember(index);
        }
        self.tier(tier).expect("the tier exists").blocks -= 1;
        self.layout_of(index).blocks[tier as usize] -= 1;
        actions.push(Action::Publish(ResidencyEdge::Removed { key, tier }));
        if let Some(parent) = parent {
            self.records[parent].children[tier as usize] -= 1;
            self.relist(parent);
        }
        (slot, pages)
    }

    fn layout_of(&mut self, index: BlockIndex) -> &mut LayoutFacts {
        self.layouts.get_mut(&self.records[index].key.layout).expect("blocks are of layouts that were defined")
    }

    /// Forgets a block's image in `tier` if nothing uses it there. False when something does.
    pub(crate) fn drop_if_unused(&mut self, index: BlockIndex, tier: TierKind, actions: &mut Vec<Action>) -> bool {
        let record = &self.records[index];
        if record.used_in(tier) || !record.resident.contains(tier) {
            return false;
        }
        self.lose(index, tier, actions);
        true
    }
}
