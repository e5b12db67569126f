//! What was there before: catalog rows, images found by a scan, an arena handed over.

use crate::input::{Action, CatalogRow};
use crate::machine::Ledger;
use kvd_block::TierKind;

impl Ledger {
    /// Takes rows in any order. A row that cannot be true (unknown layout, a slot that is taken or impossible) is
    /// dropped: its image, if there is one, is overwritten some day.
    pub(crate) fn recover(&mut self, tier: TierKind, rows: Vec<CatalogRow>, actions: &mut Vec<Action>) {
        for row in rows {
            if !self.recover_row(tier, row) && tier == TierKind::Nvme {
                let still_there = self.records.find(row.key).is_some_and(|index| self.records[index].resident.contains(tier));
                if !still_there {
                    actions.push(Action::CatalogDelete(row.key));
                }
            }
        }
    }

    fn recover_row(&mut self, tier: TierKind, row: CatalogRow) -> bool {
        let Some(facts) = self.layouts.get(&row.key.layout).copied() else { return false };
        let busy = |ledger: &Ledger| {
            ledger.records.find(row.key).is_some_and(|index| {
                let record = &ledger.records[index];
                record.resident.contains(tier) || record.in_use()
            })
        };
        if busy(self) || !self.tier(tier).is_some_and(|state| state.space.claim(row.address, facts.slot_pages)) {
            return false;
        }
        let index = self.records.find_or_create(row.key);
        self.records.place(index, row.parent, row.route, row.position);
        let stamp = self.next_stamp();
        self.records[index].slots[tier as usize] = row.address;
        self.tier(tier).expect("seen above").space.set_owner(row.address, facts.slot_pages, Some(index.number() as u32));
        if self.records[index].listed.is_empty() {
            self.records[index].stamp = stamp;
        }
        self.mark_resident(index, tier);
        if tier == TierKind::Cpu {
            self.offload_later(index);
        }
        true
    }
}
