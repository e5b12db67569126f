//! A purged block in use keeps its image on NVMe until the use ends; making room must not take the slot away unerased.
//!
//! Seed 130 of the simulation found it.

use kvd_block::{SessionId, TierKind};
use kvd_ledger::{Input, WriteResult};
use kvd_tests::desk::{Desk, SMALL, own_chain};

#[test]
fn a_purged_image_is_erased_not_evicted() {
    let (reader, other) = (SessionId(1), SessionId(2));
    let mut desk = Desk::new(3, 1);
    let blocks = own_chain(1, 1);
    desk.store(reader, SMALL, &blocks);
    desk.end_writes(WriteResult::Written);
    let (lease, _) = desk.prepare_load(reader, &blocks, 0);
    desk.tell(Input::Purge { layout: None, generation: 1 });
    // Four slots are on NVMe; the fifth block would take the purged one's.
    for chain in 2..7 {
        desk.store(other, SMALL, &own_chain(chain, 1));
        desk.end_writes(WriteResult::Written);
    }
    assert!(desk.erases.is_empty(), "it is still being read");
    desk.complete_load(reader, lease, &[]);
    assert_eq!(desk.erases.len(), 1);
    desk.end_erases(WriteResult::Written);
    assert_eq!(desk.ledger.totals(TierKind::Nvme).blocks, 3);
}

#[test]
fn seed_130() {
    kvd_tests::sim::run(130);
}
