//! A chain whose end is in use has no leaf to evict, but its beginning can be read again from NVMe.

use kvd_block::{LoadGrant, SessionId};
use kvd_ledger::{ReadResult, WriteResult};
use kvd_tests::desk::{Desk, SMALL, own_chain};

#[test]
fn a_load_longer_than_the_arena_goes_on() {
    let engine = SessionId(1);
    let mut desk = Desk::new(1, 4);
    let chain = own_chain(1, 8);
    for part in chain.chunks(2) {
        desk.store(engine, SMALL, part);
        desk.end_writes(WriteResult::Written);
    }
    desk.push_out(&chain);

    let mut held = None;
    for part in chain.chunks(2) {
        let (lease, grants) = desk.prepare_load(engine, part, 0);
        assert_eq!(grants, [LoadGrant::Staging; 2]);
        desk.end_reads(ReadResult::Read);
        let notices = std::mem::take(&mut desk.notices);
        let ready: usize = notices.iter().map(|notice| notice.ready.len()).sum();
        let missing: usize = notices.iter().map(|notice| notice.missing.len()).sum();
        assert_eq!((ready, missing), (2, 0), "an arena of four slots takes eight blocks in turn");
        if let Some(lease) = held.replace(lease) {
            desk.complete_load(engine, lease, &[]);
        }
    }
}
