//! An engine that publishes KV events as vLLM 0.32 does, and replays them.

use bytes::Bytes;
use std::sync::{Arc, Mutex};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_64;
use zeromq::{PubSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

/// Messages by number; those that the replay buffer has lost are empty.
type Kept = Arc<Mutex<Vec<Bytes>>>;

/// A publisher with the sockets of one rank. Dropped, it is gone as a killed process is.
pub struct Engine {
    pub events: String,
    pub replay: String,
    block_tokens: usize,
    /// Every message so far, by number.
    kept: Kept,
    send: mpsc::UnboundedSender<(u64, Bytes)>,
    _runtime: Runtime,
}

impl Engine {
    /// Publishes at free ports.
    pub fn start(block_tokens: usize) -> Engine {
        Engine::start_at("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", block_tokens)
    }

    /// Publishes, from number 0 on, at these addresses.
    pub fn start_at(events: &str, replay: &str, block_tokens: usize) -> Engine {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let kept = Kept::default();
        let (send, mut queue) = mpsc::unbounded_channel::<(u64, Bytes)>();
        let (events, replay) = runtime.block_on(async {
            let (mut publish, mut answers) = (PubSocket::new(), RouterSocket::new());
            let bound = (publish.bind(events).await.unwrap().to_string(), answers.bind(replay).await.unwrap().to_string());
            tokio::spawn(async move {
                while let Some((number, payload)) = queue.recv().await {
                    let frames = vec![Bytes::from_static(b"kv@test"), Bytes::copy_from_slice(&number.to_be_bytes()), payload];
                    publish.send(ZmqMessage::try_from(frames).unwrap()).await.unwrap();
                }
            });
            tokio::spawn(replay_all(answers, kept.clone()));
            bound
        });
        Engine { events, replay, block_tokens, kept, send, _runtime: runtime }
    }

    /// As `[[workers]]` says it, without what every test adds.
    pub fn toml(&self, name: &str) -> String {
        format!(
            "[[workers]]\nname = \"{name}\"\nmodel = \"m\"\nblock_tokens = {}\nevents = \"{}\"\nreplay = \"{}\"\nurl = \"http://{name}\"\n",
            self.block_tokens, self.events, self.replay
        )
    }

    /// All whole blocks of `tokens` are computed.
    pub fn store(&self, tokens: &[u32], medium: &str) {
        let names = self.names(tokens);
        let whole = &tokens[..names.len() * self.block_tokens];
        let mut event = Vec::new();
        map(&mut event, 8, "BlockStored");
        hashes(&mut event, &names);
        key(&mut event, "parent_block_hash");
        rmp::encode::write_nil(&mut event).unwrap();
        key(&mut event, "token_ids");
        rmp::encode::write_array_len(&mut event, whole.len() as u32).unwrap();
        for token in whole {
            rmp::encode::write_uint(&mut event, u64::from(*token)).unwrap();
        }
        key(&mut event, "block_size");
        rmp::encode::write_uint(&mut event, self.block_tokens as u64).unwrap();
        for nothing in ["lora_id", "lora_name"] {
            key(&mut event, nothing);
            rmp::encode::write_nil(&mut event).unwrap();
        }
        key(&mut event, "medium");
        rmp::encode::write_str(&mut event, medium).unwrap();
        self.publish(&event);
    }

    /// Blocks `from..` of `tokens` are evicted.
    pub fn remove(&self, tokens: &[u32], from: usize, medium: &str) {
        let mut event = Vec::new();
        map(&mut event, 3, "BlockRemoved");
        hashes(&mut event, &self.names(tokens)[from..]);
        key(&mut event, "medium");
        rmp::encode::write_str(&mut event, medium).unwrap();
        self.publish(&event);
    }

    /// The replay buffer now has the last `messages` only.
    pub fn lose_all_but(&self, messages: usize) {
        let mut kept = self.kept.lock().unwrap();
        let lost = kept.len().saturating_sub(messages);
        kept[..lost].iter_mut().for_each(|payload| *payload = Bytes::new());
    }

    /// Publishes one event, encoded.
    pub fn publish(&self, event: &[u8]) {
        let mut payload = Vec::new();
        rmp::encode::write_array_len(&mut payload, 3).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        rmp::encode::write_f64(&mut payload, now).unwrap();
        rmp::encode::write_array_len(&mut payload, 1).unwrap();
        payload.extend(event);
        rmp::encode::write_uint(&mut payload, 0).unwrap();
        self.publish_payload(payload);
    }

    /// Publishes a whole payload, whatever it is.
    pub fn publish_payload(&self, payload: Vec<u8>) {
        let payload = Bytes::from(payload);
        let mut kept = self.kept.lock().unwrap();
        let number = kept.len() as u64;
        kept.push(payload.clone());
        self.send.send((number, payload)).unwrap();
    }

    /// What it calls the whole blocks of `tokens`: each name depends on all tokens before.
    fn names(&self, tokens: &[u32]) -> Vec<u64> {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        (1..=tokens.len() / self.block_tokens).map(|blocks| xxh3_64(&bytes[..blocks * self.block_tokens * 4])).collect()
    }
}

async fn replay_all(mut socket: RouterSocket, kept: Kept) {
    while let Ok(question) = socket.recv().await {
        let (Some(peer), Some(asked)) = (question.get(0).cloned(), question.iter().last()) else { continue };
        let Ok(first) = asked.as_ref().try_into().map(u64::from_be_bytes) else { continue };
        let kept: Vec<Bytes> = kept.lock().unwrap().iter().skip(first as usize).cloned().collect();
        let answers = (first..)
            .zip(kept)
            .filter(|(_, payload)| !payload.is_empty())
            .map(|(number, payload)| (Bytes::copy_from_slice(&number.to_be_bytes()), payload));
        let end = (Bytes::copy_from_slice(&(-1i64).to_be_bytes()), Bytes::new());
        for (number, payload) in answers.chain([end]) {
            let frames = vec![peer.clone(), Bytes::new(), Bytes::new(), number, payload];
            if socket.send(ZmqMessage::try_from(frames).unwrap()).await.is_err() {
                break;
            }
        }
    }
}

fn map(out: &mut Vec<u8>, keys: u32, kind: &str) {
    rmp::encode::write_map_len(out, keys).unwrap();
    key(out, "type");
    key(out, kind);
}

fn key(out: &mut Vec<u8>, name: &str) {
    rmp::encode::write_str(out, name).unwrap();
}

fn hashes(out: &mut Vec<u8>, names: &[u64]) {
    key(out, "block_hashes");
    rmp::encode::write_array_len(out, names.len() as u32).unwrap();
    names.iter().for_each(|name| rmp::encode::write_u64(out, *name).unwrap());
}
