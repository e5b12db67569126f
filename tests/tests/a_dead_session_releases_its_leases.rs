//! A crashed engine leaves nothing behind.

use kvd_block::{SessionId, StoreGrant};
use kvd_ledger::Input;
use kvd_tests::desk::{Desk, SMALL, own_chain};

#[test]
fn a_dead_session_releases_its_leases() {
    let (dead, alive) = (SessionId(1), SessionId(2));
    let mut desk = Desk::new(1, 0);
    let (read, filled) = (own_chain(1, 1), own_chain(2, 3));
    desk.store(alive, SMALL, &read);
    desk.prepare_load(dead, &read, 0);
    desk.prepare_store(dead, SMALL, &filled);
    let busy = desk.prepare_store(alive, SMALL, &own_chain(3, 1)).1;
    assert_eq!(busy, [StoreGrant::Busy], "all four slots are in use");

    desk.tell(Input::CloseSession { session: dead });

    assert_eq!(desk.ledger.open_leases(), 0);
    let grants = desk.prepare_store(alive, SMALL, &filled).1;
    assert!(grants.iter().all(|grant| matches!(grant, StoreGrant::Write(_))), "{grants:?}");
}
