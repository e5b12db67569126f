//! A broken engine claims parents that lead back to their children. Links stay a forest, and no record outlives its use.

use kvd_block::{NewBlock, SequenceHash, SessionId, StoreGrant};
use kvd_ledger::Input;
use kvd_tests::desk::{Desk, SMALL, own_chain};

/// Stores blocks one by one with these parents (an index, or itself) and positions; returns what is left after a purge.
fn left_over(parents: &[usize], positions: &[u32]) -> usize {
    let mut desk = Desk::new(2, 0);
    let mut blocks: Vec<NewBlock> = own_chain(1, parents.len() as u64);
    let names: Vec<SequenceHash> = blocks.iter().map(|block| block.hash).collect();
    for (at, block) in blocks.iter_mut().enumerate() {
        (block.parent, block.position) = (names[parents[at]], positions[at]);
    }
    for block in &blocks {
        desk.store(SessionId(1), SMALL, std::slice::from_ref(block));
    }
    assert_eq!(desk.ledger.records(), blocks.len());
    desk.tell(Input::Purge { layout: None, generation: 1 });
    desk.ledger.records()
}

#[test]
fn two_blocks_that_are_each_others_parents_leave_nothing_behind() {
    assert_eq!(left_over(&[1, 0], &[0, 1]), 0);
    assert_eq!(left_over(&[1, 0], &[1, 0]), 0);
    assert_eq!(left_over(&[1, 0], &[5, 5]), 0);
}

#[test]
fn a_block_that_is_its_own_parent_leaves_nothing_behind() {
    assert_eq!(left_over(&[0], &[3]), 0);
}

#[test]
fn a_circle_of_three_closed_by_its_last_block_leaves_nothing_behind() {
    assert_eq!(left_over(&[2, 0, 1], &[0, 1, 2]), 0);
    assert_eq!(left_over(&[2, 0, 1], &[7, 8, 9]), 0);
    assert_eq!(left_over(&[1, 2, 0], &[2, 1, 0]), 0);
}

#[test]
fn what_is_refused_a_slot_is_not_remembered_either() {
    let mut desk = Desk::new(1, 0);
    desk.prepare_store(SessionId(1), SMALL, &own_chain(1, 4));
    let mut more = own_chain(2, 3);
    (more[0].parent, more[0].position) = (more[2].hash, 3);
    assert_eq!(desk.prepare_store(SessionId(2), SMALL, &more).1, [StoreGrant::Busy; 3]);
    assert_eq!(desk.ledger.records(), 4);
}
