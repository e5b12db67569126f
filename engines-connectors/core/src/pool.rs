//! A few threads that copy.
//!
//! Copies are bound by memory bandwidth, and two to four cores use all that a socket's share has to give; more would only
//! take time from the engine. The thread that asks for a batch works on it too, so a batch never waits for the pool.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

const MOST_THREADS: usize = 4;

type Task = Box<dyn FnOnce() + Send>;

/// Threads that copy, started once. They end when the pool is dropped and the queue is empty.
#[derive(Debug)]
pub struct CopyPool {
    tasks: Mutex<Sender<Task>>,
    threads: usize,
}

impl CopyPool {
    /// A pool of `threads` copiers; zero means one per core, at most four.
    pub fn new(threads: usize) -> CopyPool {
        let cores = || thread::available_parallelism().map_or(1, |cores| cores.get());
        let wanted = if threads == 0 { cores().min(MOST_THREADS) } else { threads };
        let (sender, receiver) = channel::<Task>();
        let receiver = Arc::new(Mutex::new(receiver));
        let started = (0..wanted).map_while(|_| start(receiver.clone())).count();
        CopyPool { tasks: Mutex::new(sender), threads: started }
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task` on one of the threads, or right here when there is none.
    pub(crate) fn spawn(&self, task: impl FnOnce() + Send + 'static) {
        if self.threads == 0 {
            return task();
        }
        let _ = self.tasks.lock().expect("no panic while held").send(Box::new(task));
    }

    /// `work(0)` to `work(count - 1)`, spread over the pool and the calling thread. Results are in order.
    ///
    /// # Panics
    /// When `work` does.
    pub(crate) fn map<T: Send + 'static>(&self, count: usize, work: impl Fn(usize) -> T + Send + Sync + 'static) -> Vec<T> {
        let results = Mutex::new(Results { values: (0..count).map(|_| None).collect(), left: count });
        let batch = Arc::new(Batch { count, next: AtomicUsize::new(0), work, results, finished: Condvar::new() });
        for _ in 1..self.threads.min(count) {
            let batch = batch.clone();
            self.spawn(move || batch.help());
        }
        batch.help();
        batch.wait()
    }
}

fn start(tasks: Arc<Mutex<Receiver<Task>>>) -> Option<()> {
    let run = move || {
        loop {
            let task = tasks.lock().expect("no panic while held").recv();
            let Ok(task) = task else { return };
            let _ = catch_unwind(AssertUnwindSafe(task));
        }
    };
    thread::Builder::new().name("kvd-copy".into()).spawn(run).ok().map(drop)
}

struct Batch<T, F> {
    count: usize,
    next: AtomicUsize,
    work: F,
    results: Mutex<Results<T>>,
    finished: Condvar,
}

struct Results<T> {
    values: Vec<Option<T>>,
    left: usize,
}

impl<T, F: Fn(usize) -> T> Batch<T, F> {
    /// Works until nothing is left to begin.
    fn help(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count {
                return;
            }
            let value = catch_unwind(AssertUnwindSafe(|| (self.work)(index))).ok();
            let mut results = self.results.lock().expect("no panic while held");
            results.values[index] = value;
            results.left -= 1;
            if results.left == 0 {
                self.finished.notify_all();
            }
        }
    }

    /// Waits until all that was begun is done.
    fn wait(&self) -> Vec<T> {
        let results = self.results.lock().expect("no panic while held");
        let mut results = self.finished.wait_while(results, |results| results.left > 0).expect("no panic while held");
        std::mem::take(&mut results.values).into_iter().map(|value| value.expect("a copy panicked")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_from_any_number_of_threads() {
        for threads in [1, 3] {
            let pool = CopyPool::new(threads);
            assert_eq!(pool.map(100, |i| i * 2), (0..100).map(|i| i * 2).collect::<Vec<_>>());
            assert!(pool.map(0, |i| i).is_empty());
        }
    }

    #[test]
    fn a_batch_finishes_while_the_pool_is_busy_with_something_else() {
        let pool = CopyPool::new(1);
        let (hold, held) = channel::<()>();
        pool.spawn(move || assert!(held.recv().is_err()));
        assert_eq!(pool.map(3, |i| i), [0, 1, 2]);
        drop(hold);
    }

    #[test]
    #[should_panic(expected = "a copy panicked")]
    fn a_panic_reaches_the_caller_and_nobody_hangs() {
        CopyPool::new(2).map(4, |i| assert!(i != 2));
    }
}
