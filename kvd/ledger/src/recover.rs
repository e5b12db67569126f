//! What was there before: catalog rows, images found by a scan, an arena handed over.

use crate::input::{Action, CatalogRow};
use crate::machine::Ledger;
use kvd_block::{BlockKey, TierKind};

impl Ledger {
    /// Takes rows in any order. A row that cannot be true (unknown layout, a slot that is taken or impossible) is
    /// dropped: its image, if there is one, is overwritten some day.
    pub(crate) fn recover(&mut self, tier: TierKind, rows: Vec<CatalogRow>, actions: &mut Vec<Action>) {
        for row in rows {
            let taken = self.recover_row(tier, row);
            if tier == TierKind::Nvme {
                self.mend_row(row.key, taken, actions);
            }
        }
    }

    /// The catalog has the row of a block that came last, or none when one of them was refused: it must mean what the ledger took.
    fn mend_row(&mut self, key: BlockKey, taken: bool, actions: &mut Vec<Action>) {
        let known = self.records.find(key).map(|index| &self.records[index]).filter(|record| record.resident.contains(TierKind::Nvme));
        match known {
            Some(record) if !taken || self.refused.contains(&key) => {
                actions.push(Action::CatalogPut(record.row(record.slot(TierKind::Nvme))));
            }
            Some(_) => {}
            None => {
                self.refused.insert(key);
                actions.push(Action::CatalogDelete(key));
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
        self.records.place(index, row.parent, row.local, row.position);
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
