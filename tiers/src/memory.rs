//! A tier in ordinary memory, for tests: the contract and nothing else.
//!
//! Transfers happen inside the call, so completions are ready when they are returned. Memory is taken page by page as it is
//! written.

use crate::completion::Completion;
use crate::error::TierError;
use crate::tier::{ReadBlock, ReadOutcome, Tier, TierLimits, WriteBlock, WriteOutcome};
use crate::verify::verify;
use kvd_block::{HEADER_BYTES, PAGE_BYTES, SlotIndex, TierKind};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

const TIER: TierKind = TierKind::Nvme;
type Pages = HashMap<u32, Vec<u8>>;

/// A medium of pages in memory.
#[derive(Debug)]
pub struct MemoryTier {
    limits: TierLimits,
    pages: Mutex<Pages>,
}

impl MemoryTier {
    /// An empty one.
    pub fn new(limits: TierLimits) -> MemoryTier {
        MemoryTier { limits, pages: Mutex::default() }
    }

    /// Flips a bit of the byte at `offset` inside the image at `address`. Nothing happens where nothing was written.
    pub fn flip_bit(&self, address: SlotIndex, offset: u64) {
        let at = address.offset_bytes() + offset;
        if let Some(page) = self.pages().get_mut(&((at / PAGE_BYTES) as u32)) {
            page[(at % PAGE_BYTES) as usize] ^= 1;
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().expect("no code panics while it holds this lock")
    }

    /// The nth block of a batch is admitted when fewer than the limit came before it.
    fn admit(&self, nth: usize, address: SlotIndex, bytes: u64) -> Result<(), TierError> {
        if nth >= self.limits.max_inflight_blocks {
            return Err(TierError::Busy { tier: TIER });
        }
        self.limits.check(address, bytes).map_err(|source| TierError::Io { tier: TIER, address, source })
    }

    fn write_one(&self, block: &WriteBlock) {
        let mut pages = self.pages();
        for page in 0..block.slot.bytes() / PAGE_BYTES {
            let bytes = block.slot.read_at(page * PAGE_BYTES, PAGE_BYTES as usize);
            pages.insert(block.address.0 + page as u32, bytes);
        }
    }

    fn read_one(&self, block: &ReadBlock) -> Result<(), TierError> {
        let pages = self.pages();
        let zeros = vec![0; PAGE_BYTES as usize];
        for page in 0..block.slot.bytes() / PAGE_BYTES {
            let bytes = pages.get(&(block.address.0 + page as u32)).unwrap_or(&zeros);
            block.slot.write_at(page * PAGE_BYTES, bytes);
        }
        let corrupt = |why| TierError::Corrupt { tier: TIER, name: block.name, address: block.address, why };
        verify(&block.slot, &block.name).map_err(corrupt)
    }
}

impl Tier for MemoryTier {
    fn kind(&self) -> TierKind {
        TIER
    }

    fn limits(&self) -> TierLimits {
        self.limits
    }

    fn write(&self, batch: Vec<WriteBlock>) -> Completion<Vec<WriteOutcome>> {
        let write = |(nth, block): (usize, WriteBlock)| {
            let result = self.admit(nth, block.address, block.slot.bytes()).map(|()| self.write_one(&block));
            WriteOutcome { slot: block.slot, result }
        };
        Completion::ready(batch.into_iter().enumerate().map(write).collect())
    }

    fn read(&self, batch: Vec<ReadBlock>) -> Completion<Vec<ReadOutcome>> {
        let read = |(nth, block): (usize, ReadBlock)| {
            let result = self.admit(nth, block.address, block.slot.bytes()).and_then(|()| self.read_one(&block));
            ReadOutcome { slot: block.slot, result }
        };
        Completion::ready(batch.into_iter().enumerate().map(read).collect())
    }

    fn erase(&self, addresses: Vec<SlotIndex>) -> Completion<Vec<Result<(), TierError>>> {
        let erase = |(nth, address): (usize, SlotIndex)| {
            self.admit(nth, address, HEADER_BYTES)?;
            self.pages().remove(&address.0);
            Ok(())
        };
        Completion::ready(addresses.into_iter().enumerate().map(erase).collect::<Vec<_>>())
    }
}

impl fmt::Display for MemoryTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory tier")
    }
}
