//! Headers say after which purge a block was stored, so that a scan of the disk tells dead images from living ones.

use kvd_block::SessionId;
use kvd_ledger::{Action, Input};
use kvd_tests::desk::{Desk, LARGE, SMALL, own_chain};

#[test]
fn what_is_stored_after_a_purge_carries_its_generation() {
    let engine = SessionId(1);
    let mut desk = Desk::new(4, 0);
    desk.store(engine, SMALL, &own_chain(1, 1));
    desk.tell(Input::Purge { layout: Some(SMALL), generation: 3 });
    desk.store(engine, SMALL, &own_chain(2, 1));
    desk.store(engine, LARGE, &own_chain(2, 1));
    desk.tell(Input::Purge { layout: None, generation: 4 });
    desk.store(engine, LARGE, &own_chain(3, 1));
    let generations: Vec<u64> = desk.sealed.iter().map(|block| block.generation).collect();
    assert_eq!(generations, [0, 3, 0, 4]);
}

#[test]
fn what_was_being_stored_during_a_purge_is_not_kept() {
    let engine = SessionId(1);
    let mut desk = Desk::new(4, 0);
    let (lease, _) = desk.prepare_store(engine, SMALL, &own_chain(1, 1));
    desk.tell(Input::Purge { layout: None, generation: 1 });
    desk.complete_store(engine, SMALL, lease, 1);
    assert!(desk.sealed.is_empty(), "its bytes are from before the purge");
}

#[test]
fn rows_of_purged_blocks_go_in_one_change() {
    let mut desk = Desk::new(4, 4);
    desk.store(SessionId(1), SMALL, &own_chain(1, 8));
    desk.end_writes(kvd_ledger::WriteResult::Written);
    let mut actions = Vec::new();
    desk.ledger.step(kvd_block::Tick(9), Input::Purge { layout: Some(SMALL), generation: 1 }, &mut actions);
    let rows = |action: &&Action| matches!(action, Action::CatalogDelete(_) | Action::CatalogPurge { .. });
    let rows: Vec<&Action> = actions.iter().filter(rows).collect();
    assert_eq!(rows, [&Action::CatalogPurge { layout: Some(SMALL), generation: 1 }], "the catalog's queue has a bound");
}
