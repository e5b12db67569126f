//! KV memory that this process owns: for tools that stand in for an engine, without `unsafe` of their own.
//!
//! An engine registers memory that its own kernels write to, so [`PagedKv`] has to trust it. Here the borrow checker keeps the
//! promise: whoever copies holds the pages exclusively until the copy is done.

use crate::pages::{LayerPages, PagedKv, PagesError};
use crate::worker::{CopyError, WorkerLink};
use kvd_block::{Checksum, LayoutSpec, SequenceHash, SlotIndex};
use std::sync::Arc;

const ALIGN_BYTES: usize = 4096;

/// Pages of one rank, one layer: a page is the rank's whole stripe of a block. Aligned to 4 KiB, zero at first.
#[derive(Debug)]
pub struct OwnedPages {
    // Only for its end: everything goes through the pointer that `pages` knows.
    _memory: Vec<u8>,
    base: *mut u8,
    page_bytes: usize,
    pages: Arc<PagedKv>,
}

// SAFETY: the pointer is into memory that the value owns; shared access only reads, exclusive access is needed to write.
unsafe impl Send for OwnedPages {}
// SAFETY: as above.
unsafe impl Sync for OwnedPages {}

impl OwnedPages {
    /// Memory for `num_blocks` pages of `rank`'s stripes.
    pub fn new(spec: LayoutSpec, rank: u16, num_blocks: usize) -> Result<OwnedPages, PagesError> {
        let page_bytes = spec.stripe_bytes as usize;
        let mut memory = vec![0u8; page_bytes * num_blocks + ALIGN_BYTES];
        let shift = memory.as_ptr().align_offset(ALIGN_BYTES);
        // SAFETY: `align_offset` is less than the alignment, and so many bytes more were taken.
        let base = unsafe { memory.as_mut_ptr().add(shift) };
        let layer = LayerPages { base: base as usize, page_bytes, stride_bytes: page_bytes, num_blocks };
        // SAFETY: the memory lives as long as `self`, nothing else points to it, and copies are asked for by methods that borrow
        // `self` exclusively and return when they are done.
        let pages = Arc::new(unsafe { PagedKv::new(vec![layer], rank, spec)? });
        Ok(OwnedPages { _memory: memory, base, page_bytes, pages })
    }

    /// How many pages there are.
    pub fn num_blocks(&self) -> usize {
        self.pages.num_blocks()
    }

    /// One page.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn page(&self, block: usize) -> &[u8] {
        assert!(block < self.num_blocks(), "block {block} of {} pages", self.num_blocks());
        // SAFETY: inside the memory by the line above; nobody writes while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.base.add(block * self.page_bytes), self.page_bytes) }
    }

    /// One page, to be written.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn page_mut(&mut self, block: usize) -> &mut [u8] {
        assert!(block < self.num_blocks(), "block {block} of {} pages", self.num_blocks());
        // SAFETY: inside the memory by the line above; `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(block * self.page_bytes), self.page_bytes) }
    }

    /// As [`WorkerLink::store`].
    pub fn store(
        &mut self,
        link: &WorkerLink,
        incarnation: u64,
        blocks: &[usize],
        slots: &[SlotIndex],
    ) -> Result<Vec<Checksum>, CopyError> {
        link.store(&self.pages, incarnation, blocks, slots)
    }

    /// As [`WorkerLink::load`].
    pub fn load(
        &mut self,
        link: &WorkerLink,
        incarnation: u64,
        blocks: &[usize],
        slots: &[SlotIndex],
        hashes: &[SequenceHash],
    ) -> Result<Vec<bool>, CopyError> {
        link.load(&self.pages, incarnation, blocks, slots, hashes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(stripe_bytes: u64) -> LayoutSpec {
        LayoutSpec {
            model: "m".into(),
            weights: "w".into(),
            kv_dtype: "bfloat16".into(),
            block_tokens: 16,
            group: 0,
            attention: "full_attention".into(),
            geometry: "g".into(),
            ranks: 1,
            stripe_bytes,
        }
    }

    #[test]
    fn pages_are_aligned_and_apart() {
        let mut pages = OwnedPages::new(spec(8192), 0, 3).unwrap();
        pages.page_mut(1).fill(7);
        assert!((pages.page(0).as_ptr() as usize).is_multiple_of(ALIGN_BYTES));
        assert!(pages.page(0).iter().chain(pages.page(2)).all(|byte| *byte == 0));
        assert!(pages.page(1).iter().all(|byte| *byte == 7));
    }

    #[test]
    #[should_panic(expected = "block 3 of 3 pages")]
    fn a_page_that_is_not_there_is_refused() {
        OwnedPages::new(spec(4096), 0, 3).unwrap().page_mut(3);
    }
}
