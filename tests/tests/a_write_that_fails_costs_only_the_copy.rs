//! A full or broken disk is not the arena's business.

use kvd_block::{BlockState, LoadGrant, SessionId, TierKind};
use kvd_ledger::WriteResult;
use kvd_tests::desk::{Desk, SMALL, own_chain};

#[test]
fn a_write_that_fails_costs_only_the_copy() {
    let engine = SessionId(1);
    let mut desk = Desk::with(2, 2, |config| config.write_pause_ms = 50);
    let (first, second) = (own_chain(1, 1), own_chain(2, 1));
    desk.store(engine, SMALL, &first);
    desk.end_writes(WriteResult::Failed);

    assert_eq!(desk.lookup(&first), [BlockState::Cpu]);
    assert!(matches!(desk.prepare_load(engine, &first, 0).1[..], [LoadGrant::Ready(_)]));
    assert_eq!(desk.used_bytes(TierKind::Nvme), 0, "the slot on NVMe is free again");

    desk.store(engine, SMALL, &second);
    assert_eq!(desk.writes, [], "nothing is written while the disk is given a rest");
    desk.wait(50);
    assert_eq!(desk.writes.len(), 2, "then what was stored meanwhile is, and the first block, because a request found it");
}
