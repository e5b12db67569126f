//! One block on its way to or from the file, as a state machine without I/O: both engines drive it the same way.
//!
//! ```text
//! write:  [label, when the extent holds slots of another size] → image
//! read:   image → (a verifier judges it)
//! erase:  a page of zeros over the header
//! ```
//!
//! Each arrow may take several I/Os: the kernel may transfer less than asked. The first short transfer is continued; a
//! second one is an error.

use super::device::Device;
use super::format::{Page, encode_label};
use crate::error::TierError;
use crate::gather::Reply;
use crate::tier::{BlockName, ReadOutcome, WriteOutcome};
use crate::verify::verify;
use kvd_block::{PAGE_BYTES, SlotIndex, TierKind};
use kvd_shm::Slot;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

const TIER: TierKind = TierKind::Nvme;

/// A block under way. Owns the memory that the kernel reads or fills.
#[derive(Debug)]
pub(crate) struct Job {
    task: Task,
    address: SlotIndex,
    /// The label or the zeros to write; `None` while the slot itself is transferred.
    page: Option<Box<Page>>,
    done_bytes: u64,
    continued: bool,
}

/// What is wanted, and where the outcome goes.
#[derive(Debug)]
pub(crate) enum Task {
    Write { slot: Slot, reply: Reply<WriteOutcome> },
    Read { slot: Slot, name: BlockName, reply: Reply<ReadOutcome> },
    Erase { reply: Reply<Result<(), TierError>> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToFile,
    FromFile,
}

/// The next I/O of a job: `bytes` bytes at `memory`, valid for as long as the job lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Io {
    pub direction: Direction,
    pub memory: *mut u8,
    pub bytes: u64,
    pub file_offset: u64,
}

/// Why a transfer failed.
#[derive(Debug)]
pub(crate) enum Failure {
    Io(io::Error),
    Corrupt(String),
    Closed,
}

/// What to do after an I/O.
#[derive(Debug)]
pub(crate) enum Next {
    Again,
    Over(Result<(), Failure>),
}

impl Job {
    pub fn new(task: Task, address: SlotIndex, device: &Device) -> Job {
        let page = match &task {
            Task::Erase { .. } => Some(Page::zeroed()),
            Task::Write { slot, .. } => label_for(slot, address, device),
            Task::Read { .. } => None,
        };
        Job { task, address, page, done_bytes: 0, continued: false }
    }

    pub fn next_io(&self, device: &Device) -> Io {
        let (memory, whole_bytes, file_offset) = match (&self.page, &self.task) {
            (Some(page), Task::Write { .. }) => (page_memory(page), PAGE_BYTES, device.file_offset(device.extent_start(self.address))),
            (Some(page), _) => (page_memory(page), PAGE_BYTES, device.file_offset(self.address)),
            (None, Task::Write { slot, .. } | Task::Read { slot, .. }) => (slot.address(), slot.bytes(), device.file_offset(self.address)),
            (None, Task::Erase { .. }) => unreachable!("an erase keeps its page"),
        };
        let direction = if self.is_read() { Direction::FromFile } else { Direction::ToFile };
        let memory = memory.wrapping_add(self.done_bytes as usize);
        Io { direction, memory, bytes: whole_bytes - self.done_bytes, file_offset: file_offset + self.done_bytes }
    }

    /// Takes note of what an I/O of `asked_bytes` bytes gave.
    pub fn advance(&mut self, asked_bytes: u64, result: io::Result<u64>, device: &Device) -> Next {
        match result {
            Ok(done_bytes) if done_bytes == asked_bytes => self.done_bytes += done_bytes,
            Ok(_) if self.continued => return self.over(Err(self.short()), device),
            Ok(done_bytes) => {
                // Direct I/O goes on at a page only.
                self.done_bytes += done_bytes / PAGE_BYTES * PAGE_BYTES;
                self.continued = true;
                return Next::Again;
            }
            Err(error) if !self.continued && is_transient(&error) => {
                self.continued = true;
                return Next::Again;
            }
            Err(error) => return self.over(Err(Failure::Io(error)), device),
        }
        if self.done_bytes < self.stage_bytes() {
            return Next::Again;
        }
        if self.page.is_some() && matches!(self.task, Task::Write { .. }) {
            self.page = None;
            self.done_bytes = 0;
            return Next::Again;
        }
        Next::Over(Ok(()))
    }

    fn over(&self, result: Result<(), Failure>, device: &Device) -> Next {
        if self.page.is_some() && matches!(self.task, Task::Write { .. }) {
            device.forget_label(self.address);
        }
        Next::Over(result)
    }

    fn stage_bytes(&self) -> u64 {
        match (&self.page, &self.task) {
            (None, Task::Write { slot, .. } | Task::Read { slot, .. }) => slot.bytes(),
            _ => PAGE_BYTES,
        }
    }

    fn short(&self) -> Failure {
        match self.task {
            Task::Read { .. } => Failure::Corrupt(format!("the file ends after {} bytes of the image", self.done_bytes)),
            _ => Failure::Io(io::ErrorKind::WriteZero.into()),
        }
    }

    pub fn is_read(&self) -> bool {
        matches!(self.task, Task::Read { .. })
    }

    /// Judges what a finished read brought. `Ok` for other jobs.
    pub fn verify(&self) -> Result<(), Failure> {
        match &self.task {
            Task::Read { slot, name, .. } => verify(slot, name).map_err(Failure::Corrupt),
            _ => Ok(()),
        }
    }

    /// Gives up a job whose memory the kernel may still use: the memory is leaked, and nobody waits for the outcome any more.
    pub fn abandon(self) {
        std::mem::forget(self.page);
        match self.task {
            Task::Write { slot, reply } => {
                std::mem::forget(slot);
                drop(reply);
            }
            Task::Read { slot, reply, .. } => {
                std::mem::forget(slot);
                drop(reply);
            }
            Task::Erase { reply } => drop(reply),
        }
    }

    /// Answers, and gives the slot back.
    pub fn finish(self, result: Result<(), Failure>) {
        let address = self.address;
        match self.task {
            Task::Write { slot, reply } => reply.send(WriteOutcome { slot, result: result.map_err(|f| error(f, address, None)) }),
            Task::Erase { reply } => reply.send(result.map_err(|failure| error(failure, address, None))),
            Task::Read { slot, name, reply } => {
                reply.send(ReadOutcome { slot, result: result.map_err(|failure| error(failure, address, Some(name))) });
            }
        }
    }
}

/// The label to write before the image, when the file's label says something else.
///
/// Its generation is the time, so that a later label is always recognised as the later one without reading the older.
fn label_for(slot: &Slot, address: SlotIndex, device: &Device) -> Option<Box<Page>> {
    let slot_pages = (slot.bytes() / PAGE_BYTES) as u32;
    let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    device.relabel(address, slot_pages).then(|| encode_label(slot_pages, now_ms()))
}

/// The kernel only reads it: pages are written to the file, never filled from it.
fn page_memory(page: &Page) -> *mut u8 {
    page.0.as_ptr().cast_mut()
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

fn error(failure: Failure, address: SlotIndex, name: Option<BlockName>) -> TierError {
    match (failure, name) {
        (Failure::Closed, _) => TierError::Closed { tier: TIER },
        (Failure::Corrupt(why), Some(name)) => TierError::Corrupt { tier: TIER, name, address, why },
        (Failure::Corrupt(why), None) => TierError::Io { tier: TIER, address, source: io::Error::other(why) },
        (Failure::Io(source), _) if is_full(&source) => TierError::Full { tier: TIER, source },
        (Failure::Io(source), _) => TierError::Io { tier: TIER, address, source },
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}
