//! However many engines ask for a block on NVMe, it is read once.

use kvd_block::{LoadGrant, SessionId};
use kvd_ledger::{ReadResult, WriteResult};
use kvd_tests::desk::{Desk, SMALL, own_chain};

#[test]
fn one_read_serves_all_who_wait() {
    let mut desk = Desk::new(1, 4);
    let blocks = own_chain(1, 1);
    desk.store(SessionId(1), SMALL, &blocks);
    desk.end_writes(WriteResult::Written);
    desk.push_out(&blocks);
    for session in [1, 2, 1].map(SessionId) {
        assert_eq!(desk.prepare_load(session, &blocks, 0).1, [LoadGrant::Staging]);
    }
    assert_eq!(desk.reads.len(), 1);

    let slot = desk.reads[0].slot;
    desk.end_reads(ReadResult::Read);

    assert_eq!(desk.notices.len(), 3);
    assert!(desk.notices.iter().all(|notice| notice.ready == [(0, slot)] && notice.missing.is_empty()));
}
