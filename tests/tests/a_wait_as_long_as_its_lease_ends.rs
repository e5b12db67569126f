//! Regression, seed 5: a load that may wait as long as its lease lives was never told that its time was over.

use kvd_block::SessionId;
use kvd_ledger::WriteResult;
use kvd_tests::desk::{Desk, LOAD_LEASE_MS, Notice, SMALL, own_chain};

#[test]
fn a_wait_as_long_as_its_lease_ends() {
    for (wait_ms, looked_after_ms) in [(LOAD_LEASE_MS, LOAD_LEASE_MS), (2 * LOAD_LEASE_MS, 2 * LOAD_LEASE_MS), (10, 5 * LOAD_LEASE_MS)] {
        let mut desk = Desk::new(1, 4);
        let blocks = own_chain(1, 1);
        desk.store(SessionId(1), SMALL, &blocks);
        desk.end_writes(WriteResult::Written);
        desk.push_out(&blocks);
        let (lease, _) = desk.prepare_load(SessionId(1), &blocks, wait_ms);

        desk.wait(looked_after_ms);

        assert_eq!(desk.notices, [Notice { lease, ready: vec![], missing: vec![0] }]);
    }
}

#[test]
fn seed_5() {
    kvd_tests::sim::run(5);
}
