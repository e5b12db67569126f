//! Blocks in one preallocated file on a local disk, or on a whole block device, moved by direct I/O straight between arena slots and the device.
//!
//! A write is the slot's bytes as they are; a read is verified whole before anybody sees it. The data path never calls
//! fsync and never orders itself after the catalog: images name and verify themselves, so the worst a crash can leave is a
//! block that is not found or fails its checksum, which is a miss.
//!
//! Arithmetic: a 2 MiB block is one I/O of 2 MiB + 4 KiB. A 7 GB/s device moves 3,300 of them a second, so one thread that
//! wakes per completion is far from busy.
//!
//! # File format, version 1
//!
//! Little-endian. All offsets are multiples of 4 KiB pages. CRC is CRC-64/NVME of the page's first 4088 bytes.
//!
//! ```text
//! file          0  superblock
//!            4096  copy of the superblock; used when the first one is damaged
//!          65,536  table of purges, 256 KiB, when anything was ever purged
//!         327,680  another one: they are written in turn, and the whole one with the greater sequence counts
//!       1,048,576  data area: slot address 0. Address a (in pages) is at 1,048,576 + a × 4096
//!
//! superblock    0  8  magic "kvdslots"          40  8  extent_bytes
//!               8  2  format version (1)        48  8  capacity_bytes of the data area, whole extents
//!              10  6  zero                      56  8  created, ms since 1970
//!              16 16  file id, random           64  …  zero
//!              32  8  CRC-64/NVME of           4088  8  CRC
//!                     /etc/machine-id, or 0
//!
//! extent        0  4096        label
//!            4096  slot_bytes  slot 0            slot k is at 4096 + k × slot_bytes; a slot never crosses the extent's end
//!
//! label         0  8  magic "kvdextnt"          16  8  generation: ms since 1970 when it was written
//!               8  2  format version (1)        24  …  zero
//!              10  2  zero                      4088  8  CRC
//!              12  4  slot_pages
//!
//! purges        0  8  magic "kvdpurge"          16  8  sequence, the same in every page of the table
//! (a page)      8  2  format version (1)        24  …  entries of 24 bytes: layout id 16 (zeros: every layout),
//!              10  2  entries in this page                 generation of its last purge 8
//!              12  4  pages of the table        4088  8  CRC
//!
//! slot          0  4096  header, see kvd_block::image
//!            4096  …     payload, up to whole pages
//! ```
//!
//! An extent without a valid label holds no blocks for a scan. The first write of another slot size writes the label first.
//! An image whose header has a smaller generation than its layout in the table was purged.
//! An erased block's header page is zeros. Images of an earlier slot size may survive between slots; a scan ignores headers
//! whose layout has another slot size than the label, and a read ignores every image but the one it was told to find.

mod block;
mod config;
mod device;
#[allow(unsafe_code, reason = "the kernel is given the addresses of slots")]
mod dma;
mod error;
mod foreign;
mod format;
mod inbox;
mod job;
mod posix;
mod purge_table;
mod scan;
mod verifier;

pub use block::{block_device_bytes, is_block_device};
pub use config::{IoEngine, NvmeConfig};
pub use device::{holds, wipe};
pub use error::OpenError;
pub use format::{DATA_START, FORMAT_VERSION};
pub use purge_table::PurgeTable;
pub use scan::FoundImage;

use crate::admission::Admission;
use crate::completion::Completion;
use crate::error::TierError;
use crate::gather::{Reply, gather};
use crate::tier::{ReadBlock, ReadOutcome, Tier, TierLimits, WriteBlock, WriteOutcome};
use device::Device;
use dma::RingEngine;
use inbox::Inbox;
use job::{Failure, Job, Task};
use kvd_block::{PAGE_BYTES, SlotIndex, TierKind};
use posix::PosixEngine;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use verifier::Verifiers;

/// The slot file, or a block device in its place, as a tier. Dropping it finishes what was accepted, which may block for as long as the device takes.
#[derive(Debug)]
pub struct NvmeTier {
    // Field order is drop order: the engine hands its last reads to the verifiers.
    engine: Engine,
    _verifiers: Option<Verifiers>,
    device: Arc<Device>,
    admission: Arc<Admission>,
    arena_bytes: u64,
}

#[derive(Debug)]
enum Engine {
    Ring(RingEngine),
    Posix { engine: PosixEngine, why: String },
}

impl NvmeTier {
    /// Opens the slot file, making or growing it as the settings say. Blocks while the filesystem allocates.
    pub fn open(config: NvmeConfig) -> Result<NvmeTier, OpenError> {
        let device = Arc::new(Device::open(&config)?);
        let (engine, verifiers) = start(&device, &config)?;
        let admission = Admission::new(config.max_inflight_blocks);
        Ok(NvmeTier { engine, _verifiers: verifiers, device, admission, arena_bytes: config.arena.bytes() })
    }

    /// Random, made with the file: a catalog that names another id describes another file.
    pub fn file_id(&self) -> [u8; 16] {
        self.device.file_id
    }

    /// What was purged, as the file remembers it. Open it once; it keeps the file open and locked for as long as it lives.
    pub fn purge_table(&self) -> PurgeTable {
        PurgeTable::open(self.device.clone())
    }

    /// One line that says which way blocks take, and why.
    pub fn probe_line(&self) -> String {
        let direct = if self.device.direct { "O_DIRECT" } else { "page cache (no O_DIRECT on this filesystem)" };
        match &self.engine {
            Engine::Posix { why, .. } => format!("pread/pwrite ({why}), {direct}"),
            Engine::Ring(ring) => {
                let on = |flag: bool, yes, no| if flag { yes } else { no };
                let issue = on(ring.status.deferred.load(Ordering::Relaxed), "deferred task run", "plain ring (kernel before 6.1)");
                let file = on(ring.status.fixed_file.load(Ordering::Relaxed), "registered file", "plain file");
                let mib = ring.status.registered_bytes.load(Ordering::Relaxed) >> 20;
                format!("io_uring, {issue}, {file}, {mib} of {} MiB of the arena registered, {direct}", self.arena_bytes >> 20)
            }
        }
    }

    /// Finds every block in the file by reading labels and headers, after the catalog was lost. Payloads are not read.
    ///
    /// Blocks this thread: one pass over the headers of the whole file. Unreadable pages are skipped. Used at start only:
    /// blocks that are written meanwhile may be missed.
    pub fn scan(&self, on_found: impl FnMut(FoundImage)) {
        scan::scan(&self.device, on_found);
    }

    fn inbox(&self, job: &Job) -> &Inbox<Job> {
        match &self.engine {
            Engine::Ring(ring) => &ring.inbox,
            Engine::Posix { engine, .. } if job.is_read() => &engine.reads,
            Engine::Posix { engine, .. } => &engine.writes,
        }
    }

    fn job(&self, task: Task, address: SlotIndex) -> Job {
        Job::new(task, address, &self.device)
    }

    /// Takes a place for a block of `bytes` bytes, or says why not.
    fn admit<O>(&self, address: SlotIndex, bytes: u64, reply: Reply<O>) -> Result<Reply<O>, (Reply<O>, TierError)> {
        let tier = TierKind::Nvme;
        if let Err(source) = self.device.limits.check(address, bytes) {
            return Err((reply, TierError::Io { tier, address, source }));
        }
        match self.admission.admit() {
            Some(permit) => Ok(reply.holding(permit)),
            None => Err((reply, TierError::Busy { tier })),
        }
    }

    /// Hands the jobs, which are of one kind, over in one piece, so that a batch costs one wake-up.
    fn submit(&self, jobs: Vec<Job>) {
        let Some(first) = jobs.first() else { return };
        if let Err(jobs) = self.inbox(first).push(jobs) {
            jobs.into_iter().for_each(|job| job.finish(Err(Failure::Closed)));
        }
    }
}

fn start(device: &Arc<Device>, config: &NvmeConfig) -> Result<(Engine, Option<Verifiers>), OpenError> {
    let os = |source| OpenError::Os { path: config.path.clone(), doing: "starting its threads", source };
    let why = match config.io {
        IoEngine::Posix => "as the settings say".to_owned(),
        IoEngine::Auto | IoEngine::Uring => {
            let verifiers = Verifiers::start().map_err(os)?;
            match RingEngine::start(device.clone(), config, verifiers.inbox.clone()) {
                Ok(ring) => return Ok((Engine::Ring(ring), Some(verifiers))),
                Err(source) if config.io == IoEngine::Uring => {
                    return Err(OpenError::NoUring { path: config.path.clone(), source });
                }
                Err(source) => no_uring(&source),
            }
        }
    };
    let engine = PosixEngine::start(device.clone()).map_err(os)?;
    Ok((Engine::Posix { engine, why }, None))
}

fn no_uring(source: &io::Error) -> String {
    let hint = if source.raw_os_error() == Some(libc::ENOMEM) { "; raise RLIMIT_MEMLOCK" } else { "" };
    tracing::warn!(error = %source, "io_uring cannot be used: blocks are moved by pread and pwrite, at more CPU{hint}");
    format!("io_uring cannot be used: {source}")
}

impl Tier for NvmeTier {
    fn kind(&self) -> TierKind {
        TierKind::Nvme
    }

    fn limits(&self) -> TierLimits {
        self.device.limits
    }

    fn write(&self, batch: Vec<WriteBlock>) -> Completion<Vec<WriteOutcome>> {
        let (completion, replies) = gather(batch.len());
        let mut jobs = Vec::with_capacity(batch.len());
        for (WriteBlock { slot, address }, reply) in batch.into_iter().zip(replies) {
            match self.admit(address, slot.bytes(), reply) {
                Ok(reply) => jobs.push(self.job(Task::Write { slot, reply }, address)),
                Err((reply, error)) => reply.send(WriteOutcome { slot, result: Err(error) }),
            }
        }
        self.submit(jobs);
        completion
    }

    fn read(&self, batch: Vec<ReadBlock>) -> Completion<Vec<ReadOutcome>> {
        let (completion, replies) = gather(batch.len());
        let mut jobs = Vec::with_capacity(batch.len());
        for (ReadBlock { slot, address, name }, reply) in batch.into_iter().zip(replies) {
            match self.admit(address, slot.bytes(), reply) {
                Ok(reply) => jobs.push(self.job(Task::Read { slot, name, reply }, address)),
                Err((reply, error)) => reply.send(ReadOutcome { slot, result: Err(error) }),
            }
        }
        self.submit(jobs);
        completion
    }

    fn erase(&self, addresses: Vec<SlotIndex>) -> Completion<Vec<Result<(), TierError>>> {
        let (completion, replies) = gather(addresses.len());
        let mut jobs = Vec::with_capacity(addresses.len());
        for (address, reply) in addresses.into_iter().zip(replies) {
            match self.admit(address, PAGE_BYTES, reply) {
                Ok(reply) => jobs.push(self.job(Task::Erase { reply }, address)),
                Err((reply, error)) => reply.send(Err(error)),
            }
        }
        self.submit(jobs);
        completion
    }
}

impl fmt::Display for NvmeTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nvme tier {}", self.device.path.display())
    }
}
