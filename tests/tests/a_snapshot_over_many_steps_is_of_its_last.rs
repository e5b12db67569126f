//! A snapshot is collected a little at a time, while blocks come and go, and is exact at its end.

use kvd_block::{BlockKey, ResidencyEdge, SessionId, TierKind};
use kvd_ledger::Input;
use kvd_ledger::snapshot::{Sweep, amend};
use kvd_tests::desk::{Desk, SMALL, own_chain};
use std::collections::BTreeSet;

fn place(edge: &ResidencyEdge) -> (BlockKey, TierKind) {
    match edge {
        ResidencyEdge::Stored { key, tier, .. } | ResidencyEdge::Removed { key, tier, .. } => (*key, *tier),
    }
}

#[test]
fn a_snapshot_over_many_steps_is_of_its_last() {
    let mut desk = Desk::new(3, 3);
    desk.store(SessionId(1), SMALL, &own_chain(1, 6));
    desk.end_writes(kvd_ledger::WriteResult::Written);
    let before = desk.events.len();
    let (mut sweep, mut parts) = (Sweep::default(), Vec::new());
    for chain in 2.. {
        let mut rows = Vec::new();
        let over = desk.ledger.sweep(&mut sweep, 1, &mut rows);
        parts.push(rows);
        if over {
            break;
        }
        // What was swept goes, what was not goes too, and places are used again.
        if chain == 4 {
            desk.tell(Input::Purge { layout: None, generation: 1 });
        }
        desk.store(SessionId(1), SMALL, &own_chain(chain, 2));
    }
    let noted = desk.events[before..].to_vec();
    assert!(noted.len() > 20, "much happened meanwhile: {}", noted.len());
    amend(&mut parts, noted);
    let swept: Vec<_> = parts.iter().flatten().map(place).collect();
    let there: BTreeSet<_> =
        TierKind::ALL.into_iter().flat_map(|tier| desk.ledger.resident(tier).map(move |row| (row.key, tier))).collect();
    assert_eq!(swept.len(), there.len(), "nothing twice");
    assert_eq!(BTreeSet::from_iter(swept), there);
}
