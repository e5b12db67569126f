//! A scan finds a block twice when an older image of it was never overwritten. The catalog and the ledger must mean the same one.
//!
//! Seeds 154 and 791 of the simulation found it: the catalog kept the row that came last, the ledger the one that came first.

use kvd_block::{LocalHash, SequenceHash, SlotIndex, Tick, TierKind};
use kvd_ledger::{Action, CatalogRow, Input};
use kvd_tests::desk::{Desk, SMALL, key, own_chain};

#[test]
fn two_images_of_one_block_leave_one_row() {
    let mut desk = Desk::new(1, 1);
    let key = key(SMALL, &own_chain(1, 1)[0]);
    let at = |page| CatalogRow { key, address: SlotIndex(page), parent: SequenceHash::ROOT, local: LocalHash(0), position: 0 };
    let mut actions = Vec::new();
    desk.ledger.step(Tick(1), Input::Recovered { tier: TierKind::Nvme, rows: vec![at(1), at(3)] }, &mut actions);
    assert_eq!(actions, [Action::CatalogPut(at(1))]);
    assert_eq!(desk.ledger.resident(TierKind::Nvme).collect::<Vec<_>>(), [at(1)]);
}

#[test]
fn a_row_refused_before_another_was_taken_does_not_delete_it() {
    let mut desk = Desk::new(1, 1);
    let key = key(SMALL, &own_chain(1, 1)[0]);
    let at = |page| CatalogRow { key, address: SlotIndex(page), parent: SequenceHash::ROOT, local: LocalHash(0), position: 0 };
    let mut actions = Vec::new();
    for rows in [vec![at(2)], vec![at(3)]] {
        desk.ledger.step(Tick(1), Input::Recovered { tier: TierKind::Nvme, rows }, &mut actions);
    }
    assert_eq!(actions, [Action::CatalogDelete(key), Action::CatalogPut(at(3))], "page 2 is no slot; page 3 is");
}

#[test]
fn seeds_154_791_and_6871() {
    for seed in [154, 791, 6871] {
        kvd_tests::sim::run(seed);
    }
}
