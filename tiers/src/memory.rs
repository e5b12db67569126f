//! A tier in ordinary memory: the contract and nothing else, and what a medium without a medium's delay would give.
//!
//! Two threads copy and verify, so the caller never waits for a copy. Memory is taken an extent at a time as it is written,
//! and nothing survives the process.

use crate::admission::Admission;
use crate::completion::Completion;
use crate::error::TierError;
use crate::gather::{Reply, gather};
use crate::tier::{ReadBlock, ReadOutcome, Tier, TierLimits, WriteBlock, WriteOutcome};
use crate::verify::verify;
use kvd_block::{HEADER_BYTES, SlotIndex, TierKind};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

const TIER: TierKind = TierKind::Nvme;
const THREADS: usize = 2;
/// Bytes copied at once: they stay in the first-level caches on their way through.
const PIECE_BYTES: usize = 64 << 10;

/// A medium of extents in memory. Dropping it finishes what was accepted.
#[derive(Debug)]
pub struct MemoryTier {
    limits: TierLimits,
    medium: Arc<Medium>,
    admission: Arc<Admission>,
    threads: Vec<(Sender<Job>, JoinHandle<()>)>,
    next: AtomicUsize,
}

/// The bytes of each extent; empty while nothing was written to it.
#[derive(Debug)]
struct Medium {
    extent_bytes: u64,
    extents: Vec<Mutex<Vec<u8>>>,
}

#[derive(Debug)]
enum Job {
    Write(WriteBlock, Reply<WriteOutcome>),
    Read(ReadBlock, Reply<ReadOutcome>),
    Erase(SlotIndex, Reply<Result<(), TierError>>),
}

impl MemoryTier {
    /// An empty one.
    ///
    /// # Panics
    /// When the system gives no threads.
    pub fn new(limits: TierLimits) -> MemoryTier {
        let extents = (0..limits.capacity_bytes / limits.extent_bytes).map(|_| Mutex::default()).collect();
        let medium = Arc::new(Medium { extent_bytes: limits.extent_bytes, extents });
        let threads = (0..THREADS).map(|_| {
            let ((sender, jobs), medium) = (channel(), medium.clone());
            let thread = std::thread::Builder::new().name("kvd-memory".into()).spawn(move || work(&jobs, &medium));
            (sender, thread.expect("a thread can be started"))
        });
        let admission = Admission::new(limits.max_inflight_blocks);
        MemoryTier { limits, threads: threads.collect(), medium, admission, next: AtomicUsize::new(0) }
    }

    /// Flips a bit of the byte at `offset` inside the image at `address`. Nothing happens where nothing was written.
    pub fn flip_bit(&self, address: SlotIndex, offset: u64) {
        let (extent, at) = self.medium.place(address, 0);
        if let Some(byte) = self.medium.lock(extent).get_mut(at.start + offset as usize) {
            *byte ^= 1;
        }
    }

    /// Hands jobs over once all of a batch have, or do not have, their place.
    fn submit(&self, jobs: Vec<Job>) {
        for job in jobs {
            let nth = self.next.fetch_add(1, Ordering::Relaxed) % THREADS;
            self.threads[nth].0.send(job).expect("the threads live as long as the tier");
        }
    }

    fn admit<O>(&self, address: SlotIndex, bytes: u64, reply: Reply<O>) -> Result<Reply<O>, (Reply<O>, TierError)> {
        if let Err(source) = self.limits.check(address, bytes) {
            return Err((reply, TierError::Io { tier: TIER, address, source }));
        }
        match self.admission.admit() {
            Some(permit) => Ok(reply.holding(permit)),
            None => Err((reply, TierError::Busy { tier: TIER })),
        }
    }
}

impl Medium {
    /// Which extent, and where in it.
    fn place(&self, address: SlotIndex, bytes: u64) -> (usize, Range<usize>) {
        let (extent, start) = (address.offset_bytes() / self.extent_bytes, (address.offset_bytes() % self.extent_bytes) as usize);
        (extent as usize, start..start + bytes as usize)
    }

    fn lock(&self, extent: usize) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.extents[extent].lock().expect("no code panics while it holds this lock")
    }

    /// The extent's bytes, zeros when they were never written.
    fn filled(&self, extent: usize) -> std::sync::MutexGuard<'_, Vec<u8>> {
        let mut bytes = self.lock(extent);
        if bytes.is_empty() {
            *bytes = vec![0; self.extent_bytes as usize];
        }
        bytes
    }

    fn write(&self, block: &WriteBlock) {
        let (extent, at) = self.place(block.address, block.slot.bytes());
        let mut bytes = self.filled(extent);
        for (nth, piece) in bytes[at].chunks_mut(PIECE_BYTES).enumerate() {
            piece.copy_from_slice(&block.slot.read_at((nth * PIECE_BYTES) as u64, piece.len()));
        }
    }

    fn read(&self, block: &ReadBlock) -> Result<(), TierError> {
        let corrupt = |why| TierError::Corrupt { tier: TIER, name: block.name, address: block.address, why };
        let (extent, at) = self.place(block.address, block.slot.bytes());
        let bytes = self.lock(extent);
        let image = bytes.get(at).ok_or_else(|| corrupt("nothing was written here".into()))?;
        for (nth, piece) in image.chunks(PIECE_BYTES).enumerate() {
            block.slot.write_at((nth * PIECE_BYTES) as u64, piece);
        }
        drop(bytes);
        verify(&block.slot, &block.name).map_err(corrupt)
    }

    fn erase(&self, address: SlotIndex) {
        let (extent, at) = self.place(address, HEADER_BYTES);
        if let Some(header) = self.lock(extent).get_mut(at) {
            header.fill(0);
        }
    }
}

fn work(jobs: &Receiver<Job>, medium: &Medium) {
    for job in jobs {
        match job {
            Job::Write(block, reply) => {
                medium.write(&block);
                reply.send(WriteOutcome { slot: block.slot, result: Ok(()) });
            }
            Job::Read(block, reply) => {
                let result = medium.read(&block);
                reply.send(ReadOutcome { slot: block.slot, result });
            }
            Job::Erase(address, reply) => {
                medium.erase(address);
                reply.send(Ok(()));
            }
        }
    }
}

impl Tier for MemoryTier {
    fn kind(&self) -> TierKind {
        TIER
    }

    fn limits(&self) -> TierLimits {
        self.limits
    }

    fn write(&self, batch: Vec<WriteBlock>) -> Completion<Vec<WriteOutcome>> {
        let (completion, replies) = gather(batch.len());
        let mut jobs = Vec::with_capacity(batch.len());
        for (block, reply) in batch.into_iter().zip(replies) {
            match self.admit(block.address, block.slot.bytes(), reply) {
                Ok(reply) => jobs.push(Job::Write(block, reply)),
                Err((reply, error)) => reply.send(WriteOutcome { slot: block.slot, result: Err(error) }),
            }
        }
        self.submit(jobs);
        completion
    }

    fn read(&self, batch: Vec<ReadBlock>) -> Completion<Vec<ReadOutcome>> {
        let (completion, replies) = gather(batch.len());
        let mut jobs = Vec::with_capacity(batch.len());
        for (block, reply) in batch.into_iter().zip(replies) {
            match self.admit(block.address, block.slot.bytes(), reply) {
                Ok(reply) => jobs.push(Job::Read(block, reply)),
                Err((reply, error)) => reply.send(ReadOutcome { slot: block.slot, result: Err(error) }),
            }
        }
        self.submit(jobs);
        completion
    }

    fn erase(&self, addresses: Vec<SlotIndex>) -> Completion<Vec<Result<(), TierError>>> {
        let (completion, replies) = gather(addresses.len());
        let mut jobs = Vec::with_capacity(addresses.len());
        for (address, reply) in addresses.into_iter().zip(replies) {
            match self.admit(address, HEADER_BYTES, reply) {
                Ok(reply) => jobs.push(Job::Erase(address, reply)),
                Err((reply, error)) => reply.send(Err(error)),
            }
        }
        self.submit(jobs);
        completion
    }
}

impl Drop for MemoryTier {
    fn drop(&mut self) {
        for (sender, thread) in self.threads.drain(..) {
            drop(sender);
            let _ = thread.join();
        }
    }
}

impl fmt::Display for MemoryTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory tier")
    }
}
