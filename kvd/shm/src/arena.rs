//! One shared, sealed, bounded piece of memory.
//!
//! Created by the daemon, mapped by engines from a file descriptor. The size is sealed, so no peer can shrink it
//! under a mapping and turn a read into SIGBUS. Memory is reserved by the kernel page by page as it is first
//! written; [`Arena::prefault`] does that ahead of time.

use kvd_block::image::HeaderPage;
use kvd_block::{HEADER_BYTES, PAGE_BYTES, SlotIndex};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use std::io;
use std::ops::Range;

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Whether an arena may use the kernel's reserved huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// Take 2 MiB pages when enough are reserved, else ordinary pages with transparent huge pages advised.
    WhenReserved,
    /// Ordinary pages.
    Never,
}

/// Why an arena cannot be made or mapped.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The size is zero or not whole pages.
    #[error("arena of {bytes} bytes: the size must be a positive multiple of {PAGE_BYTES}")]
    BadSize {
        /// The size asked for.
        bytes: u64,
    },
    /// A descriptor that is not a sealed arena.
    #[error("the descriptor received is not a kvd arena: {why}")]
    NotAnArena {
        /// What is wrong with it.
        why: String,
    },
    /// The kernel said no.
    #[error("{doing}: {source}")]
    Os {
        /// What was being done.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn os(doing: &'static str) -> impl FnOnce(rustix::io::Errno) -> ArenaError {
    move |errno| ArenaError::Os { doing, source: errno.into() }
}

/// A mapped arena. Dropping it unmaps; the memory lives while any process maps it or holds its descriptor.
#[derive(Debug)]
pub struct Arena {
    fd: OwnedFd,
    base: *mut u8,
    bytes: u64,
    huge: bool,
}

// SAFETY: the mapping stays valid until drop, and all access goes through raw copies that tolerate concurrent writers.
unsafe impl Send for Arena {}
// SAFETY: as above; no method hands out a reference into the mapping.
unsafe impl Sync for Arena {}

impl Arena {
    /// Makes a new arena of exactly `bytes` bytes. Nothing is touched yet: see [`Arena::prefault`].
    pub fn create(bytes: u64, huge: HugePages) -> Result<Arena, ArenaError> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE_BYTES) {
            return Err(ArenaError::BadSize { bytes });
        }
        if huge == HugePages::WhenReserved
            && bytes.is_multiple_of(HUGE_PAGE_BYTES)
            && let Ok(arena) = Self::create_with(bytes, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)
        {
            return Ok(arena);
        }
        let arena = Self::create_with(bytes, MemfdFlags::empty())?;
        // SAFETY: advice over our own whole mapping; it changes no content, and failing only costs speed.
        let _ = unsafe { madvise(arena.base.cast(), bytes as usize, Advice::LinuxHugepage) };
        Ok(arena)
    }

    fn create_with(bytes: u64, flags: MemfdFlags) -> Result<Arena, ArenaError> {
        let fd =
            memfd_create("kvd-arena", flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(os("creating the arena's memfd"))?;
        ftruncate(&fd, bytes).map_err(os("sizing the arena"))?;
        fcntl_add_seals(&fd, SEALS).map_err(os("sealing the arena"))?;
        Self::map(fd, bytes, flags.contains(MemfdFlags::HUGETLB))
    }

    /// Maps an arena that another process made. Refuses descriptors whose size is not sealed.
    pub fn from_fd(fd: OwnedFd) -> Result<Arena, ArenaError> {
        let seals = fcntl_get_seals(&fd).map_err(|errno| ArenaError::NotAnArena { why: errno.to_string() })?;
        if !seals.contains(SEALS) {
            return Err(ArenaError::NotAnArena { why: "its size is not sealed".into() });
        }
        let stat = fstat(&fd).map_err(os("reading the arena's size"))?;
        Self::map(fd, stat.st_size as u64, stat.st_blksize as u64 >= HUGE_PAGE_BYTES)
    }

    fn map(fd: OwnedFd, bytes: u64, huge: bool) -> Result<Arena, ArenaError> {
        // Huge pages are reserved by the mapping or refused by it; without that the first touch of a missing one would be SIGBUS.
        let flags = if huge { MapFlags::SHARED } else { MapFlags::SHARED | MapFlags::NORESERVE };
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address the kernel chooses aliases nothing of ours.
        let base = unsafe { mmap(std::ptr::null_mut(), bytes as usize, prot, flags, &fd, 0) }.map_err(os("mapping the arena"))?;
        Ok(Arena { fd, base: base.cast(), bytes, huge })
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True when backed by reserved 2 MiB pages.
    pub fn uses_huge_pages(&self) -> bool {
        self.huge
    }

    /// The descriptor to hand to engines.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Makes the kernel supply the pages of `range` (bytes) now, so that the first store does not pay for it.
    ///
    /// Blocks while it zeroes memory (about 4 GB/s); call it from a thread of its own, piece by piece.
    pub fn prefault(&self, range: Range<u64>) -> Result<(), ArenaError> {
        let at = self.address(range.start, range.end - range.start);
        // SAFETY: `address` checked the range; populating changes no content.
        unsafe { madvise(at.cast(), (range.end - range.start) as usize, Advice::LinuxPopulateWrite) }.map_err(os("prefaulting the arena"))
    }

    /// Spreads the arena's pages over all NUMA nodes. Does nothing on a machine with one node.
    pub fn interleave_numa(&self) -> Result<(), ArenaError> {
        let nodes = numa_node_mask();
        if nodes.count_ones() < 2 {
            return Ok(());
        }
        // SAFETY: the kernel reads one mask of 64 bits and changes only where pages of our mapping will be placed.
        let answer =
            unsafe { libc::syscall(libc::SYS_mbind, self.base, self.bytes, libc::MPOL_INTERLEAVE, &nodes as *const u64, 64u64, 0u32) };
        if answer == 0 {
            Ok(())
        } else {
            Err(ArenaError::Os { doing: "interleaving the arena over NUMA nodes", source: io::Error::last_os_error() })
        }
    }

    /// Address of `bytes` bytes from `offset`.
    ///
    /// # Panics
    /// When the range is not inside the arena: a slot index from elsewhere must never reach memory.
    pub fn address(&self, offset: u64, bytes: u64) -> *mut u8 {
        let end = offset.checked_add(bytes).expect("range wraps");
        assert!(end <= self.bytes, "range {offset}..{end} is outside an arena of {} bytes", self.bytes);
        // SAFETY: the offset is inside the mapping, as just asserted.
        unsafe { self.base.add(offset as usize) }
    }

    /// Copies the header page of `slot` out.
    pub fn read_header(&self, slot: SlotIndex) -> HeaderPage {
        let mut page = [0; HEADER_BYTES as usize];
        let from = self.address(slot.offset_bytes(), HEADER_BYTES);
        // SAFETY: source checked by `address`, destination is ours; a racing writer gives bytes the checksum rejects.
        unsafe { crate::copy::copy(page.as_mut_ptr(), from, page.len()) };
        page
    }

    /// Copies `page` into the header of `slot`.
    pub fn write_header(&self, slot: SlotIndex, page: &HeaderPage) {
        let to = self.address(slot.offset_bytes(), HEADER_BYTES);
        // SAFETY: destination checked by `address`, source is ours.
        unsafe { crate::copy::copy(to, page.as_ptr(), page.len()) };
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and no `Slot` outlives the `Arc<Arena>` it holds.
        let _ = unsafe { munmap(self.base.cast(), self.bytes as usize) };
    }
}

fn numa_node_mask() -> u64 {
    let listing = std::fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
    let mut mask = 0u64;
    for range in listing.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else { continue };
        (first..=last.min(63)).for_each(|node| mask |= 1 << node);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_see_the_same_bytes() {
        let arena = Arena::create(1 << 20, HugePages::Never).unwrap();
        let other = Arena::from_fd(arena.fd().try_clone_to_owned().unwrap()).unwrap();
        let page = [7; HEADER_BYTES as usize];
        arena.write_header(SlotIndex(3), &page);
        assert_eq!(other.read_header(SlotIndex(3)), page);
    }

    #[test]
    fn an_unsealed_descriptor_is_refused() {
        let fd = memfd_create("other", MemfdFlags::CLOEXEC).unwrap();
        assert!(matches!(Arena::from_fd(fd), Err(ArenaError::NotAnArena { .. })));
    }

    #[test]
    fn a_size_that_is_not_whole_pages_is_refused() {
        assert!(matches!(Arena::create(5000, HugePages::Never), Err(ArenaError::BadSize { bytes: 5000 })));
    }

    #[test]
    #[should_panic(expected = "outside an arena")]
    fn an_address_outside_panics_before_it_is_used() {
        Arena::create(8192, HugePages::Never).unwrap().address(8000, 200);
    }

    #[test]
    fn without_reserved_huge_pages_ordinary_ones_serve() {
        let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        let free: u64 = free.ok().and_then(|pages| pages.trim().parse().ok()).unwrap_or(0);
        let arena = Arena::create((free + 1) * HUGE_PAGE_BYTES, HugePages::WhenReserved).unwrap();
        assert!(!arena.uses_huge_pages());
        arena.write_header(SlotIndex(1), &[3; HEADER_BYTES as usize]);
    }

    #[test]
    fn prefault_keeps_content() {
        let arena = Arena::create(1 << 20, HugePages::Never).unwrap();
        arena.write_header(SlotIndex(0), &[9; HEADER_BYTES as usize]);
        arena.prefault(0..1 << 20).unwrap();
        assert_eq!(arena.read_header(SlotIndex(0)), [9; HEADER_BYTES as usize]);
    }
}
