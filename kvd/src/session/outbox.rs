//! What waits to be written to one engine.

use kvd_proto::local::ToEngine;
use tokio::sync::mpsc;

/// Messages waiting for one engine. An engine that has this many unread answers is not reading.
pub const OUTBOX_MESSAGES: usize = 4096;

/// The driver's end of an engine's connection.
#[derive(Debug, Clone)]
pub struct Outbox(mpsc::Sender<ToEngine>);

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotQueued {
    /// The engine does not read: close it.
    Full,
    /// The connection is gone.
    Closed,
}

impl Outbox {
    /// An outbox and the end its writer takes messages from.
    pub fn new() -> (Outbox, mpsc::Receiver<ToEngine>) {
        let (sender, receiver) = mpsc::channel(OUTBOX_MESSAGES);
        (Outbox(sender), receiver)
    }

    /// A handle that does not keep the connection open.
    pub fn downgrade(&self) -> WeakOutbox {
        WeakOutbox(self.0.downgrade())
    }

    /// Queues `message`; never waits.
    pub fn push(&self, message: ToEngine) -> Result<(), NotQueued> {
        self.0.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotQueued::Full,
            mpsc::error::TrySendError::Closed(_) => NotQueued::Closed,
        })
    }
}

/// An outbox for whoever must not keep the connection open: when the driver lets go, the connection ends.
#[derive(Debug, Clone)]
pub struct WeakOutbox(mpsc::WeakSender<ToEngine>);

impl WeakOutbox {
    /// Queues `message`; never waits.
    pub fn push(&self, message: ToEngine) -> Result<(), NotQueued> {
        self.0.upgrade().map_or(Err(NotQueued::Closed), |sender| Outbox(sender).push(message))
    }
}
