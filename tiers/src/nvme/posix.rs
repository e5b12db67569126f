//! The fallback where io_uring is forbidden: `pread` and `pwrite` on a few threads, each moving one block at a time.
//!
//! Same contract as the ring. Costs a thread switch per block and keeps at most [`THREADS`] I/Os of each direction in flight.
//! Reads have threads of their own: a write that hangs must not keep a load waiting.

use super::device::Device;
use super::dma;
use super::inbox::Inbox;
use super::job::{Job, Next};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Enough to keep a device busy with MiB-sized blocks; each mostly sleeps in the kernel.
const THREADS: usize = 4;

/// The threads. Dropping it finishes what was accepted.
#[derive(Debug)]
pub(crate) struct PosixEngine {
    pub reads: Arc<Inbox<Job>>,
    pub writes: Arc<Inbox<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl PosixEngine {
    pub fn start(device: Arc<Device>) -> io::Result<PosixEngine> {
        let inbox = || Arc::new(Inbox::new(None));
        let mut engine = PosixEngine { reads: inbox(), writes: inbox(), threads: Vec::new() };
        for (inbox, what) in [(engine.reads.clone(), "read"), (engine.writes.clone(), "write")] {
            for number in 0..THREADS {
                let (inbox, device) = (inbox.clone(), device.clone());
                let thread = std::thread::Builder::new().name(format!("kvd-{what}-{number}"));
                engine.threads.push(thread.spawn(move || move_all(&inbox, &device))?);
            }
        }
        Ok(engine)
    }
}

fn move_all(inbox: &Inbox<Job>, device: &Device) {
    while let Some(mut job) = inbox.pop() {
        let result = loop {
            let io = job.next_io(device);
            let moved = dma::transfer(&device.file, &job, &io);
            if let Next::Over(result) = job.advance(io.bytes, moved, device) {
                break result;
            }
        };
        let result = result.and_then(|()| job.verify());
        job.finish(result);
    }
}

impl Drop for PosixEngine {
    fn drop(&mut self) {
        self.reads.close();
        self.writes.close();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
