//! Encodes, keeps and sends event messages, and answers who missed some.

use super::feed::Numbered;
use super::line::Line;
use super::merge;
use super::ring::{Ring, message};
use crate::layouts::Layouts;
use crate::settings::EventSettings;
use bytes::Bytes;
use kvd_proto::wire::{kv_event, replay};
use kvd_shm::Arena;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, warn};
use zeromq::{RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

/// A subscriber that does not take a replayed message for this long loses the rest of its replay.
const REPLAY_SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// A replay that takes longer ends early: others wait for their turn.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(20);

/// Why events cannot be published.
#[derive(Debug, thiserror::Error)]
#[error("cannot publish KV events at {endpoint}: {source}; set `[events] {setting}` to another address, or `[events] enabled = false`")]
pub struct EventsError {
    endpoint: String,
    setting: &'static str,
    source: zeromq::ZmqError,
}

/// Bound sockets of the event stream.
pub struct Publisher {
    line: Line,
    replay: RouterSocket,
    /// Where subscribers connect.
    pub endpoint: String,
    /// Where missed messages are asked for.
    pub replay_endpoint: String,
    topic: Bytes,
    ring: Arc<Mutex<Ring>>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Publisher({}, {})", self.endpoint, self.replay_endpoint)
    }
}

impl Publisher {
    /// Binds both sockets.
    pub async fn bind(settings: &EventSettings) -> Result<Publisher, EventsError> {
        let mut replay = RouterSocket::new();
        let failed = |endpoint: &str, setting| {
            let endpoint = endpoint.to_owned();
            move |source| EventsError { endpoint, setting, source }
        };
        let line = Line::bind(&settings.endpoint).await.map_err(failed(&settings.endpoint, "endpoint"))?;
        let replays = replay.bind(&settings.replay_endpoint).await;
        let replay_endpoint = replays.map_err(failed(&settings.replay_endpoint, "replay_endpoint"))?;
        Ok(Publisher {
            endpoint: line.endpoint().to_owned(),
            line,
            replay,
            replay_endpoint: replay_endpoint.to_string(),
            topic: Bytes::from(settings.topic.clone()),
            ring: Arc::new(Mutex::new(Ring::new(settings.buffer))),
        })
    }

    /// Publishes what comes through `queue` until its senders are gone.
    pub fn start(self, queue: mpsc::Receiver<Numbered>, incarnation: u64, layouts: Arc<Layouts>, arena: Arc<Arena>) -> JoinHandle<()> {
        let Publisher { line, replay, topic, ring, .. } = self;
        let answering = tokio::spawn(answer_replays(replay, topic.clone(), ring.clone()));
        tokio::spawn(async move {
            publish_all(line, queue, Stream { topic, ring, incarnation, layouts, arena }).await;
            answering.abort();
        })
    }
}

struct Stream {
    topic: Bytes,
    ring: Arc<Mutex<Ring>>,
    incarnation: u64,
    layouts: Arc<Layouts>,
    arena: Arc<Arena>,
}

async fn publish_all(mut line: Line, mut queue: mpsc::Receiver<Numbered>, stream: Stream) {
    while let Some(numbered) = queue.recv().await {
        let number = numbered.number;
        let events = merge::message(numbered, stream.incarnation, &stream.layouts, &stream.arena);
        let payload = Bytes::from(kv_event::encode(crate::clock::unix_ms() as f64 / 1e3, &events));
        stream.ring.lock().expect("no panic while held").push(number, payload.clone());
        line.send(stream.topic.clone(), number, payload).await;
    }
    line.close().await;
}

async fn answer_replays(mut socket: RouterSocket, topic: Bytes, ring: Arc<Mutex<Ring>>) {
    loop {
        let question = match socket.recv().await {
            Ok(question) => question,
            Err(error) => {
                debug!(%error, "a replay question could not be read");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (Some(peer), Some(first)) = (question.get(0).cloned(), question.iter().last().and_then(|frame| replay::first_asked(frame)))
        else {
            debug!("a replay question is not 8 bytes: ignored");
            continue;
        };
        let kept = ring.lock().expect("no panic while held").from(first);
        let answered = timeout(REPLAY_TIMEOUT, answer(&mut socket, peer, &topic, kept)).await;
        if let Err(why) = answered.unwrap_or_else(|_| Err("it took too long".into())) {
            warn!(why, first, "a replay was given up");
        }
    }
}

async fn answer(socket: &mut RouterSocket, peer: Bytes, topic: &Bytes, kept: Vec<(u64, Bytes)>) -> Result<(), String> {
    let answers = kept.into_iter().map(|(number, payload)| (topic.clone(), Bytes::copy_from_slice(&number.to_be_bytes()), payload));
    let end = (Bytes::new(), Bytes::from_static(&replay::END), Bytes::new());
    for (topic, number, payload) in answers.chain([end]) {
        let frames = message(vec![peer.clone(), Bytes::new(), topic, number, payload]);
        send_bounded(socket, frames).await?;
    }
    Ok(())
}

async fn send_bounded(socket: &mut RouterSocket, frames: ZmqMessage) -> Result<(), String> {
    match timeout(REPLAY_SEND_TIMEOUT, socket.send(frames)).await {
        Ok(sent) => sent.map_err(|error| error.to_string()),
        Err(_) => Err("the subscriber does not read".into()),
    }
}
