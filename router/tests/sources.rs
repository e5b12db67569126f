//! Sources over real sockets: a fake publisher sends what real engines sent, and what goes wrong on the way.

mod support;

use bytes::Bytes;
use kvd_router::hash::{PromptIdentity, hash_prompt};
use kvd_router::index::{IndexLimits, Walk};
use kvd_router::ingest::namespaces::{NamespaceKey, Namespaces};
use kvd_router::ingest::source::{SourceId, SourceKind, SourceSpec, Sources, SpecError, StreamStatus, StreamView};
use kvd_router::ingest::stream::{Limits, Reason, State};
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::payload;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use zeromq::{PubSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

const KNOWN: State = State::Known { complete: true };

type Ring = Arc<Mutex<Vec<(u64, Bytes)>>>;

fn capture(name: &str) -> Bytes {
    let path = format!("{}/../tests/fixtures/wire/{name}.payload.msgpack", env!("CARGO_MANIFEST_DIR"));
    Bytes::from(std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
}

fn message(frames: Vec<Bytes>) -> ZmqMessage {
    ZmqMessage::try_from(frames).expect("frames")
}

/// An engine's publisher with a replay socket.
struct Engine {
    socket: PubSocket,
    ring: Ring,
    replays: JoinHandle<()>,
    events: String,
    replay: String,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.replays.abort();
    }
}

async fn answer(mut socket: RouterSocket, ring: Ring) {
    while let Ok(question) = socket.recv().await {
        let peer = question.get(0).expect("a peer").clone();
        let from = u64::from_be_bytes(question.iter().last().expect("a number").as_ref().try_into().expect("8 bytes"));
        let kept: Vec<(u64, Bytes)> = ring.lock().unwrap().iter().filter(|(number, _)| *number >= from).cloned().collect();
        let end = (u64::MAX, Bytes::new());
        for (number, payload) in kept.into_iter().chain([end]) {
            let number = Bytes::copy_from_slice(&number.to_be_bytes());
            let frames = vec![peer.clone(), Bytes::new(), Bytes::from_static(b"kv"), number, payload];
            let _ = socket.send(message(frames)).await;
        }
    }
}

impl Engine {
    async fn start(events: &str, replay: &str) -> Engine {
        let (mut socket, mut router) = (PubSocket::new(), RouterSocket::new());
        let events = socket.bind(events).await.expect("a free port").to_string();
        let replay = router.bind(replay).await.expect("a free port").to_string();
        let ring = Ring::default();
        let replays = tokio::spawn(answer(router, ring.clone()));
        Engine { socket, ring, replays, events, replay }
    }

    async fn new() -> Engine {
        Engine::start("tcp://127.0.0.1:0", "tcp://127.0.0.1:0").await
    }

    /// Keeps a message for replays without sending it.
    fn lose(&mut self, number: u64, payload: Bytes) {
        self.ring.lock().unwrap().push((number, payload));
    }

    async fn send(&mut self, number: u64, payload: Bytes) {
        self.lose(number, payload.clone());
        send(&mut self.socket, number, payload).await;
    }

    fn spec(&self, block_tokens: Option<u32>) -> SourceSpec {
        spec(&self.events, Some(self.replay.clone()), block_tokens)
    }
}

async fn send(socket: &mut PubSocket, number: u64, payload: Bytes) {
    let number = Bytes::copy_from_slice(&number.to_be_bytes());
    socket.send(message(vec![Bytes::from_static(b"kv"), number, payload])).await.expect("a socket that sends");
}

fn spec(events: &str, replay: Option<String>, block_tokens: Option<u32>) -> SourceSpec {
    let kind =
        SourceKind::Engine { events: events.into(), bind: false, replay, topic: "kv".into(), ranks: 1, model: "m".into(), block_tokens };
    SourceSpec { name: "engine-0".into(), kind }
}

fn sources() -> (Arc<Namespaces>, Sources) {
    let namespaces = Arc::new(Namespaces::new(IndexLimits::default()));
    let limits = Limits { audit_ms: 200, rest_ms: 20, most_rest_ms: 200, answer_ms: 2000, ..Limits::default() };
    (namespaces.clone(), Sources::new(namespaces, limits))
}

async fn until(sources: &Sources, id: SourceId, what: &str, is: impl Fn(&[StreamView], &[StreamStatus]) -> bool) {
    let check = async {
        loop {
            let views = sources.views(id).expect("a source").borrow().clone();
            let status: Vec<StreamStatus> = sources.status().into_iter().map(|(_, status)| status).collect();
            if is(&views, &status) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let status = || format!("{:#?}", sources.status());
    timeout(Duration::from_secs(20), check).await.unwrap_or_else(|_| panic!("never {what}: {}", status()));
}

fn event(hash: u64, parent: Option<u64>, tokens: [u32; 2]) -> Bytes {
    let event = json!({"type": "BlockStored", "block_hashes": [hash], "parent_block_hash": parent, "token_ids": tokens, "block_size": 2});
    Bytes::from(payload(hash as f64, &json!([event])))
}

#[tokio::test]
async fn what_vllm_sent_is_known_whole_also_what_was_sent_before() {
    let mut engine = Engine::new().await;
    for (number, name) in [0, 1, 2].into_iter().enumerate() {
        engine.lose(number as u64, capture(&format!("vllm0320_int_seq{name}")));
    }
    let (namespaces, sources) = sources();
    let id = sources.add(engine.spec(Some(32))).unwrap();
    until(&sources, id, "known", |views, _| views[0].state == KNOWN).await;
    for (number, name) in [(3, 5), (4, 6), (5, 7)] {
        engine.send(number, capture(&format!("vllm0320_int_seq{name}"))).await;
    }
    until(&sources, id, "whole", |views, status| views[0].state == KNOWN && status[0].last_number == Some(5)).await;

    let index = namespaces.get(&NamespaceKey { model: "m".into(), block_tokens: 32 }).unwrap();
    let (mut locals, mut walk) = (Vec::new(), Walk::default());
    hash_prompt(&(100..140).collect::<Vec<u32>>(), 32, &PromptIdentity::default(), &[], &mut locals);
    index.read().find(&locals, &mut walk);
    let holder = sources.views(id).unwrap().borrow()[0].holders[0].clone();
    assert_eq!(walk.alone(holder.holder).blocks, 1);
    assert_eq!(sources.status()[0].1.blocks, [1, 0, 0, 0], "all but one block were cleared");
}

#[tokio::test]
async fn a_lost_message_is_asked_for() {
    let mut engine = Engine::new().await;
    engine.lose(0, event(1, None, [1, 2]));
    let (_, sources) = sources();
    let id = sources.add(engine.spec(None)).unwrap();
    until(&sources, id, "known", |views, _| views[0].state == KNOWN).await;
    engine.lose(1, event(2, Some(1), [3, 4]));
    engine.send(2, event(3, Some(2), [5, 6])).await;
    until(&sources, id, "whole", |views, status| views[0].state == KNOWN && status[0].blocks[0] == 3).await;
}

#[tokio::test]
async fn an_engine_that_restarts_is_followed_from_its_new_beginning() {
    let mut engine = Engine::new().await;
    let spec = engine.spec(None);
    let (events, replay) = (engine.events.clone(), engine.replay.clone());
    for number in 0..5 {
        engine.lose(number, event(number + 1, None, [number as u32, 7]));
    }
    let (_, sources) = sources();
    let id = sources.add(spec).unwrap();
    until(&sources, id, "known", |views, status| views[0].state == KNOWN && status[0].blocks[0] == 5).await;
    drop(engine);
    until(&sources, id, "unknown", |views, _| matches!(views[0].state, State::Unknown(_))).await;
    sleep(Duration::from_millis(100)).await;
    let mut engine = Engine::start(&events, &replay).await;
    engine.lose(0, event(100, None, [9, 9]));
    until(&sources, id, "known again", |views, status| views[0].state == KNOWN && status[0].blocks[0] == 1).await;
}

#[tokio::test]
async fn an_engine_that_cannot_repeat_is_known_in_part() {
    let mut socket = PubSocket::new();
    let events = socket.bind("tcp://127.0.0.1:0").await.unwrap().to_string();
    let (_, sources) = sources();
    let id = sources.add(spec(&events, None, None)).unwrap();
    let incomplete = State::Known { complete: false };
    for number in 10.. {
        send(&mut socket, number, event(number, None, [number as u32, 7])).await;
        sleep(Duration::from_millis(20)).await;
        let status = sources.status()[0].1.clone();
        if status.blocks[0] >= 3 {
            assert_eq!(status.state, incomplete);
            break;
        }
    }
    assert!(sources.views(id).unwrap().borrow()[0].holders.len() == 1);
}

#[tokio::test]
async fn an_engine_may_connect_to_us() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    drop(listener);
    let (_, sources) = sources();
    let mut spec = spec(&address, None, None);
    let SourceKind::Engine { bind, .. } = &mut spec.kind else { panic!() };
    *bind = true;
    let id = sources.add(spec).unwrap();
    sleep(Duration::from_millis(100)).await;
    let mut socket = PubSocket::new();
    socket.connect(&address).await.unwrap();
    for number in 0..200 {
        send(&mut socket, number, event(number + 1, None, [number as u32, 7])).await;
        sleep(Duration::from_millis(10)).await;
        if sources.status()[0].1.blocks[0] > 0 {
            break;
        }
    }
    until(&sources, id, "known", |views, status| matches!(views[0].state, State::Known { .. }) && status[0].blocks[0] > 0).await;
}

#[tokio::test]
async fn the_groups_of_a_hybrid_model_are_holders_of_their_own() {
    let mut engine = Engine::new().await;
    engine.lose(0, capture("vllm0320_hybrid_seq0"));
    let (_, sources) = sources();
    let id = sources.add(engine.spec(Some(32))).unwrap();
    until(&sources, id, "known", |views, _| views[0].state == KNOWN).await;
    let views = sources.views(id).unwrap().borrow().clone();
    let groups: Vec<(u32, u16, Option<u32>)> =
        views[0].holders.iter().map(|holder| (holder.rank, holder.group, holder.window_blocks)).collect();
    assert_eq!(groups, [(0, 0, Some(4)), (0, 1, None)]);
    assert_eq!(sources.status()[0].1.tally.orphaned, 4, "the window's blocks came before the full group's, which gave them a place");
}

#[tokio::test]
async fn a_block_size_other_than_declared_is_refused_and_both_are_named() {
    let mut engine = Engine::new().await;
    engine.lose(0, capture("vllm0320_int_seq0"));
    let (_, sources) = sources();
    let id = sources.add(engine.spec(Some(16))).unwrap();
    until(&sources, id, "refused", |views, _| views[0].state == State::Unknown(Reason::Refused)).await;
    let why = sources.views(id).unwrap().borrow()[0].why.clone().unwrap();
    assert!(why.contains("16 tokens") && why.contains("32"), "{why}");
}

#[tokio::test]
async fn what_cannot_be_read_is_counted_and_the_rest_goes_on() {
    let mut engine = Engine::new().await;
    engine.lose(0, event(1, None, [1, 2]));
    engine.lose(1, Bytes::from_static(&[0x93, 0xdd, 0xff, 0xff, 0xff, 0xff]));
    engine.lose(2, event(3, None, [5, 6]));
    let (_, sources) = sources();
    let id = sources.add(engine.spec(None)).unwrap();
    until(&sources, id, "known in part", |views, status| {
        views[0].state == State::Known { complete: false } && status[0].last_number == Some(2)
    })
    .await;
    engine.send(3, event(4, Some(3), [7, 8])).await;
    until(&sources, id, "going on", |_, status| status[0].last_number == Some(3)).await;
    let status = sources.status()[0].1.clone();
    assert_eq!((status.blocks[0], status.tally.errors.iter().sum::<u64>()), (2, 1));
    assert_eq!(status.last_error.as_deref(), Some("the payload ends inside a value"));
}

#[tokio::test]
async fn a_source_that_is_removed_leaves_nothing_behind() {
    let mut engine = Engine::new().await;
    engine.lose(0, event(1, None, [1, 2]));
    let (namespaces, sources) = sources();
    let id = sources.add(engine.spec(None)).unwrap();
    until(&sources, id, "known", |views, status| views[0].state == KNOWN && status[0].blocks[0] == 1).await;
    let views = sources.views(id).unwrap();
    assert!(sources.remove(id));
    assert!(!sources.remove(id));
    let index = namespaces.get(&NamespaceKey { model: "m".into(), block_tokens: 2 }).unwrap();
    let empty = async {
        while index.read().stats().blocks > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), empty).await.expect("its blocks are forgotten");
    assert_eq!(views.borrow()[0].state, State::Unknown(Reason::Stopped));
}

#[tokio::test]
async fn a_name_means_one_source() {
    let (_, sources) = sources();
    let first = sources.add(spec("tcp://127.0.0.1:9", None, Some(16))).unwrap();
    assert_eq!(sources.add(spec("tcp://127.0.0.1:9", None, Some(16))), Ok(first));
    let error = sources.add(spec("tcp://127.0.0.1:9", None, Some(32))).unwrap_err();
    assert!(matches!(error, SpecError::Different { .. }));
    let text = error.to_string();
    assert!(text.contains("blocks of 16 tokens") && text.contains("blocks of 32 tokens"), "{text}");
}

#[tokio::test]
async fn a_publisher_that_floods_is_known_whole_in_the_end() {
    const MESSAGES: u64 = 20_000;
    let mut engine = Engine::new().await;
    let (_, sources) = sources();
    let id = sources.add(engine.spec(None)).unwrap();
    until(&sources, id, "known", |views, _| views[0].state == KNOWN).await;
    for number in 0..MESSAGES {
        engine.send(number, event(number + 1, None, [number as u32, 7])).await;
    }
    until(&sources, id, "whole", |views, status| views[0].state == KNOWN && status[0].blocks[0] == MESSAGES).await;
}
