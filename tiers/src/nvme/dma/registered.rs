//! The arena's memory as io_uring's registered buffers.
//!
//! Registering pins memory once instead of at every I/O. It also makes the kernel supply every page (about 4 GB/s), so the
//! arena is registered piece by piece between I/Os. Where it is refused (RLIMIT_MEMLOCK), the rest stays unregistered and
//! works the same, at a little more CPU.

use io_uring::Submitter;
use kvd_shm::Arena;
use std::io;
use std::sync::Arc;
use tracing::warn;

/// Registering one piece takes about 15 ms, which is how long an I/O may wait for it.
const LEAST_PIECE_BYTES: u64 = 64 << 20;
/// The kernel's limit of buffers per ring.
const MOST_PIECES: u64 = 16_384;

/// How far the arena is registered.
#[derive(Debug)]
pub(super) struct RegisteredArena {
    arena: Arc<Arena>,
    piece_bytes: u64,
    registered: u32,
    pieces: u32,
    refused: bool,
}

impl RegisteredArena {
    /// Reserves the table; nothing is registered yet.
    pub fn new(arena: Arc<Arena>, submitter: &Submitter<'_>) -> RegisteredArena {
        let piece_bytes = LEAST_PIECE_BYTES.max(arena.bytes().div_ceil(MOST_PIECES).next_multiple_of(LEAST_PIECE_BYTES));
        let pieces = arena.bytes().div_ceil(piece_bytes) as u32;
        let mut this = RegisteredArena { arena, piece_bytes, registered: 0, pieces, refused: false };
        if let Err(error) = submitter.register_buffers_sparse(pieces) {
            this.refuse(&error);
        }
        this
    }

    pub fn registered_bytes(&self) -> u64 {
        (u64::from(self.registered) * self.piece_bytes).min(self.arena.bytes())
    }

    /// True while there are pieces left to register.
    pub fn wants_more(&self) -> bool {
        !self.refused && self.registered < self.pieces
    }

    /// Registers the next piece.
    pub fn register_next(&mut self, submitter: &Submitter<'_>) {
        let offset = u64::from(self.registered) * self.piece_bytes;
        let bytes = self.piece_bytes.min(self.arena.bytes() - offset);
        let piece = libc::iovec { iov_base: self.arena.address(offset, bytes).cast(), iov_len: bytes as usize };
        // SAFETY: the range is inside the arena, which `self` keeps mapped for as long as the ring that uses it.
        match unsafe { submitter.register_buffers_update(self.registered, &[piece], None) } {
            Ok(()) => self.registered += 1,
            Err(error) => self.refuse(&error),
        }
    }

    fn refuse(&mut self, error: &io::Error) {
        self.refused = true;
        let (registered, bytes) = (self.registered_bytes(), self.arena.bytes());
        warn!(%error, registered, bytes, "the arena's memory is not registered whole: I/O costs more CPU; raise RLIMIT_MEMLOCK");
    }

    /// The registered buffer that holds `memory`, if any, and how many of `bytes` bytes lie in one piece.
    pub fn locate(&self, memory: *const u8, bytes: u64) -> (Option<u16>, u64) {
        let base = self.arena.address(0, 0) as u64;
        let memory = memory as u64;
        if memory < base || memory >= base + self.arena.bytes() {
            return (None, bytes);
        }
        let (piece, offset) = ((memory - base) / self.piece_bytes, (memory - base) % self.piece_bytes);
        let registered = piece < u64::from(self.registered);
        (registered.then_some(piece as u16), bytes.min(self.piece_bytes - offset))
    }
}
