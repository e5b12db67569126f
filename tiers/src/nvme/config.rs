//! What the operator chooses about the slot file.

use kvd_shm::Arena;
use std::path::PathBuf;
use std::sync::Arc;

/// How blocks are moved to and from the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoEngine {
    /// io_uring where the kernel and the container allow it, else [`IoEngine::Posix`].
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// `pread` and `pwrite` on a few threads.
    Posix,
}

/// Where the slot file is and how it is used.
#[derive(Debug, Clone)]
pub struct NvmeConfig {
    /// The data file itself, made when it is not there (its folder must exist); or a block device.
    pub path: PathBuf,
    /// Bytes for slots; rounded down to whole extents. All of it is allocated at once. A device keeps its first MiB besides.
    pub capacity_bytes: u64,
    /// Bytes of each extent: a multiple of 4 KiB, the same for the life of the file.
    pub extent_bytes: u64,
    /// Blocks that may be under way; more are answered `Busy`.
    pub max_inflight_blocks: usize,
    /// I/Os that the device is given at once.
    pub queue_depth: u32,
    /// The arena whose slots will be read and written: io_uring registers its memory.
    pub arena: Arc<Arena>,
    /// How blocks are moved.
    pub io: IoEngine,
}
