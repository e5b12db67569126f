//! The one thread that owns the ledger.
//!
//! Everything that happens reaches it through one bounded queue; it steps the ledger and has the [`Executor`] do what the
//! ledger wants. It sleeps until the next message, the ledger's next deadline or the event stream's next beat, so an idle daemon
//! uses no CPU to speak of. Nothing on this thread waits: not for a disk, not for an engine, not for a subscriber.

use crate::clock::Clock;
use crate::executor::Executor;
use crate::measure::Measures;
use crate::session::Outbox;
use kvd_block::SessionId;
use kvd_block::digest::Digest;
use kvd_ledger::{Action, Input, Ledger};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

/// Messages waiting for the driver; senders wait when there are more.
const QUEUE_MESSAGES: usize = 4096;
/// Messages handled before transfers and events are sent off: one batch of I/O, one event message.
const TURN_MESSAGES: usize = 128;

/// Something for the driver to do.
pub enum Turn {
    /// A request of an engine, and when it was read from the socket.
    Request {
        /// What to do.
        input: Input,
        /// When it came.
        received: Instant,
    },
    /// Outcomes and orders.
    Inputs(Vec<Input>),
    /// Where to send what is said to a session.
    Attach(SessionId, Outbox),
    /// A question that only the owner of the ledger can answer.
    Ask(Box<dyn FnOnce(&mut View<'_>) + Send>),
    /// Tell subscribers that a life begins, and what is resident.
    Announce,
    /// End the thread.
    Stop,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Turn::Request { input, .. } => f.debug_tuple("Request").field(input).finish(),
            Turn::Inputs(inputs) => f.debug_tuple("Inputs").field(&inputs.len()).finish(),
            Turn::Attach(session, _) => f.debug_tuple("Attach").field(session).finish(),
            Turn::Ask(_) => f.write_str("Ask"),
            Turn::Announce => f.write_str("Announce"),
            Turn::Stop => f.write_str("Stop"),
        }
    }
}

/// What a question may look at. Between two inputs, so everything it sees is of one moment.
#[derive(Debug)]
pub struct View<'a> {
    /// The ledger.
    pub ledger: &'a Ledger,
    /// Number of the next event message: everything up to now has a smaller one.
    pub next_event: u64,
    /// Of everything resident now.
    pub digest: Digest,
}

/// Sends to the driver.
#[derive(Debug, Clone)]
pub struct Driver(mpsc::Sender<Turn>);

/// The driver is gone: the daemon is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is stopping")]
pub struct Stopped;

impl Driver {
    /// A driver that does not run yet, and its queue.
    pub fn queue() -> (Driver, mpsc::Receiver<Turn>) {
        let (sender, receiver) = mpsc::channel(QUEUE_MESSAGES);
        (Driver(sender), receiver)
    }

    /// Queues `turn`, waiting while the queue is full.
    pub async fn send(&self, turn: Turn) -> Result<(), Stopped> {
        self.0.send(turn).await.map_err(|_| Stopped)
    }

    /// Queues inputs.
    pub async fn inputs(&self, inputs: Vec<Input>) -> Result<(), Stopped> {
        self.send(Turn::Inputs(inputs)).await
    }

    /// Asks the owner of the ledger. Keep `question` short: nothing else happens meanwhile.
    pub async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&mut View<'_>) -> T + Send + 'static) -> Result<T, Stopped> {
        let (answer, answered) = oneshot::channel();
        let question = Box::new(move |view: &mut View<'_>| {
            let _ = answer.send(question(view));
        });
        self.send(Turn::Ask(question)).await?;
        answered.await.map_err(|_| Stopped)
    }
}

/// The thread's own state.
struct Loop {
    ledger: Ledger,
    executor: Executor,
    clock: Clock,
    measures: Arc<Measures>,
    actions: Vec<Action>,
}

/// Starts the thread. It ends at [`Turn::Stop`]; `ended` is dropped with it, also when it panics.
pub fn start(
    queue: mpsc::Receiver<Turn>,
    ledger: Ledger,
    executor: Executor,
    clock: Clock,
    measures: Arc<Measures>,
    ended: oneshot::Sender<Infallible>,
) -> io::Result<JoinHandle<()>> {
    // A runtime of one thread with only a timer: it sleeps in a condition variable, not in the other runtime's poll.
    let timer = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let mut driver = Loop { ledger, executor, clock, measures, actions: Vec::new() };
    Builder::new().name("kvd-ledger".into()).spawn(move || {
        let _ended = ended;
        timer.block_on(driver.run(queue));
    })
}

impl Loop {
    async fn run(&mut self, mut queue: mpsc::Receiver<Turn>) {
        let mut turns = Vec::with_capacity(TURN_MESSAGES);
        loop {
            if !self.wait(&mut queue, &mut turns).await {
                return;
            }
            for turn in turns.drain(..) {
                match turn {
                    Turn::Stop => return self.end_turn(),
                    Turn::Announce => self.executor.events.announce(self.clock.now(), &self.ledger).await,
                    _ => self.handle(turn),
                }
            }
            self.end_turn();
        }
    }

    fn end_turn(&mut self) {
        self.executor.end_turn(self.clock.now(), &self.ledger);
    }

    /// Waits for messages, for the ledger's deadline or for the next beat of the events. False when nobody is left to send any.
    async fn wait(&mut self, queue: &mut mpsc::Receiver<Turn>, turns: &mut Vec<Turn>) -> bool {
        let Some(deadline) = [self.ledger.next_deadline(), self.executor.events.next_beat()].into_iter().flatten().min() else {
            return queue.recv_many(turns, TURN_MESSAGES).await > 0;
        };
        let deadline = self.clock.instant(deadline).into();
        match timeout_at(deadline, queue.recv_many(turns, TURN_MESSAGES)).await {
            Ok(count) => count > 0,
            Err(_) => {
                self.step(Input::Tick);
                true
            }
        }
    }

    fn handle(&mut self, turn: Turn) {
        match turn {
            Turn::Request { input, received } => {
                let is_lookup = matches!(input, Input::Lookup { .. });
                self.step(input);
                if is_lookup {
                    self.measures.lookup_seconds.observe(received.elapsed());
                }
            }
            Turn::Inputs(inputs) => inputs.into_iter().for_each(|input| self.step(input)),
            Turn::Attach(session, outbox) => self.executor.attach(session, outbox),
            Turn::Ask(question) => {
                self.end_turn();
                let (next_event, digest) = (self.executor.events.next_number(), self.executor.events.digest());
                question(&mut View { ledger: &self.ledger, next_event, digest });
            }
            Turn::Announce | Turn::Stop => {}
        }
    }

    fn step(&mut self, input: Input) {
        if let Input::CloseSession { session } = input {
            self.executor.detach(session);
        }
        self.ledger.step(self.clock.now(), input, &mut self.actions);
        self.executor.perform(&mut self.actions);
    }
}
