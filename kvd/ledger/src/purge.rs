//! Forgetting blocks on purpose: purge, and images found corrupt.

use crate::input::Action;
use crate::machine::Ledger;
use crate::record::BlockIndex;
use kvd_block::{BlockKey, LayoutHandle, SlotIndex, TierKind};

impl Ledger {
    /// Forgets every block of a layout, or all. What is in use is not found any more and goes when it is released.
    pub(crate) fn purge(&mut self, layout: Option<LayoutHandle>, actions: &mut Vec<Action>) {
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
                actions.push(Action::Erase(record.slot(TierKind::Nvme)));
            }
            for tier in TierKind::ALL {
                self.drop_if_unused(index, tier, actions);
            }
            self.records[index].doomed = false;
        }
        self.relist(index);
        self.records.release(index);
    }

    /// Forgets an image that does not match, unless the block has moved or is being read right now: its readers will find out
    /// themselves.
    pub(crate) fn found_corrupt(&mut self, key: BlockKey, tier: TierKind, address: SlotIndex, actions: &mut Vec<Action>) {
        let Some(index) = self.records.find(key) else { return };
        if !self.records[index].resident.contains(tier) || self.records[index].slot(tier) != address {
            return;
        }
        self.counters.corrupt += 1;
        self.drop_if_unused(index, tier, actions);
        self.records.release(index);
    }
}
