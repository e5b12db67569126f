//! The future outcome of a batch of transfers.
//!
//! Dropping a [`Completion`] cancels nothing: the I/O goes on, its slots stay owned by the tier until the kernel
//! is done with them, and the outcome is discarded.

use futures::channel::oneshot;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

/// Resolves to the outcome of one batch. `None` when the tier was shut down before it finished.
pub struct Completion<T>(Source<T>);

enum Source<T> {
    Tier(oneshot::Receiver<T>),
    Wrapped(Pin<Box<dyn Future<Output = Option<T>> + Send>>),
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The tier's end of a [`Completion`].
#[derive(Debug)]
pub struct Completer<T>(oneshot::Sender<T>);

impl<T> Completion<T> {
    /// A pending completion and the end that resolves it.
    pub fn pending() -> (Completer<T>, Completion<T>) {
        let (sender, receiver) = oneshot::channel();
        (Completer(sender), Completion(Source::Tier(receiver)))
    }

    /// One that is resolved already.
    pub fn ready(outcome: T) -> Completion<T> {
        let (completer, completion) = Completion::pending();
        completer.complete(outcome);
        completion
    }

    /// One that resolves as `future` does, for tiers that wrap another tier. The future runs only while somebody waits: the
    /// I/O must not depend on it.
    pub fn wrapped(future: impl Future<Output = Option<T>> + Send + 'static) -> Completion<T> {
        Completion(Source::Wrapped(Box::pin(future)))
    }

    /// Blocks this thread until the outcome is there. For tests and tools; never call it on a runtime's thread.
    pub fn wait(self) -> Option<T> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut completion = pin!(self);
        loop {
            if let Poll::Ready(outcome) = completion.as_mut().poll(&mut Context::from_waker(&waker)) {
                return outcome;
            }
            std::thread::park();
        }
    }
}

impl<T> fmt::Debug for Completion<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Completion")
    }
}

impl<T> Completer<T> {
    /// Resolves the completion. The outcome is discarded when nobody waits for it.
    pub fn complete(self, outcome: T) {
        let _ = self.0.send(outcome);
    }
}

impl<T> Future for Completion<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        match &mut self.0 {
            Source::Tier(receiver) => Pin::new(receiver).poll(context).map(Result::ok),
            Source::Wrapped(future) => future.as_mut().poll(context),
        }
    }
}
