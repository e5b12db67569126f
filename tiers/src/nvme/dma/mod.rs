//! Where the kernel is given the address of a slot: all `unsafe` of this crate.
//!
//! The rule that makes it sound: the [`Job`] that owns the slot or the page is held until the kernel has answered, and is
//! leaked rather than freed when this thread dies before that.

mod registered;
mod ring;

pub(crate) use ring::RingEngine;

use super::format::Page;
use super::job::{Direction, Io, Job};
use rustix::fd::{FromRawFd, OwnedFd};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Does `io`, which must be the next I/O of `owner`, on this thread. Returns the bytes moved.
pub(crate) fn transfer(file: &File, owner: &Job, io: &Io) -> io::Result<u64> {
    debug_assert!(io.bytes > 0);
    let (fd, memory, bytes, offset) = (file.as_raw_fd(), io.memory.cast(), io.bytes as usize, io.file_offset as i64);
    // SAFETY: `owner` is borrowed for the whole call and owns `bytes` bytes at `memory`.
    let moved = unsafe {
        match io.direction {
            Direction::ToFile => libc::pwrite(fd, memory, bytes, offset),
            Direction::FromFile => libc::pread(fd, memory, bytes, offset),
        }
    };
    let _ = owner;
    u64::try_from(moved).map_err(|_| io::Error::last_os_error())
}

/// A counter to wake a thread that sleeps in the kernel. Blocking, so that io_uring waits for it instead of answering EAGAIN.
fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Fills `pages` from `offset` of the file.
pub(crate) fn read_pages(file: &File, pages: &mut [Page], offset: u64) -> io::Result<()> {
    let bytes = std::mem::size_of_val(pages);
    // SAFETY: a page is a plain array of bytes without padding, so its memory may be filled with any bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(pages.as_mut_ptr().cast::<u8>(), bytes) };
    file.read_exact_at(bytes, offset)
}
