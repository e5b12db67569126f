//! Writes catalog changes behind the daemon's back, in order.
//!
//! No answer to an engine ever waits for the catalog. Changes that are queued are merged into one write, so a slow disk makes
//! batches larger instead of the queue longer; when the queue is full, the changes come back to the caller at once.

use super::{Catalog, CatalogChange};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::{error, info};

/// Most changes in one write: about 1.5 MB.
const MOST_CHANGES_PER_WRITE: usize = 32_768;
/// How often a catalog that cannot be written is opened again.
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// The thread that writes. Dropping it writes what is queued first.
#[derive(Debug)]
pub struct CatalogWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The queue had no room; the changes come back, none of them was taken.
#[derive(Debug, thiserror::Error)]
#[error("the catalog's queue is full")]
pub struct QueueFull(pub Vec<CatalogChange>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    most_changes: usize,
    failed_changes: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    changes: VecDeque<CatalogChange>,
    /// Changes ever taken, and of these, how many are written or given up.
    taken: u64,
    settled: u64,
    closed: bool,
}

impl CatalogWriter {
    /// Starts the thread. The queue holds at most `most_changes` changes.
    pub fn start(catalog: Arc<Catalog>, most_changes: usize) -> std::io::Result<CatalogWriter> {
        let queue = Mutex::new(Queue::default());
        let shared = Arc::new(Shared { queue, changed: Condvar::new(), most_changes, failed_changes: AtomicU64::new(0) });
        let in_thread = shared.clone();
        let thread = std::thread::Builder::new().name("kvd-catalog".into()).spawn(move || write_all(&catalog, &in_thread))?;
        Ok(CatalogWriter { shared, thread: Some(thread) })
    }

    /// Queues changes; they are applied in the order in which they were queued. Never waits.
    pub fn submit(&self, changes: Vec<CatalogChange>) -> Result<(), QueueFull> {
        let mut queue = self.shared.lock();
        if queue.changes.len() + changes.len() > self.shared.most_changes {
            return Err(QueueFull(changes));
        }
        queue.taken += changes.len() as u64;
        queue.changes.extend(changes);
        drop(queue);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Waits until everything queued before this call is written or given up.
    pub fn flush(&self) {
        let mut queue = self.shared.lock();
        let until = queue.taken;
        while queue.settled < until {
            queue = self.shared.wait(queue);
        }
    }

    /// Changes waiting to be written.
    pub fn queued_changes(&self) -> usize {
        self.shared.lock().changes.len()
    }

    /// Changes that could not be written, ever. They cost misses after the next restart.
    pub fn failed_changes(&self) -> u64 {
        self.shared.failed_changes.load(Ordering::Relaxed)
    }
}

impl Drop for CatalogWriter {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no code panics while it holds this lock")
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed.wait(queue).expect("no code panics while it holds this lock")
    }

    /// The next changes to write together; `None` when the writer is closed and nothing is left.
    fn next_write(&self) -> Option<Vec<CatalogChange>> {
        let mut queue = self.lock();
        while queue.changes.is_empty() {
            if queue.closed {
                return None;
            }
            queue = self.wait(queue);
        }
        let count = queue.changes.len().min(MOST_CHANGES_PER_WRITE);
        Some(queue.changes.drain(..count).collect())
    }

    fn settle(&self, count: usize) {
        self.lock().settled += count as u64;
        self.changed.notify_all();
    }
}

fn write_all(catalog: &Catalog, shared: &Shared) {
    let mut failing = false;
    let mut next_try = Instant::now();
    while let Some(changes) = shared.next_write() {
        let count = changes.len();
        let mut written = catalog.apply(changes.iter().copied());
        if written.is_err() && Instant::now() >= next_try {
            written = catalog.reopen().and_then(|()| catalog.apply(changes));
            next_try = Instant::now() + REOPEN_EVERY;
        }
        match written {
            Ok(()) if failing => {
                failing = false;
                info!(path = %catalog.path().display(), "the catalog can be written again");
            }
            Ok(()) => {}
            Err(why) => {
                shared.failed_changes.fetch_add(count as u64, Ordering::Relaxed);
                if !failing {
                    error!(%why, "catalog rows are lost: their blocks will be misses after the next restart");
                }
                failing = true;
            }
        }
        shared.settle(count);
    }
}
