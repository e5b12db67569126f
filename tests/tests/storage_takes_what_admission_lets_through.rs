//! What is written to NVMe: what the admission policy and the write budget let through.

use kvd_block::SessionId;
use kvd_ledger::{Admission, Eviction, WriteResult};
use kvd_tests::desk::{Desk, SMALL, own_chain};

const ENGINE: SessionId = SessionId(1);

#[test]
fn second_touch_writes_a_block_when_a_later_request_finds_it() {
    let mut desk = Desk::with(2, 2, |config| config.admission = Admission::SecondTouch);
    desk.store(ENGINE, SMALL, &own_chain(1, 2));
    assert!(desk.writes.is_empty());
    assert_eq!(desk.ledger.counters().offload_refused, 2);
    desk.wait(1_000);
    desk.lookup(&own_chain(1, 2));
    assert_eq!(desk.writes.len(), 2);
}

#[test]
fn tiny_lfu_keeps_a_block_often_asked_for_from_being_replaced() {
    let mut desk = Desk::with(2, 1, |config| {
        config.admission = Admission::TinyLfu;
        config.nvme_eviction = Eviction::Lineage;
    });
    let mut chain = 0;
    while desk.ledger.counters().offload_refused == 0 {
        desk.store(ENGINE, SMALL, &own_chain(chain, 1));
        (0..3).for_each(|_| {
            desk.wait(200);
            desk.lookup(&own_chain(chain, 1));
        });
        desk.end_writes(WriteResult::Written);
        chain += 1;
        if desk.ledger.totals(kvd_block::TierKind::Nvme).blocks >= 3 {
            break;
        }
    }
    let before = desk.ledger.counters().evicted_nvme;
    (100..110).for_each(|chain| {
        desk.store(ENGINE, SMALL, &own_chain(chain, 1));
        desk.end_writes(WriteResult::Written);
    });
    assert_eq!(desk.ledger.counters().evicted_nvme, before, "blocks asked for once replace none asked for four times");
    assert!(desk.ledger.counters().offload_refused > 0);
}

#[test]
fn a_spent_budget_refuses_writes_until_it_fills_again() {
    // A write a day of one extent: an hour's worth is less than a block.
    let mut desk = Desk::with(2, 1, |config| config.write_budget_dwpd = Some(1.0));
    desk.store(ENGINE, SMALL, &own_chain(1, 1));
    assert!(desk.writes.is_empty());
    assert_eq!(desk.ledger.counters().offload_over_budget, 1);

    let mut desk = Desk::with(2, 1, |config| config.write_budget_dwpd = Some(24.0));
    (0..8).for_each(|chain| {
        desk.store(ENGINE, SMALL, &own_chain(chain, 1));
        desk.end_writes(WriteResult::Written);
    });
    let within_the_hour = desk.ledger.counters().written;
    assert!(within_the_hour > 0 && desk.ledger.counters().offload_over_budget > 0);
    desk.wait(2 * 3_600_000);
    desk.store(ENGINE, SMALL, &own_chain(100, 1));
    assert_eq!(desk.writes.len(), 1);
}
