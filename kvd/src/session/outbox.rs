//! What waits to be written to one engine.

use kvd_proto::local::ToEngine;
use std::convert::Infallible;
use tokio::sync::mpsc;

/// Messages waiting for one engine: an engine with this many unread answers does not read.
pub const OUTBOX_MESSAGES: usize = 1024;

/// The driver's end of an engine's connection.
#[derive(Debug, Clone)]
pub struct Outbox {
    messages: mpsc::Sender<ToEngine>,
    /// Carries nothing: its end tells the connection that the driver has let go, even while a write is stuck.
    _held: mpsc::Sender<Infallible>,
}

/// The connection's end.
#[derive(Debug)]
pub struct Answers {
    /// What to write.
    pub messages: mpsc::Receiver<ToEngine>,
    /// Ends when the driver lets go.
    pub held: mpsc::Receiver<Infallible>,
}

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotQueued {
    /// The engine does not read: close it.
    Full,
    /// The connection is gone.
    Closed,
}

impl Outbox {
    /// An outbox and the connection's end of it.
    pub fn new() -> (Outbox, Answers) {
        let (messages, to_write) = mpsc::channel(OUTBOX_MESSAGES);
        let (held, end) = mpsc::channel(1);
        (Outbox { messages, _held: held }, Answers { messages: to_write, held: end })
    }

    /// A handle that does not keep the connection open.
    pub fn downgrade(&self) -> WeakOutbox {
        WeakOutbox(self.messages.downgrade())
    }

    /// Queues `message`; never waits.
    pub fn push(&self, message: ToEngine) -> Result<(), NotQueued> {
        push(&self.messages, message)
    }
}

/// An outbox for whoever must not keep the connection open: when the driver lets go, the connection ends.
#[derive(Debug, Clone)]
pub struct WeakOutbox(mpsc::WeakSender<ToEngine>);

impl WeakOutbox {
    /// Queues `message`; never waits.
    pub fn push(&self, message: ToEngine) -> Result<(), NotQueued> {
        self.0.upgrade().map_or(Err(NotQueued::Closed), |sender| push(&sender, message))
    }
}

fn push(messages: &mpsc::Sender<ToEngine>, message: ToEngine) -> Result<(), NotQueued> {
    messages.try_send(message).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => NotQueued::Full,
        mpsc::error::TrySendError::Closed(_) => NotQueued::Closed,
    })
}
