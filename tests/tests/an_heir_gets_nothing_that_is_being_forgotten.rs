//! Blocks that were purged while in use are still in the arena, and must not come back to life in the daemon that takes it over.

use kvd_block::SessionId;
use kvd_ledger::Input;
use kvd_tests::desk::{Desk, SMALL, own_chain};

#[test]
fn an_heir_gets_nothing_that_is_being_forgotten() {
    let mut desk = Desk::new(2, 2);
    desk.store(SessionId(1), SMALL, &own_chain(1, 2));
    assert_eq!(desk.writes.len(), 2, "both are being written to NVMe");
    assert_eq!(desk.ledger.inheritance().count(), 2);
    desk.tell(Input::Purge { layout: None, generation: 1 });
    assert_eq!(desk.ledger.inheritance().count(), 0);
}
