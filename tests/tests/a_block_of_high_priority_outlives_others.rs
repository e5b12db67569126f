//! A priority orders what may be evicted, for a time.

use kvd_block::{BlockState, RequestId, SessionId};
use kvd_ledger::{Eviction, Input, LedgerReply};
use kvd_tests::desk::{Desk, SMALL, names, own_chain};

fn desk() -> Desk {
    Desk::with(1, 0, |config| config.arena_eviction = Eviction::Lineage)
}

fn retain(desk: &mut Desk, chain: u8, priority: u8, ttl_ms: u64) -> Option<LedgerReply> {
    let keys = names(&own_chain(chain, 1));
    desk.tell(Input::Retain { session: SessionId(1), request: RequestId(9), layout: SMALL, keys, priority, ttl_ms })
}

fn stored(chains: std::ops::Range<u8>) -> Desk {
    let mut desk = desk();
    chains.for_each(|chain| desk.store(SessionId(1), SMALL, &own_chain(chain, 1)));
    desk
}

#[test]
fn the_oldest_block_stays_while_its_priority_is_higher() {
    let mut desk = stored(0..3);
    assert_eq!(retain(&mut desk, 0, 90, 1_000), Some(LedgerReply::Pinned(1)));
    (10..30).for_each(|chain| desk.store(SessionId(2), SMALL, &own_chain(chain, 1)));
    assert_eq!(desk.lookup(&own_chain(0, 1)), [BlockState::Cpu]);
    assert_eq!(desk.lookup(&own_chain(1, 1)), [BlockState::Miss]);
}

#[test]
fn a_block_of_low_priority_goes_before_older_ones() {
    let mut desk = desk();
    let fits = (0..).take_while(|chain| {
        desk.store(SessionId(1), SMALL, &own_chain(*chain, 1));
        desk.ledger.counters().evicted_cpu == 0
    });
    let newest = fits.last().expect("some block fits");
    retain(&mut desk, newest, 10, 1_000);
    desk.store(SessionId(2), SMALL, &own_chain(100, 1));
    assert_eq!(desk.lookup(&own_chain(newest, 1)), [BlockState::Miss]);
    assert_eq!(desk.lookup(&own_chain(newest - 1, 1)), [BlockState::Cpu]);
}

#[test]
fn a_priority_ends_with_its_time() {
    let mut desk = stored(0..3);
    retain(&mut desk, 0, 90, 100);
    desk.wait(200);
    (10..30).for_each(|chain| desk.store(SessionId(2), SMALL, &own_chain(chain, 1)));
    assert_eq!(desk.lookup(&own_chain(0, 1)), [BlockState::Miss]);
}
