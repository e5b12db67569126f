//! An address under erase belongs to nobody until the erase is answered: it must not land on the next image there.

use kvd_block::{BlockState, ResidencyEdge, SessionId, TierKind};
use kvd_ledger::{Input, WriteResult};
use kvd_tests::desk::{Desk, SMALL, own_chain};

const ENGINE: SessionId = SessionId(1);
const SLOT_BYTES: u64 = 2 * kvd_block::PAGE_BYTES;

/// A desk whose NVMe holds four blocks and is full of them, and purged.
fn purged() -> Desk {
    let mut desk = Desk::new(2, 1);
    desk.store(ENGINE, SMALL, &own_chain(1, 4));
    desk.end_writes(WriteResult::Written);
    assert_eq!(desk.used_bytes(TierKind::Nvme), 4 * SLOT_BYTES);
    desk.tell(Input::Purge { layout: Some(SMALL), generation: 1 });
    desk
}

#[test]
fn no_image_is_written_where_one_is_being_erased() {
    let mut desk = purged();
    assert_eq!(desk.erases.len(), 4);
    desk.store(ENGINE, SMALL, &own_chain(2, 1));
    assert_eq!(desk.writes.len(), 0, "no slot is free");
    let erased = desk.erases[2];
    desk.tell(Input::EraseDone { op: erased.0, result: WriteResult::Written });
    desk.store(ENGINE, SMALL, &own_chain(3, 1));
    assert_eq!(desk.writes.iter().map(|write| write.address).collect::<Vec<_>>(), [erased.1]);
    assert_eq!(desk.ledger.counters().erased, 1);
}

#[test]
fn an_erase_that_fails_gives_the_slot_back() {
    let mut desk = purged();
    desk.end_erases(WriteResult::Failed);
    assert_eq!(desk.used_bytes(TierKind::Nvme), 0);
    assert_eq!(desk.ledger.counters().erase_failed, 4);
}

#[test]
fn an_erase_that_finds_the_tier_busy_is_tried_again() {
    let mut desk = purged();
    desk.end_erases(WriteResult::Busy);
    assert_eq!((desk.erases.len(), desk.used_bytes(TierKind::Nvme)), (0, 4 * SLOT_BYTES));
    let wake = desk.ledger.next_deadline().expect("the ledger asks to be woken");
    desk.wait(wake.0 - desk.now);
    assert_eq!(desk.erases.len(), 4);
    desk.end_erases(WriteResult::Written);
    assert_eq!(desk.used_bytes(TierKind::Nvme), 0);
    assert_eq!(desk.ledger.next_deadline(), None);
}

#[test]
fn a_large_purge_never_fills_the_queue_of_the_tier() {
    let mut desk = Desk::with(2, 2, |config| config.max_writes = 3);
    desk.store(ENGINE, SMALL, &own_chain(1, 8));
    while !desk.writes.is_empty() {
        desk.end_writes(WriteResult::Written);
    }
    desk.tell(Input::Purge { layout: None, generation: 1 });
    assert_eq!(desk.erases.len(), 3, "erases share the places of writes");
    let mut erased = 0;
    while !desk.erases.is_empty() {
        erased += desk.erases.len();
        desk.end_erases(WriteResult::Written);
    }
    assert_eq!((erased, desk.used_bytes(TierKind::Nvme)), (8, 0));
}

#[test]
fn an_answer_that_comes_twice_frees_a_slot_once() {
    let mut desk = purged();
    let (op, _) = desk.erases[0];
    desk.tell(Input::EraseDone { op, result: WriteResult::Written });
    desk.tell(Input::EraseDone { op, result: WriteResult::Written });
    assert_eq!(desk.used_bytes(TierKind::Nvme), 3 * SLOT_BYTES);
}

#[test]
fn a_write_that_ends_after_a_purge_is_erased_and_told_to_nobody() {
    let mut desk = Desk::new(2, 1);
    let blocks = own_chain(1, 1);
    desk.store(ENGINE, SMALL, &blocks);
    desk.tell(Input::Purge { layout: None, generation: 1 });
    desk.end_writes(WriteResult::Written);
    let nvme = |edge: &&ResidencyEdge| matches!(edge, ResidencyEdge::Stored { tier: TierKind::Nvme, .. });
    assert_eq!(desk.events.iter().filter(nvme).count(), 0);
    assert_eq!(desk.erases.len(), 1);
    desk.end_erases(WriteResult::Written);
    assert_eq!((desk.lookup(&blocks), desk.used_bytes(TierKind::Nvme)), (vec![BlockState::Miss], 0));
}
