//! What these tests are made of: a folder on the disk, an arena, blocks.
#![allow(dead_code, reason = "each test binary uses its part")]

use kvd_block::{LayoutSpec, SlotIndex};
use kvd_shm::{Arena, HugePages, Slot};
use kvd_tiers::conformance::{nth_address, seal};
use kvd_tiers::nvme::DATA_START;
use kvd_tiers::{BlockName, IoEngine, NvmeConfig, NvmeTier, ReadBlock, Tier, TierError, WriteBlock};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

pub const EXTENT_BYTES: u64 = 1 << 20;

/// A folder beside the build's output: on a disk, where /tmp is often memory.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub fn arena() -> Arc<Arena> {
    Arc::new(Arena::create(4 << 20, HugePages::Never).unwrap())
}

pub fn config(folder: &TempDir, arena: &Arc<Arena>, io: IoEngine) -> NvmeConfig {
    NvmeConfig {
        path: path(folder),
        capacity_bytes: 4 * EXTENT_BYTES,
        extent_bytes: EXTENT_BYTES,
        max_inflight_blocks: 8,
        queue_depth: 4,
        arena: arena.clone(),
        io,
    }
}

pub fn path(folder: &TempDir) -> PathBuf {
    folder.path().join("slots")
}

pub fn slot(arena: &Arc<Arena>, layout: &LayoutSpec, nth: u32) -> Slot {
    Slot::new(arena.clone(), SlotIndex(nth * layout.slot_pages()), layout.slot_bytes())
}

pub fn address(layout: &LayoutSpec, nth: u32) -> SlotIndex {
    nth_address(nth, layout.slot_pages(), EXTENT_BYTES)
}

/// Writes the block of `seed` to the `nth` address.
pub fn write(tier: &NvmeTier, arena: &Arc<Arena>, layout: &LayoutSpec, nth: u32, seed: u64) -> BlockName {
    let slot = slot(arena, layout, 0);
    let name = seal(&slot, layout, seed);
    let written = tier.write(vec![WriteBlock { slot, address: address(layout, nth) }]).wait().unwrap();
    written.into_iter().for_each(|outcome| outcome.result.unwrap());
    name
}

pub fn read(tier: &NvmeTier, arena: &Arc<Arena>, layout: &LayoutSpec, nth: u32, name: BlockName) -> Result<(), TierError> {
    let slot = slot(arena, layout, 1);
    let mut read = tier.read(vec![ReadBlock { slot, address: address(layout, nth), name }]).wait().unwrap();
    read.pop().unwrap().result
}

/// Changes the bytes of the file from `offset` behind the tier's back.
pub fn edit(path: &Path, offset: u64, change: impl FnOnce(&mut [u8; 4096])) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut page = [0; 4096];
    file.read_exact_at(&mut page, offset).unwrap();
    change(&mut page);
    file.write_all_at(&page, offset).unwrap();
}

pub fn flip_bit(path: &Path, address: SlotIndex, offset: u64) {
    let at = DATA_START + address.offset_bytes() + offset;
    edit(path, at / 4096 * 4096, |page| page[(at % 4096) as usize] ^= 1);
}
