//! The blocks that checks write: whatever is in one follows from its layout and its seed, so that it can be told again later.

use crate::tier::BlockName;
use kvd_block::{BlockHeader, HEADER_BYTES, LayoutSpec, LocalHash, PAGE_BYTES, SequenceHash, SlotIndex};
use kvd_shm::Slot;

/// A small layout whose payload is not whole pages: two stripes of 6,000 bytes.
pub fn sample_layout() -> LayoutSpec {
    layout_of(6000, 2)
}

/// A layout of so many stripes of so many bytes.
pub(crate) fn layout_of(stripe_bytes: u64, ranks: u16) -> LayoutSpec {
    LayoutSpec {
        model: "sample".into(),
        weights: "none".into(),
        kv_dtype: "bfloat16".into(),
        block_tokens: 16,
        group: 0,
        attention: "full_attention".into(),
        geometry: "bytes".into(),
        ranks,
        stripe_bytes,
    }
}

/// The payload of `seed`: bytes that no other seed has in the same place.
pub(crate) fn payload(layout: &LayoutSpec, seed: u64) -> Vec<u8> {
    let words = layout.payload_bytes().div_ceil(8);
    let mut bytes: Vec<u8> = (0..words).flat_map(|word| mixed(seed, word).to_le_bytes()).collect();
    bytes.truncate(layout.payload_bytes() as usize);
    bytes
}

/// SplitMix64 at `at`.
pub(crate) fn mixed(seed: u64, at: u64) -> u64 {
    let state = seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add((at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What a block of `seed` is called.
pub(crate) fn name_of(layout: &LayoutSpec, seed: u64) -> BlockName {
    let mut hash = [0xA5; 16];
    hash[..8].copy_from_slice(&seed.to_le_bytes());
    BlockName { layout: layout.id(), hash: SequenceHash(hash) }
}

/// Fills `slot` with a sealed image whose name and bytes follow from `seed`.
pub fn seal(slot: &Slot, layout: &LayoutSpec, seed: u64) -> BlockName {
    seal_payload(slot, layout, seed, &payload(layout, seed))
}

/// The same with another payload.
pub(crate) fn seal_payload(slot: &Slot, layout: &LayoutSpec, seed: u64, payload: &[u8]) -> BlockName {
    slot.write_at(HEADER_BYTES, payload);
    let name = name_of(layout, seed);
    let header = BlockHeader {
        hash: name.hash,
        parent: SequenceHash::ROOT,
        local: LocalHash(seed),
        position: 0,
        created_unix_ms: 0,
        generation: 0,
        layout: layout.clone(),
        stripes: (0..layout.ranks).map(|rank| slot.checksum_at(layout.stripe_offset(rank), layout.stripe_bytes)).collect(),
        tokens: Vec::new(),
    };
    let mut page = [0; HEADER_BYTES as usize];
    header.encode(&mut page);
    slot.write_header(&page);
    name
}

/// Address of the `nth` slot of `slot_pages` pages in a medium with extents of `extent_bytes`.
pub fn nth_address(nth: u32, slot_pages: u32, extent_bytes: u64) -> SlotIndex {
    let extent_pages = (extent_bytes / PAGE_BYTES) as u32;
    let per_extent = (extent_pages - 1) / slot_pages;
    SlotIndex(nth / per_extent * extent_pages + 1 + nth % per_extent * slot_pages)
}
