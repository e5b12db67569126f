//! A snapshot is read a little at a time, while blocks come and go; with the edges since its first part it is exact.

use kvd_block::{BlockKey, ResidencyEdge, SessionId, TierKind};
use kvd_ledger::snapshot::Sweep;
use kvd_ledger::{Input, WriteResult};
use kvd_tests::desk::{Desk, SMALL, own_chain};
use std::collections::BTreeSet;

type Residency = BTreeSet<(BlockKey, TierKind)>;

fn apply(view: &mut Residency, edge: &ResidencyEdge) {
    match edge {
        ResidencyEdge::Stored { key, tier, .. } => drop(view.insert((*key, *tier))),
        ResidencyEdge::Removed { key, tier } => drop(view.remove(&(*key, *tier))),
    }
}

fn there(desk: &Desk) -> Residency {
    TierKind::ALL.into_iter().flat_map(|tier| desk.ledger.resident(tier).map(move |row| (row.key, tier))).collect()
}

/// Reads a snapshot in parts of one record, doing `meanwhile` after each, and returns its rows and the edges since.
fn read(desk: &mut Desk, mut meanwhile: impl FnMut(&mut Desk, u8)) -> (Vec<ResidencyEdge>, Vec<ResidencyEdge>) {
    let before = desk.events.len();
    let (mut sweep, mut rows) = (Sweep::default(), Vec::new());
    for part in 0.. {
        if desk.ledger.sweep(&mut sweep, 1, &mut rows) {
            break;
        }
        meanwhile(desk, part);
    }
    (rows, desk.events[before..].to_vec())
}

#[test]
fn whatever_happens_between_the_parts() {
    let mut desk = Desk::new(3, 3);
    desk.store(SessionId(1), SMALL, &own_chain(1, 6));
    desk.end_writes(WriteResult::Written);
    // What was read goes, what was not goes too, and places are used again.
    let (rows, edges) = read(&mut desk, |desk, part| {
        if part == 2 {
            desk.tell(Input::Purge { layout: None, generation: 1 });
        }
        desk.store(SessionId(1), SMALL, &own_chain(part + 2, 2));
    });
    assert!(edges.len() > 20, "much happened meanwhile: {}", edges.len());
    let mut view = Residency::new();
    rows.iter().chain(&edges).for_each(|edge| apply(&mut view, edge));
    assert_eq!(view, there(&desk));
}

#[test]
fn a_block_that_leaves_and_comes_back_behind_the_reader_and_before_it() {
    let mut desk = Desk::new(3, 3);
    desk.store(SessionId(1), SMALL, &own_chain(1, 4));
    desk.end_writes(WriteResult::Written);
    let (rows, edges) = read(&mut desk, |desk, part| {
        if part == 1 {
            desk.tell(Input::Purge { layout: None, generation: 1 });
            desk.store(SessionId(1), SMALL, &own_chain(2, 3));
            desk.store(SessionId(1), SMALL, &own_chain(1, 4));
        }
    });
    let named: Residency = rows.iter().map(|row| (row.key(), TierKind::Cpu)).collect();
    assert!(named.len() < rows.len() || named != there(&desk), "the parts alone are of no moment");
    let mut view = Residency::new();
    rows.iter().chain(&edges).for_each(|edge| apply(&mut view, edge));
    assert_eq!(view, there(&desk));
}
