//! Rot costs a miss: first the copy that rotted, then the one below it, then the block is gone.

use kvd_block::{BlockState, LoadGrant, ResidencyEdge, SessionId};
use kvd_ledger::{ReadResult, WriteResult};
use kvd_tests::desk::{Desk, SMALL, own_chain};

#[test]
fn a_corrupt_image_is_dropped_and_missed() {
    let engine = SessionId(1);
    let mut desk = Desk::new(2, 2);
    let blocks = own_chain(1, 1);
    desk.store(engine, SMALL, &blocks);
    desk.end_writes(WriteResult::Written);

    let (lease, _) = desk.prepare_load(engine, &blocks, 0);
    desk.complete_load(engine, lease, &[0]);
    assert_eq!(desk.lookup(&blocks), [BlockState::Nvme], "the next tier may have it");

    assert_eq!(desk.prepare_load(engine, &blocks, 0).1, [LoadGrant::Staging]);
    desk.end_reads(ReadResult::Corrupt);
    assert_eq!(desk.notices[0].missing, [0]);
    assert_eq!(desk.lookup(&blocks), [BlockState::Miss]);
    assert_eq!(desk.events.iter().filter(|edge| matches!(edge, ResidencyEdge::Removed { .. })).count(), 2);
    assert_eq!(desk.ledger.counters().corrupt, 2);
}
