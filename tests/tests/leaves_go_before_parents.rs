//! A block without its parent is of no use, so a chain is shortened from its end.

use kvd_block::{BlockState, SessionId};
use kvd_tests::desk::{Desk, SMALL, own_chain};

#[test]
fn leaves_go_before_parents() {
    let engine = SessionId(1);
    let mut desk = Desk::new(1, 0);
    let chain = own_chain(1, 4);
    desk.store(engine, SMALL, &chain);
    // Used last, and still the first to go.
    desk.lookup(&chain[3..]);

    desk.store(engine, SMALL, &own_chain(2, 1));
    assert_eq!(desk.lookup(&chain), [BlockState::Cpu, BlockState::Cpu, BlockState::Cpu, BlockState::Miss]);
    desk.store(engine, SMALL, &own_chain(3, 1)[..1]);
    assert_eq!(desk.lookup(&chain[..2]), [BlockState::Cpu; 2]);
}
