//! A straggler may still copy, so its slot goes to nobody else; its block may be stored by another engine.

use kvd_block::{SessionId, SlotIndex, StoreGrant, TierKind};
use kvd_ledger::Input;
use kvd_tests::desk::{Desk, LOAD_LEASE_MS, SMALL, own_chain};

fn slots(grants: &[StoreGrant]) -> Vec<SlotIndex> {
    grants.iter().filter_map(|grant| if let StoreGrant::Write(slot) = grant { Some(*slot) } else { None }).collect()
}

#[test]
fn an_overdue_store_keeps_its_slot_until_the_engine_is_gone() {
    let (slow, other) = (SessionId(1), SessionId(2));
    let mut desk = Desk::new(1, 0);
    let blocks = own_chain(1, 2);
    let held = slots(&desk.prepare_store(slow, SMALL, &blocks).1);
    assert_eq!(desk.prepare_store(other, SMALL, &blocks).1, [StoreGrant::Pending; 2]);

    desk.wait(2 * LOAD_LEASE_MS);

    let again = slots(&desk.prepare_store(other, SMALL, &blocks).1);
    assert_eq!(again.len(), 2, "another engine may store the blocks");
    assert!(again.iter().all(|slot| !held.contains(slot)), "but not into the straggler's slots");
    assert_eq!(desk.prepare_store(other, SMALL, &own_chain(2, 1)).1, [StoreGrant::Busy]);

    desk.tell(Input::CloseSession { session: slow });
    assert_eq!(desk.used_bytes(TierKind::Cpu), 2 * 2 * kvd_block::PAGE_BYTES);
}
