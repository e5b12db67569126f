//! The PUB socket, and how much waits in it for subscribers that do not read.
//!
//! ZeroMQ bounds what waits for a subscriber by the number of messages only: one that is stopped, or behind a line that died, could
//! make the daemon hold gigabytes. When too much waits, every subscriber is disconnected. Those that live connect again by
//! themselves, see a gap, and ask for a replay; what waits for the others goes with their connection.

use super::ring::message;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::{debug, error, warn};
use zeromq::{PubSocket, Socket, SocketSend, ZmqError};

/// Most bytes that wait for subscribers.
const MOST_WAITING_BYTES: usize = 128 << 20;

/// Where subscribers connect.
pub struct Line {
    socket: PubSocket,
    endpoint: String,
    is_bound: bool,
    waiting_bytes: Arc<AtomicUsize>,
    most_waiting_bytes: usize,
}

/// A payload that some subscriber is still to get.
struct OnItsWay {
    payload: Bytes,
    waiting_bytes: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for OnItsWay {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.waiting_bytes.fetch_sub(self.payload.len(), Ordering::Relaxed);
    }
}

impl Line {
    /// Listens at `endpoint`.
    pub async fn bind(endpoint: &str) -> Result<Line, ZmqError> {
        let mut socket = PubSocket::new();
        let endpoint = socket.bind(endpoint).await?.to_string();
        Ok(Line { socket, endpoint, is_bound: true, waiting_bytes: Arc::default(), most_waiting_bytes: MOST_WAITING_BYTES })
    }

    /// Where subscribers connect.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sends a message to whoever listens. Waits for nobody.
    pub async fn send(&mut self, topic: Bytes, number: u64, payload: Bytes) {
        if self.waiting_bytes.load(Ordering::Relaxed) > self.most_waiting_bytes {
            self.disconnect_all().await;
        }
        if !self.is_bound {
            self.listen_again().await;
        }
        let (bytes, waiting_bytes) = (payload.len(), self.waiting_bytes.clone());
        waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let payload = Bytes::from_owner(OnItsWay { payload, waiting_bytes });
        if let Err(error) = self.socket.send(message(vec![topic, Bytes::copy_from_slice(&number.to_be_bytes()), payload])).await {
            debug!(%error, number, "an event message was not sent");
        }
    }

    /// Lets go of the port.
    pub async fn close(mut self) {
        let _ = self.socket.unbind_all().await;
    }

    async fn disconnect_all(&mut self) {
        let bytes = self.waiting_bytes.load(Ordering::Relaxed);
        warn!(bytes, "a subscriber of events does not read: all are disconnected, and those that live connect again");
        let _ = self.socket.unbind_all().await;
        self.socket = PubSocket::new();
        self.waiting_bytes = Arc::default();
        self.is_bound = false;
    }

    async fn listen_again(&mut self) {
        match self.socket.bind(&self.endpoint).await {
            Ok(_) => self.is_bound = true,
            Err(error) => error!(%error, endpoint = self.endpoint, "nobody can subscribe to events: tried again with the next message"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{sleep, timeout};
    use zeromq::{SocketRecv, SubSocket};

    const PAYLOAD_BYTES: usize = 1 << 20;

    async fn subscribe(line: &Line) -> SubSocket {
        let mut socket = SubSocket::new();
        socket.connect(line.endpoint()).await.unwrap();
        socket.subscribe("t").await.unwrap();
        sleep(Duration::from_millis(200)).await;
        socket
    }

    #[tokio::test]
    async fn whoever_does_not_read_is_disconnected_before_much_waits() {
        let mut line = Line::bind("tcp://127.0.0.1:0").await.unwrap();
        line.most_waiting_bytes = 8 * PAYLOAD_BYTES;
        let _stuck = subscribe(&line).await;
        let first = line.waiting_bytes.clone();
        for number in 0..64 {
            line.send(Bytes::from("t"), number, Bytes::from(vec![0; PAYLOAD_BYTES])).await;
            sleep(Duration::from_millis(5)).await;
        }
        assert!(!Arc::ptr_eq(&first, &line.waiting_bytes), "it was disconnected");
        assert!(first.load(Ordering::Relaxed) <= 9 * PAYLOAD_BYTES);
        let mut other = subscribe(&line).await;
        line.send(Bytes::from("t"), 64, Bytes::from("payload")).await;
        let heard = timeout(Duration::from_secs(10), other.recv()).await.expect("it hears").unwrap();
        assert_eq!(&heard.get(2).unwrap()[..], b"payload");
    }

    #[tokio::test]
    async fn nothing_waits_when_nobody_listens() {
        let mut line = Line::bind("tcp://127.0.0.1:0").await.unwrap();
        line.send(Bytes::from("t"), 0, Bytes::from(vec![0; PAYLOAD_BYTES])).await;
        assert_eq!(line.waiting_bytes.load(Ordering::Relaxed), 0);
    }
}
