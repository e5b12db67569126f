//! Copies between the engine's pages and slots, every byte checksummed on the way.
//!
//! A store computes the checksum that the daemon will seal into the slot's header. A load copies what is there and then says
//! whether it was the block asked for, whole: wrong block, rot, or a slot that changed under the copy all give `false`, and
//! the engine must treat those pages as not loaded.
//!
//! A block's stripe is one checksum stream over its layers' pages in order. Blocks are independent of each other, so they are
//! spread over the pool; below [`SMALL_BYTES`] waking threads costs more than the copy.

use crate::mapped::MappedArena;
use crate::pages::PagedKv;
use crate::pool::CopyPool;
use kvd_block::checksum::ChecksumStream;
use kvd_block::{Checksum, SequenceHash, SlotIndex, image};
use kvd_shm::copy_checked;
use std::sync::Arc;

/// Transfers smaller than this stay on the calling thread.
pub const SMALL_BYTES: u64 = 4 << 20;

/// A request that names memory that is not there. Nothing was copied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Lists that belong together differ in length.
    #[error("{blocks} block ids, {slots} slots, {hashes} hashes: the lists must be equally long")]
    Lengths {
        /// Length of one list.
        blocks: usize,
        /// Length of another.
        slots: usize,
        /// Length of the third.
        hashes: usize,
    },
    /// No such block in the registered pages.
    #[error("block id {block} of pages with {num_blocks} blocks")]
    BadBlock {
        /// The id.
        block: usize,
        /// How many there are.
        num_blocks: usize,
    },
    /// A slot that is not inside the arena.
    #[error("slot {slot} of {slot_bytes} bytes is not inside an arena of {arena_bytes} bytes")]
    BadSlot {
        /// The slot.
        slot: SlotIndex,
        /// Its length.
        slot_bytes: u64,
        /// The arena's length.
        arena_bytes: u64,
    },
}

/// Pairs of block and slot that were checked to exist.
#[derive(Debug, Clone)]
pub(crate) struct Moves {
    pub pages: Arc<PagedKv>,
    pub arena: Arc<MappedArena>,
    pairs: Vec<(usize, SlotIndex)>,
}

impl Moves {
    pub fn new(pages: &Arc<PagedKv>, arena: &Arc<MappedArena>, blocks: &[usize], slots: &[SlotIndex]) -> Result<Moves, TransferError> {
        if blocks.len() != slots.len() {
            return Err(TransferError::Lengths { blocks: blocks.len(), slots: slots.len(), hashes: blocks.len() });
        }
        if let Some(block) = blocks.iter().find(|block| **block >= pages.num_blocks()) {
            return Err(TransferError::BadBlock { block: *block, num_blocks: pages.num_blocks() });
        }
        let (slot_bytes, arena_bytes) = (pages.spec().slot_bytes(), arena.bytes());
        if let Some(slot) = slots.iter().find(|slot| slot.offset_bytes() + slot_bytes > arena_bytes) {
            return Err(TransferError::BadSlot { slot: *slot, slot_bytes, arena_bytes });
        }
        let pairs = blocks.iter().copied().zip(slots.iter().copied()).collect();
        Ok(Moves { pages: pages.clone(), arena: arena.clone(), pairs })
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    fn stripe(&self, slot: SlotIndex) -> *mut u8 {
        let spec = self.pages.spec();
        self.arena.address(slot.offset_bytes() + spec.stripe_offset(self.pages.rank()), spec.stripe_bytes)
    }

    /// Gathers the pages of move `index` into its slot.
    fn gather(&self, index: usize) -> Checksum {
        let (block, slot) = self.pairs[index];
        let (mut to, mut checksum) = (self.stripe(slot), ChecksumStream::default());
        self.arena.ready(slot.offset_bytes(), self.pages.spec().slot_bytes());
        for layer in self.pages.layers() {
            // SAFETY: the page is readable by the promise of `PagedKv::new`; `to` walks over one stripe, whose length is the sum
            // of the pages and which `stripe` checked to be inside the arena.
            unsafe {
                copy_checked(to, layer.page(block), layer.page_bytes, &mut checksum);
                to = to.add(layer.page_bytes);
            }
        }
        checksum.finish()
    }

    /// Begins to load move `index`; `None` when the slot holds something else than `hash`.
    pub fn begin(&self, index: usize, hash: SequenceHash) -> Option<Scatter<'_>> {
        let (block, slot) = self.pairs[index];
        let header = self.arena.read_header(slot);
        image::verify_page(&header).ok()?;
        let is_it = image::sequence_hash(&header) == hash && image::layout_id(&header) == self.pages.layout_id();
        is_it.then(|| Scatter {
            pages: &self.pages,
            block,
            from: self.stripe(slot),
            layer: 0,
            checksum: ChecksumStream::default(),
            expected: image::stripe_checksum(&header, self.pages.rank()),
        })
    }
}

/// One block on its way from its slot to its pages.
pub(crate) struct Scatter<'a> {
    pages: &'a PagedKv,
    block: usize,
    from: *mut u8,
    layer: usize,
    checksum: ChecksumStream,
    expected: Checksum,
}

impl Scatter<'_> {
    /// Copies the next layer.
    ///
    /// # Panics
    /// When there is none left.
    pub fn next_layer(&mut self) {
        let layer = &self.pages.layers()[self.layer];
        // SAFETY: the page is writable by the promise of `PagedKv::new`; `from` walks over one stripe inside the arena, layer by
        // layer, and the indexing above ends the walk with the last layer.
        unsafe {
            copy_checked(layer.page(self.block), self.from, layer.page_bytes, &mut self.checksum);
            self.from = self.from.add(layer.page_bytes);
        }
        self.layer += 1;
    }

    /// True when all layers were copied and the copy is what the header says.
    pub fn is_whole(&self) -> bool {
        self.layer == self.pages.num_layers() && self.checksum.finish() == self.expected
    }
}

/// Copies the pages of `blocks` into `slots`. Returns the checksum of each block's stripe.
pub fn store(
    pool: &CopyPool,
    pages: &Arc<PagedKv>,
    arena: &Arc<MappedArena>,
    blocks: &[usize],
    slots: &[SlotIndex],
) -> Result<Vec<Checksum>, TransferError> {
    let moves = Moves::new(pages, arena, blocks, slots)?;
    Ok(each(pool, moves, |moves, index| moves.gather(index)))
}

/// Copies `slots` into the pages of `blocks`. True for each block that arrived whole and is the one in `hashes`.
pub fn load(
    pool: &CopyPool,
    pages: &Arc<PagedKv>,
    arena: &Arc<MappedArena>,
    blocks: &[usize],
    slots: &[SlotIndex],
    hashes: &[SequenceHash],
) -> Result<Vec<bool>, TransferError> {
    let moves = Moves::new(pages, arena, blocks, slots)?;
    let hashes = same_length(&moves, hashes)?;
    Ok(each(pool, moves, move |moves, index| {
        let Some(mut block) = moves.begin(index, hashes[index]) else { return false };
        moves.pages.layers().iter().for_each(|_| block.next_layer());
        block.is_whole()
    }))
}

pub(crate) fn same_length(moves: &Moves, hashes: &[SequenceHash]) -> Result<Vec<SequenceHash>, TransferError> {
    if hashes.len() != moves.len() {
        return Err(TransferError::Lengths { blocks: moves.len(), slots: moves.len(), hashes: hashes.len() });
    }
    Ok(hashes.to_vec())
}

fn each<T: Send + 'static>(pool: &CopyPool, moves: Moves, work: impl Fn(&Moves, usize) -> T + Send + Sync + 'static) -> Vec<T> {
    let count = moves.len();
    if count as u64 * moves.pages.spec().stripe_bytes < SMALL_BYTES {
        return (0..count).map(|index| work(&moves, index)).collect();
    }
    pool.map(count, move |index| work(&moves, index))
}
