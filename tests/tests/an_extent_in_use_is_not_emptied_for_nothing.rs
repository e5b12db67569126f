//! Another slot size may take an extent only when all of it can go. A slot of a late store belongs to no block, and still counts.

use kvd_block::{BlockState, SessionId, StoreGrant};
use kvd_tests::desk::{Desk, LARGE, LOAD_LEASE_MS, SMALL, own_chain};

#[test]
fn an_extent_in_use_is_not_emptied_for_nothing() {
    let (slow, other) = (SessionId(1), SessionId(2));
    let mut desk = Desk::new(1, 0);
    desk.prepare_store(slow, SMALL, &own_chain(1, 1));
    let blocks = own_chain(2, 3);
    desk.store(other, SMALL, &blocks);
    // The lease of the slow engine loses its block, but the engine may still be copying.
    desk.wait(2 * LOAD_LEASE_MS);
    assert_eq!(desk.prepare_store(other, LARGE, &own_chain(3, 1)).1, [StoreGrant::Busy]);
    assert_eq!(desk.lookup(&blocks), [BlockState::Cpu; 3], "evicting them frees no extent");
}
