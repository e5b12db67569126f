//! The arena's memory: sealed memfd segments mapped by the daemon and by every engine, and the socket calls that
//! hand them over.
//!
//! All `mmap` and raw-copy `unsafe` of the project is here. Two processes see the same bytes, so nothing here ever gives
//! out a Rust reference into a segment: bytes are copied in and out, and checksums decide what is whole.

pub mod arena;
pub mod copy;
pub mod fds;
#[cfg(target_arch = "x86_64")]
mod fold;
pub mod slot;

pub use arena::{Arena, ArenaError, HugePages};
pub use copy::{copy, copy_checked};
pub use slot::Slot;
