//! Slots of two sizes: each takes from the other what it needs, and slots never overlap (checked at every step).

use kvd_block::{SessionId, TierKind};
use kvd_tests::desk::{Desk, LARGE, SMALL, own_chain};

#[test]
fn two_layouts_share_one_arena() {
    let engine = SessionId(1);
    let mut desk = Desk::new(4, 0);
    for chain in 0..16 {
        desk.store(engine, SMALL, &own_chain(chain, 1));
    }
    assert_eq!(desk.ledger.totals(TierKind::Cpu).blocks, 16, "one layout may have it all");

    for chain in 0..8 {
        desk.store(engine, LARGE, &own_chain(chain, 1));
    }
    let of = |layout| desk.ledger.resident(TierKind::Cpu).filter(|row| row.key.layout == layout).count();
    assert!(of(LARGE) >= 2, "the other gets at least an extent");
    assert!(of(SMALL) >= 4, "and does not take everything");
}
