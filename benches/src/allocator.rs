//! Counts the bytes a program has allocated, so that a bench can say what a data structure costs.
//!
//! A bench that wants it declares `#[global_allocator] static ALLOCATOR: CountingAllocator = CountingAllocator;`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static ALLOCATED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counting.
#[derive(Debug, Clone, Copy, Default)]
pub struct CountingAllocator;

/// Bytes asked for and not given back; what the allocator adds for itself is not known here.
pub fn allocated_bytes() -> usize {
    ALLOCATED_BYTES.load(Ordering::Relaxed)
}

// SAFETY: every call goes to the system's allocator unchanged; the counter takes no part in it.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALLOCATED_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `memory` came from `alloc` above, and so from the system, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}
