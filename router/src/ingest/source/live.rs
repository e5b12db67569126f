//! The stream itself: a SUB socket that connects, or is connected to. It is read as fast as it brings messages; what the follower
//! cannot take is dropped and counted, which is a gap like any other.

use crate::ingest::stream::Message;
use bytes::Bytes;
use futures::StreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::debug;
use zeromq::{Socket, SocketEvent, SocketRecv, SubSocket, ZmqMessage};

/// Most messages that wait for the follower.
const MOST_WAITING: usize = 8192;
/// Most bytes of them.
const MOST_WAITING_BYTES: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where a stream comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub address: String,
    /// The publisher connects to us.
    pub bind: bool,
    /// Prefix of the topics that are wanted.
    pub topic: String,
}

/// What a socket brought.
#[derive(Debug)]
pub(super) enum Arrival {
    Connected,
    Disconnected,
    Message(Message),
}

/// What was lost on the way.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Messages that the follower could not take.
    pub flooded: AtomicU64,
    /// Messages without number and payload.
    pub misframed: AtomicU64,
    waiting_bytes: AtomicUsize,
}

/// The follower's end.
#[derive(Debug)]
pub(super) struct Arrivals {
    queue: mpsc::Receiver<Arrival>,
    losses: Arc<Losses>,
}

impl Arrivals {
    /// What came next; `None` when the socket's task ended.
    pub(super) async fn next(&mut self) -> Option<Arrival> {
        let arrival = self.queue.recv().await;
        if let Some(Arrival::Message(message)) = &arrival {
            self.losses.waiting_bytes.fetch_sub(message.payload.len(), Ordering::Relaxed);
        }
        arrival
    }
}

struct Reader {
    endpoint: Endpoint,
    queue: mpsc::Sender<Arrival>,
    losses: Arc<Losses>,
}

/// Reads `endpoint` until the returned end is dropped.
pub(super) fn read(endpoint: Endpoint, losses: Arc<Losses>) -> (Arrivals, tokio::task::JoinHandle<()>) {
    let (sender, queue) = mpsc::channel(MOST_WAITING);
    let reader = Reader { endpoint, queue: sender, losses: losses.clone() };
    (Arrivals { queue, losses }, tokio::spawn(reader.run()))
}

impl Reader {
    /// Makes a new socket after each disconnection, so that nothing of the old connection comes after the new one began.
    async fn run(self) {
        let mut pause = FIRST_PAUSE;
        while !self.queue.is_closed() {
            let mut socket = SubSocket::new();
            let mut events = socket.monitor();
            match self.open(&mut socket).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    let connected = self.endpoint.bind || self.tell(Arrival::Connected).await;
                    if !connected || !self.pump(&mut socket, &mut events).await {
                        return;
                    }
                }
                Err(why) => debug!(endpoint = self.endpoint.address, why, "no connection to an event stream"),
            }
            drop(socket);
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn open(&self, socket: &mut SubSocket) -> Result<(), String> {
        socket.subscribe(&self.endpoint.topic).await.map_err(|error| error.to_string())?;
        if self.endpoint.bind {
            return socket.bind(&self.endpoint.address).await.map(drop).map_err(|error| error.to_string());
        }
        match timeout(CONNECT_TIMEOUT, socket.connect(&self.endpoint.address)).await {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err("no answer".into()),
        }
    }

    async fn tell(&self, arrival: Arrival) -> bool {
        self.queue.send(arrival).await.is_ok()
    }

    /// Passes on what the socket brings, until it is of no use; false when nobody listens any more.
    async fn pump(&self, socket: &mut SubSocket, events: &mut futures::channel::mpsc::Receiver<SocketEvent>) -> bool {
        loop {
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(SocketEvent::Accepted(..)) if self.endpoint.bind && !self.tell(Arrival::Connected).await => return false,
                    Some(SocketEvent::Disconnected(_)) => {
                        if !self.tell(Arrival::Disconnected).await {
                            return false;
                        }
                        if !self.endpoint.bind {
                            return true;
                        }
                    }
                    Some(_) => {}
                    None => return self.tell(Arrival::Disconnected).await,
                },
                message = socket.recv() => match message {
                    Ok(message) => self.pass_on(message),
                    Err(error) => {
                        debug!(endpoint = self.endpoint.address, %error, "an event stream broke off");
                        return self.tell(Arrival::Disconnected).await;
                    }
                },
                () = self.queue.closed() => return false,
            }
        }
    }

    fn pass_on(&self, frames: ZmqMessage) {
        let Some(message) = message(&frames) else {
            self.losses.misframed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let bytes = message.payload.len();
        let before = self.losses.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > MOST_WAITING_BYTES || self.queue.try_send(Arrival::Message(message)).is_err() {
            self.losses.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.losses.flooded.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Number and payload: the last two frames, whatever comes before.
pub(super) fn message(frames: &ZmqMessage) -> Option<Message> {
    let payload: Bytes = frames.get(frames.len().checked_sub(1)?)?.clone();
    let number = frames.get(frames.len().checked_sub(2)?)?;
    Some(Message { number: u64::from_be_bytes(number.as_ref().try_into().ok()?), payload })
}
