//! A purged block is found by nobody at once, and its slot is free when its last reader is done.

use kvd_block::{BlockState, LoadGrant, SessionId, StoreGrant, TierKind};
use kvd_ledger::Input;
use kvd_tests::desk::{Desk, SMALL, own_chain};

#[test]
fn a_purge_waits_for_readers() {
    let engine = SessionId(1);
    let mut desk = Desk::new(1, 0);
    let blocks = own_chain(1, 2);
    desk.store(engine, SMALL, &blocks);
    let (lease, _) = desk.prepare_load(engine, &blocks[..1], 0);

    desk.tell(Input::Purge { layout: Some(SMALL), generation: 1 });

    assert_eq!(desk.lookup(&blocks), [BlockState::Miss; 2]);
    assert_eq!(desk.used_bytes(TierKind::Cpu), 2 * kvd_block::PAGE_BYTES, "one slot is being read");
    assert_eq!(desk.prepare_load(engine, &blocks, 0).1, [LoadGrant::Miss; 2]);
    desk.complete_load(engine, lease, &[]);
    assert_eq!(desk.used_bytes(TierKind::Cpu), 0);
    let grants = desk.prepare_store(engine, SMALL, &blocks).1;
    assert!(grants.iter().all(|grant| matches!(grant, StoreGrant::Write(_))), "it may be stored anew: {grants:?}");
}
