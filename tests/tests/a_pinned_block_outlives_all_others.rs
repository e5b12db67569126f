//! Whoever pins a block finds it again, in some tier, until the pin is over.

use kvd_block::{BlockState, RequestId, SessionId};
use kvd_ledger::Input;
use kvd_tests::desk::{Desk, SMALL, names, own_chain};

#[test]
fn a_pinned_block_outlives_all_others() {
    let engine = SessionId(1);
    let mut desk = Desk::new(1, 0);
    let kept = own_chain(1, 1);
    desk.store(engine, SMALL, &kept);
    desk.tell(Input::Pin { session: engine, request: RequestId(9), layout: SMALL, keys: names(&kept), ttl_ms: 30 });
    let store_five = |desk: &mut Desk, from: u8| (from..from + 5).for_each(|chain| desk.store(engine, SMALL, &own_chain(chain, 1)));

    store_five(&mut desk, 10);
    assert_eq!(desk.lookup(&kept), [BlockState::Cpu]);
    desk.wait(30);
    store_five(&mut desk, 20);
    assert_eq!(desk.lookup(&kept), [BlockState::Miss]);
}
