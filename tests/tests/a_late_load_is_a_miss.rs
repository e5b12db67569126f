//! An engine waits for storage as long as it said, and no longer.

use kvd_block::{BlockState, LoadGrant, SessionId};
use kvd_ledger::{ReadResult, WriteResult};
use kvd_tests::desk::{Desk, Notice, SMALL, own_chain};

#[test]
fn a_late_load_is_a_miss() {
    let mut desk = Desk::new(1, 4);
    let blocks = own_chain(1, 1);
    desk.store(SessionId(1), SMALL, &blocks);
    desk.end_writes(WriteResult::Written);
    desk.push_out(&blocks);
    let (lease, grants) = desk.prepare_load(SessionId(1), &blocks, 20);
    assert_eq!(grants, [LoadGrant::Staging]);

    desk.wait(19);
    assert_eq!(desk.notices, []);
    desk.wait(1);

    assert_eq!(desk.notices, [Notice { lease, ready: vec![], missing: vec![0] }]);
    desk.end_reads(ReadResult::Read);
    assert_eq!(desk.notices.len(), 1, "nobody waits any more");
    assert_eq!(desk.lookup(&blocks), [BlockState::Cpu], "the read was not in vain");
}
