//! Forgetting blocks on purpose: purge, and images found corrupt.

use crate::input::Action;
use crate::machine::Ledger;
use crate::record::BlockIndex;
use kvd_block::{BlockKey, LayoutHandle, SlotIndex, TierKind};

impl Ledger {
    /// Forgets every block of a layout, or all. What is in use is not found any more and goes when it is released. What is stored
    /// from now on carries the new generation, so that images which no erase reaches are known for purged wherever they turn up.
    pub(crate) fn purge(&mut self, layout: Option<LayoutHandle>, generation: u64, actions: &mut Vec<Action>) {
        let purged = self.layouts.iter_mut().filter(|(handle, _)| layout.is_none_or(|layout| layout == **handle));
        purged.for_each(|(_, facts)| facts.generation = facts.generation.max(generation));
        actions.push(Action::CatalogPurge { layout, generation });
        let all: Vec<BlockIndex> = self.records.indices().collect();
        for index in all {
            let Some(record) = self.records.get(index) else { continue };
            let matches = layout.is_none_or(|layout| record.key.layout == layout);
            let ghost = record.resident.is_empty() && !record.in_use();
            if matches && !ghost {
                self.records[index].doomed = true;
                self.after_use(index, actions);
            }
        }
    }

    /// Called whenever a use of a block has ended: finishes a purge, and frees a record that nothing needs.
    pub(crate) fn after_use(&mut self, index: BlockIndex, actions: &mut Vec<Action>) {
        let record = &self.records[index];
        if record.doomed && !record.in_use() {
            if record.resident.contains(TierKind::Nvme) {
                self.erase_image(index, actions);
            }
            self.drop_if_unused(index, TierKind::Cpu, actions);
            (self.records[index].doomed, self.records[index].spoiled) = (false, false);
        } else if record.spoiled && self.drop_if_unused(index, TierKind::Cpu, actions) {
            self.records[index].spoiled = false;
        }
        self.relist(index);
        self.records.release(index);
    }

    /// The arena's image does not match. It is handed out no more, and gone when its last user leaves. An image on NVMe survives; one
    /// that is being written there is as bad as its source, and goes with it.
    pub(crate) fn spoil(&mut self, index: BlockIndex) {
        self.counters.corrupt += 1;
        let record = &mut self.records[index];
        if record.resident.contains(TierKind::Nvme) { record.spoiled = true } else { record.doomed = true }
    }

    /// Forgets an image that does not match, unless the block has moved since. An image on NVMe that is being read is left to those
    /// who read it: they find out themselves.
    pub(crate) fn found_corrupt(&mut self, key: BlockKey, tier: TierKind, address: SlotIndex, actions: &mut Vec<Action>) {
        let Some(index) = self.records.find(key) else { return };
        if !self.records[index].resident.contains(tier) || self.records[index].slot(tier) != address {
            return;
        }
        match tier {
            TierKind::Cpu => self.spoil(index),
            TierKind::Nvme => {
                self.counters.corrupt += 1;
                if !self.records[index].doomed {
                    self.drop_if_unused(index, tier, actions);
                }
            }
        }
        self.after_use(index, actions);
    }
}
