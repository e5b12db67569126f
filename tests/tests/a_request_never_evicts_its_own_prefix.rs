//! Making room for the end of a prompt never takes the beginning of it: the end would be useless.

use kvd_block::{BlockState, SessionId, StoreGrant};
use kvd_ledger::Eviction;
use kvd_tests::desk::{Desk, SMALL, own_chain};

#[test]
fn a_prompt_larger_than_the_arena_keeps_its_beginning() {
    for eviction in Eviction::ALL.into_iter().filter(|eviction| *eviction != Eviction::Lru) {
        let mut desk = Desk::with(1, 0, |config| config.arena_eviction = eviction);
        let prompt = own_chain(1, 30);
        desk.store(SessionId(1), SMALL, &prompt[..2]);
        desk.wait(1_000);
        desk.lookup(&prompt);
        let (lease, grants) = desk.prepare_store(SessionId(1), SMALL, &prompt[2..]);
        assert_eq!(grants.last(), Some(&StoreGrant::Busy), "{eviction:?}: it does not fit");
        desk.complete_store(SessionId(1), SMALL, lease, grants.iter().filter(|grant| matches!(grant, StoreGrant::Write(_))).count());
        assert_eq!(desk.lookup(&prompt)[..2], [BlockState::Cpu; 2], "{eviction:?}");
    }
}
