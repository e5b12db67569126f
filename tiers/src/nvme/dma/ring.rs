//! One thread and one ring per device.
//!
//! The thread sleeps in `submit_and_wait` with a read on an eventfd in flight, so an idle tier uses no CPU and a batch
//! costs one wake-up. It only moves bytes: reads are handed to the verifiers.

use super::super::device::Device;
use super::super::inbox::Inbox;
use super::super::job::{Direction, Failure, Io, Job, Next};
use super::registered::RegisteredArena;
use crate::nvme::config::NvmeConfig;
use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, squeue, types};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::error;

/// Marks the completion of the eventfd's read.
const WAKE: u64 = u64::MAX;
/// The kernel moves at most 2 GiB - 4 KiB in one I/O.
const MOST_IO_BYTES: u64 = 1 << 30;

/// How long an open may take for registering memory: enough for about 1 GiB.
const OPEN_PATIENCE: Duration = Duration::from_millis(250);

/// What the ring managed to use, for the log.
#[derive(Debug, Default)]
pub(crate) struct RingStatus {
    pub deferred: AtomicBool,
    pub fixed_file: AtomicBool,
    pub registered_bytes: AtomicU64,
}

/// The thread. Dropping it finishes what was accepted.
#[derive(Debug)]
pub(crate) struct RingEngine {
    pub inbox: Arc<Inbox<Job>>,
    pub status: Arc<RingStatus>,
    thread: Option<JoinHandle<()>>,
}

impl RingEngine {
    /// Finished reads go to `verifiers`. The error is the kernel's when it has no io_uring for us.
    pub fn start(device: Arc<Device>, config: &NvmeConfig, verifiers: Arc<Inbox<Job>>) -> io::Result<RingEngine> {
        let inbox = Arc::new(Inbox::new(Some(super::eventfd()?)));
        let status = Arc::new(RingStatus::default());
        let (ready, started) = mpsc::channel();
        let (config, in_thread, in_status) = (config.clone(), inbox.clone(), status.clone());
        // The ring is made by the thread that will use it: SINGLE_ISSUER demands that.
        let body = move || match Ring::new(device, &config, in_thread.clone(), verifiers, in_status) {
            Ok(ring) => {
                let _ = ready.send(Ok(()));
                let _guard = CloseOnExit(in_thread);
                ring.run();
            }
            Err(error) => drop(ready.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("kvd-nvme-ring".into()).spawn(body)?;
        let engine = RingEngine { inbox, status, thread: Some(thread) };
        started.recv().unwrap_or_else(|_| Err(io::Error::other("the ring's thread died")))?;
        Ok(engine)
    }
}

impl Drop for RingEngine {
    fn drop(&mut self) {
        self.inbox.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers what is queued when the thread ends, however it ends.
struct CloseOnExit(Arc<Inbox<Job>>);

impl Drop for CloseOnExit {
    fn drop(&mut self) {
        let mut left = VecDeque::new();
        self.0.close();
        self.0.drain_into(&mut left);
        left.into_iter().for_each(|job| job.finish(Err(Failure::Closed)));
    }
}

struct Ring {
    // Field order is drop order: the ring first, then the memory it was told about.
    uring: IoUring,
    inflight: Inflight,
    buffers: RegisteredArena,
    woken: Box<u64>,
    wake_armed: bool,
    device: Arc<Device>,
    inbox: Arc<Inbox<Job>>,
    verifiers: Arc<Inbox<Job>>,
    ready: VecDeque<Job>,
    unverified: Vec<Job>,
    status: Arc<RingStatus>,
}

impl Ring {
    fn new(
        device: Arc<Device>,
        config: &NvmeConfig,
        inbox: Arc<Inbox<Job>>,
        verifiers: Arc<Inbox<Job>>,
        status: Arc<RingStatus>,
    ) -> io::Result<Ring> {
        let depth = config.queue_depth as usize;
        let (uring, deferred) = build(config.queue_depth + 1)?;
        // Where a filesystem cannot do an I/O without waiting, the kernel waits on threads of its own, by default four a core:
        // writes that hang would take them all, and reads would wait too.
        let _ = uring.submitter().register_iowq_max_workers(&mut [config.queue_depth + 1, 0]);
        let fixed_file = uring.submitter().register_files(&[device.file.as_raw_fd()]).is_ok();
        status.deferred.store(deferred, Ordering::Relaxed);
        status.fixed_file.store(fixed_file, Ordering::Relaxed);
        let buffers = RegisteredArena::new(config.arena.clone(), &uring.submitter());
        let (woken, ready, unverified) = (Box::new(0), VecDeque::new(), Vec::new());
        let inflight = Inflight::new(depth);
        let mut ring = Ring { uring, inflight, buffers, woken, wake_armed: false, device, inbox, verifiers, ready, unverified, status };
        ring.register_for(OPEN_PATIENCE);
        Ok(ring)
    }

    fn run(mut self) {
        loop {
            let closed = self.inbox.drain_into(&mut self.ready);
            self.start_ready();
            if closed && self.inflight.is_empty() && !self.wake_armed {
                return;
            }
            if !closed && !self.wake_armed {
                self.arm_wake();
            }
            if let Err(error) = self.sleep() {
                // Nothing is known about what is in flight: its memory is leaked, its completions resolve to `None`.
                error!(%error, path = %self.device.path.display(), "io_uring failed: the slot file is closed");
                return;
            }
            self.reap();
            self.register_more();
        }
    }

    /// Submits, and waits for something to happen unless there is something else to do.
    fn sleep(&mut self) -> io::Result<()> {
        let idle = !self.buffers.wants_more();
        match self.uring.submit_and_wait(usize::from(idle)) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Registers what can be registered in `patience`; the rest follows between I/Os.
    fn register_for(&mut self, patience: Duration) {
        let end = Instant::now() + patience;
        while self.buffers.wants_more() && Instant::now() < end {
            self.register_more();
        }
    }

    fn register_more(&mut self) {
        if self.buffers.wants_more() {
            self.buffers.register_next(&self.uring.submitter());
            self.status.registered_bytes.store(self.buffers.registered_bytes(), Ordering::Relaxed);
        }
    }

    fn start_ready(&mut self) {
        while !self.inflight.is_full() {
            let Some(job) = self.ready.pop_front() else { return };
            self.start(job);
        }
    }

    fn start(&mut self, job: Job) {
        let io = job.next_io(&self.device);
        let (buffer, bytes) = self.buffers.locate(io.memory, io.bytes.min(MOST_IO_BYTES));
        let token = self.inflight.insert(job, bytes);
        // Where submitting may wait for the device, a thread of the kernel waits in the place of this one.
        let flags = if self.device.waits { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
        let entry = self.entry(&Io { bytes, ..io }, buffer).user_data(token).flags(flags);
        // SAFETY: the job was moved into `self.inflight`, so its slot or page outlives this SQE; it is taken out only when the
        // CQE is there.
        self.push(unsafe { Unpushed::new(entry) });
    }

    fn entry(&self, io: &Io, buffer: Option<u16>) -> Entry {
        let (len, offset) = (io.bytes as u32, io.file_offset);
        macro_rules! build {
            ($fd:expr) => {
                match (io.direction, buffer) {
                    (Direction::ToFile, Some(at)) => opcode::WriteFixed::new($fd, io.memory, len, at).offset(offset).build(),
                    (Direction::FromFile, Some(at)) => opcode::ReadFixed::new($fd, io.memory, len, at).offset(offset).build(),
                    (Direction::ToFile, None) => opcode::Write::new($fd, io.memory, len).offset(offset).build(),
                    (Direction::FromFile, None) => opcode::Read::new($fd, io.memory, len).offset(offset).build(),
                }
            };
        }
        match self.status.fixed_file.load(Ordering::Relaxed) {
            true => build!(types::Fixed(0)),
            false => build!(types::Fd(self.device.file.as_raw_fd())),
        }
    }

    fn arm_wake(&mut self) {
        let bell = self.inbox.bell().expect("a ring's inbox has a bell").as_raw_fd();
        let woken: *mut u64 = &mut *self.woken;
        let entry = opcode::Read::new(types::Fd(bell), woken.cast(), 8).build().user_data(WAKE);
        self.wake_armed = true;
        // SAFETY: `self.woken` lives until after the ring is gone; the bell is held by the inbox.
        self.push(unsafe { Unpushed::new(entry) });
    }

    fn push(&mut self, entry: Unpushed) {
        // SAFETY: an `Unpushed` is made only by who promises that its memory outlives it.
        unsafe { self.uring.submission().push(&entry.0) }.expect("the ring has room for every job in flight and the bell");
    }

    fn reap(&mut self) {
        while let Some(entry) = self.next_completion() {
            match entry.user_data() {
                WAKE => self.wake_armed = false,
                token => self.completed(token, entry.result()),
            }
        }
        // In one piece, so that many small blocks cost the verifiers one wake-up.
        if let Err(jobs) = self.verifiers.push(self.unverified.drain(..)) {
            jobs.into_iter().for_each(|job| job.finish(Err(Failure::Closed)));
        }
    }

    fn next_completion(&mut self) -> Option<io_uring::cqueue::Entry> {
        self.uring.completion().next()
    }

    fn completed(&mut self, token: u64, result: i32) {
        let (mut job, asked_bytes) = self.inflight.take(token);
        let moved = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as u64) };
        match job.advance(asked_bytes, moved, &self.device) {
            Next::Again => self.ready.push_front(job),
            Next::Over(Ok(())) if job.is_read() => self.unverified.push(job),
            Next::Over(result) => job.finish(result),
        }
    }
}

/// An SQE whose memory is promised to outlive it.
struct Unpushed(Entry);

impl Unpushed {
    /// # Safety
    /// The memory that `entry` names is valid until its completion has been reaped.
    unsafe fn new(entry: Entry) -> Unpushed {
        Unpushed(entry)
    }
}

/// The fastest ring the kernel has: completions run on this thread when it asks for them (Linux 6.1), else a plain one.
fn build(entries: u32) -> io::Result<(IoUring, bool)> {
    let deferred = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries);
    match deferred {
        Ok(ring) => Ok((ring, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok((IoUring::new(entries)?, false)),
        Err(error) => Err(error),
    }
}

/// Jobs that the kernel is working on. When dropped with jobs inside, it leaks their memory.
struct Inflight {
    jobs: Vec<Option<(Job, u64)>>,
    free: Vec<u32>,
}

impl Inflight {
    fn new(depth: usize) -> Inflight {
        Inflight { jobs: (0..depth).map(|_| None).collect(), free: (0..depth as u32).rev().collect() }
    }

    fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.jobs.len()
    }

    fn insert(&mut self, job: Job, asked_bytes: u64) -> u64 {
        let at = self.free.pop().expect("not full");
        self.jobs[at as usize] = Some((job, asked_bytes));
        u64::from(at)
    }

    fn take(&mut self, token: u64) -> (Job, u64) {
        let taken = self.jobs[token as usize].take().expect("the kernel completes each SQE once");
        self.free.push(token as u32);
        taken
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        std::mem::take(&mut self.jobs).into_iter().flatten().for_each(|(job, _)| job.abandon());
    }
}
