//! One engine finds rot in a slot that others are reading: nobody else gets it, and it goes with its last reader.

use kvd_block::{BlockState, LoadGrant, ResidencyEdge, SessionId, StoreGrant, TierKind};
use kvd_ledger::WriteResult;
use kvd_tests::desk::{Desk, SMALL, own_chain};

const FINDER: SessionId = SessionId(1);
const READER: SessionId = SessionId(2);

fn removed(desk: &Desk) -> Vec<TierKind> {
    let tier = |edge: &ResidencyEdge| if let ResidencyEdge::Removed { tier, .. } = edge { Some(*tier) } else { None };
    desk.events.iter().filter_map(tier).collect()
}

#[test]
fn a_copy_on_nvme_survives_the_arenas() {
    let mut desk = Desk::new(2, 2);
    let blocks = own_chain(1, 1);
    desk.store(FINDER, SMALL, &blocks);
    desk.end_writes(WriteResult::Written);
    let (reading, _) = desk.prepare_load(READER, &blocks, 0);
    let (lease, _) = desk.prepare_load(FINDER, &blocks, 0);

    desk.complete_load(FINDER, lease, &[0]);

    assert_eq!(desk.lookup(&blocks), [BlockState::Miss], "nobody else is led to it");
    assert_eq!(desk.prepare_load(FINDER, &blocks, 0).1, [LoadGrant::Miss]);
    assert_eq!(removed(&desk), [], "the slot is still being read");
    assert_eq!(desk.used_bytes(TierKind::Cpu), 2 * kvd_block::PAGE_BYTES);
    desk.complete_load(READER, reading, &[]);
    assert_eq!(removed(&desk), [TierKind::Cpu]);
    assert_eq!(desk.used_bytes(TierKind::Cpu), 0);
    assert_eq!(desk.lookup(&blocks), [BlockState::Nvme]);
    assert_eq!(desk.prepare_load(FINDER, &blocks, 0).1, [LoadGrant::Staging]);
}

#[test]
fn a_lease_that_expires_is_a_reader_that_leaves() {
    let mut desk = Desk::new(2, 2);
    let blocks = own_chain(1, 1);
    desk.store(FINDER, SMALL, &blocks);
    desk.end_writes(WriteResult::Written);
    desk.prepare_load(READER, &blocks, 0);
    let (lease, _) = desk.prepare_load(FINDER, &blocks, 0);
    desk.complete_load(FINDER, lease, &[0]);
    desk.wait(kvd_tests::desk::LOAD_LEASE_MS);
    assert_eq!(removed(&desk), [TierKind::Cpu]);
    assert_eq!(desk.lookup(&blocks), [BlockState::Nvme]);
}

#[test]
fn without_another_copy_the_block_is_gone_and_can_be_stored_anew() {
    let mut desk = Desk::new(2, 0);
    let blocks = own_chain(1, 1);
    desk.store(FINDER, SMALL, &blocks);
    let (reading, _) = desk.prepare_load(READER, &blocks, 0);
    let (lease, _) = desk.prepare_load(FINDER, &blocks, 0);
    desk.complete_load(FINDER, lease, &[0]);
    assert_eq!(desk.prepare_store(FINDER, SMALL, &blocks).1, [StoreGrant::Pending], "it is on its way out");
    desk.complete_load(READER, reading, &[]);
    assert_eq!(removed(&desk), [TierKind::Cpu]);
    assert!(matches!(desk.prepare_store(FINDER, SMALL, &blocks).1[..], [StoreGrant::Write(_)]));
}

#[test]
fn an_image_written_from_a_rotten_slot_is_never_found() {
    let mut desk = Desk::new(2, 2);
    let blocks = own_chain(1, 1);
    desk.store(FINDER, SMALL, &blocks);
    let (lease, _) = desk.prepare_load(FINDER, &blocks, 0);
    assert_eq!(desk.writes.len(), 1, "the image is on its way to NVMe");
    desk.complete_load(FINDER, lease, &[0]);
    desk.end_writes(WriteResult::Written);
    assert_eq!(desk.lookup(&blocks), [BlockState::Miss]);
    assert_eq!(removed(&desk), [TierKind::Cpu], "it never was on NVMe for anybody");
    desk.end_erases(WriteResult::Written);
    assert_eq!((desk.used_bytes(TierKind::Cpu), desk.used_bytes(TierKind::Nvme)), (0, 0));
}
