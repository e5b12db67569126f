//! A slot of the arena, held by whoever uses it.

use crate::Arena;
use kvd_block::SlotIndex;
use kvd_block::checksum::ChecksumStream;
use kvd_block::image::HeaderPage;
use std::sync::Arc;

/// A claim on one slot's memory. In-flight I/O owns the claim, so memory under DMA cannot be unmapped.
///
/// Which claims may exist at once is the ledger's decision; this type only keeps the memory alive.
#[derive(Debug)]
pub struct Slot {
    arena: Arc<Arena>,
    index: SlotIndex,
    bytes: u64,
}

impl Slot {
    /// A claim on `bytes` bytes from `index`.
    ///
    /// # Panics
    /// When the slot is not inside the arena.
    pub fn new(arena: Arc<Arena>, index: SlotIndex, bytes: u64) -> Slot {
        arena.address(index.offset_bytes(), bytes);
        Slot { arena, index, bytes }
    }

    /// Where the slot starts.
    pub fn index(&self) -> SlotIndex {
        self.index
    }

    /// Bytes of the slot, header included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Address of the slot's first byte; valid for [`Slot::bytes`] bytes while the claim lives.
    pub fn address(&self) -> *mut u8 {
        self.arena.address(self.index.offset_bytes(), self.bytes)
    }

    /// Copies the header out.
    pub fn read_header(&self) -> HeaderPage {
        self.arena.read_header(self.index)
    }

    /// Copies `page` into the header.
    pub fn write_header(&self, page: &HeaderPage) {
        self.arena.write_header(self.index, page);
    }

    /// Copies `len` bytes from `offset` inside the slot.
    pub fn read_at(&self, offset: u64, len: usize) -> Vec<u8> {
        assert!(offset + len as u64 <= self.bytes, "read past the end of a slot");
        let mut bytes = vec![0; len];
        // SAFETY: inside the slot, as just asserted; the vector is ours.
        unsafe { crate::copy(bytes.as_mut_ptr(), self.address().add(offset as usize), len) };
        bytes
    }

    /// Copies `bytes` to `offset` inside the slot.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= self.bytes, "write past the end of a slot");
        // SAFETY: inside the slot, as just asserted; the source is ours.
        unsafe { crate::copy(self.address().add(offset as usize), bytes.as_ptr(), bytes.len()) };
    }

    /// Checksum of `len` bytes from `offset`, read in place: half the memory traffic of a private copy.
    ///
    /// For slots that nobody may be writing to: those just read from a medium, or sealed. Should an engine that lost its lease
    /// write to one all the same, the checksum is of some mixture, and whoever copies the block out verifies its own copy.
    pub fn checksum_at(&self, offset: u64, len: u64) -> kvd_block::Checksum {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.bytes), "checksum past the end of a slot");
        let mut checksum = ChecksumStream::default();
        // SAFETY: inside the mapping, as just asserted, which `self.arena` keeps alive; by contract nobody writes to it meanwhile.
        unsafe { crate::copy::checksum_in_place(self.address().add(offset as usize), len as usize, &mut checksum) };
        checksum.finish()
    }
}
