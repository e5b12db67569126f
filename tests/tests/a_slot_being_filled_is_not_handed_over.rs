//! Who hands over the arena asks for the slots that engines may be writing to: overdue ones, and those in time as well.

use kvd_block::{SessionId, StoreGrant};
use kvd_tests::desk::{Desk, LOAD_LEASE_MS, SMALL, own_chain};

#[test]
fn a_slot_being_filled_is_not_handed_over() {
    let mut desk = Desk::new(1, 0);
    let (lease, grants) = desk.prepare_store(SessionId(1), SMALL, &own_chain(1, 1));
    let [StoreGrant::Write(slot)] = grants[..] else { panic!("{grants:?}") };
    assert_eq!(desk.ledger.slots_being_filled(), [slot]);
    desk.wait(3 * LOAD_LEASE_MS);
    assert_eq!(desk.ledger.slots_being_filled(), [slot]);
    desk.complete_store(SessionId(1), SMALL, lease, 1);
    assert_eq!(desk.ledger.slots_being_filled(), []);
}
