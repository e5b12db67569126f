//! A kvd as a source: a fake daemon with kvd's own encoders, its administration served over gRPC.

use bytes::Bytes;
use kvd_block::digest::{Digest, term_in};
use kvd_block::{LayoutId, SequenceHash, TierKind};
use kvd_proto::admin::admin_server::{Admin, AdminServer};
use kvd_proto::admin::{
    DrainReply, DrainRequest, InspectReply, InspectRequest, Layout, LayoutsReply, LayoutsRequest, PinReply, PinRequest, PurgeReply,
    PurgeRequest, SessionsReply, SessionsRequest, SnapshotBlock, SnapshotLayout, SnapshotPart, SnapshotRequest, StatusReply, StatusRequest,
    TiersReply, TiersRequest, VerifyProgress, VerifyRequest,
};
use kvd_proto::wire::kv_event::{self, BlockStored, KvEvent};
use kvd_router::index::{IndexLimits, Medium};
use kvd_router::ingest::namespaces::Namespaces;
use kvd_router::ingest::source::{SourceKind, SourceSpec, Sources, StreamStatus, StreamView};
use kvd_router::ingest::stream::{Limits, State};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use zeromq::{PubSocket, Socket, SocketSend, ZmqMessage};

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the daemon has: blocks of two layouts, each block the first of its sequence.
#[derive(Debug, Default)]
struct Store {
    blocks: Vec<(LayoutId, SequenceHash)>,
    layouts: Vec<LayoutId>,
    next_event: u64,
    snapshots: u32,
}

#[derive(Debug, Clone, Default)]
struct Daemon(Arc<Mutex<Store>>);

fn layout(first: u8) -> LayoutId {
    LayoutId([first; 16])
}

fn hash(number: u8) -> SequenceHash {
    SequenceHash([number; 16])
}

impl Store {
    fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        self.blocks.iter().for_each(|(layout, hash)| digest.add(term_in(*hash, *layout, TierKind::Cpu)));
        digest
    }
}

fn refused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this fake"))
}

#[tonic::async_trait]
impl Admin for Daemon {
    type VerifyStream = Streamed<VerifyProgress>;
    type SnapshotStream = Streamed<SnapshotPart>;

    async fn layouts(&self, _: Request<LayoutsRequest>) -> Result<Response<LayoutsReply>, Status> {
        let layout = |id: &LayoutId| Layout {
            id: id.0.to_vec(),
            model: "m".into(),
            block_tokens: 16,
            group: u32::from(id.0[0]),
            attention: if id.0[0] == 2 { "sliding_window:64".into() } else { "full_attention".into() },
            ..Layout::default()
        };
        Ok(Response::new(LayoutsReply { layouts: self.0.lock().unwrap().layouts.iter().map(layout).collect() }))
    }

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let mut store = self.0.lock().unwrap();
        store.snapshots += 1;
        let layout = |id: &LayoutId| SnapshotLayout {
            handle: id.0[0].into(),
            id: id.0.to_vec(),
            block_tokens: 16,
            model: "m".into(),
            ..SnapshotLayout::default()
        };
        let block = |(layout, hash): &(LayoutId, SequenceHash)| SnapshotBlock {
            layout: layout.0[0].into(),
            hash: hash.0.to_vec(),
            parent: vec![0; 16],
            local: hash.0[0].into(),
            position: 0,
            medium: "CPU".into(),
        };
        let part = SnapshotPart { incarnation: 1, next_event: store.next_event, ..SnapshotPart::default() };
        let first = SnapshotPart { layouts: store.layouts.iter().map(layout).collect(), ..part.clone() };
        let digest = Some(store.digest()).map(|Digest { sum, count }| kvd_proto::admin::Digest { sum, count });
        let second = SnapshotPart { blocks: store.blocks.iter().map(block).collect(), digest, ..part };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(first), Ok(second)]))))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        refused()
    }
    async fn tiers(&self, _: Request<TiersRequest>) -> Result<Response<TiersReply>, Status> {
        refused()
    }
    async fn sessions(&self, _: Request<SessionsRequest>) -> Result<Response<SessionsReply>, Status> {
        refused()
    }
    async fn inspect(&self, _: Request<InspectRequest>) -> Result<Response<InspectReply>, Status> {
        refused()
    }
    async fn verify(&self, _: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        refused()
    }
    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        refused()
    }
    async fn pin(&self, _: Request<PinRequest>) -> Result<Response<PinReply>, Status> {
        refused()
    }
    async fn purge(&self, _: Request<PurgeRequest>) -> Result<Response<PurgeReply>, Status> {
        refused()
    }
}

struct Kvd {
    daemon: Daemon,
    socket: PubSocket,
    sources: Sources,
    id: kvd_router::ingest::source::SourceId,
}

impl Kvd {
    /// A daemon that has `blocks` blocks and lived for ten messages, and a router that follows it.
    async fn start(blocks: u8) -> Kvd {
        let daemon = Daemon::default();
        {
            let mut store = daemon.0.lock().unwrap();
            (store.next_event, store.layouts) = (10, vec![layout(1)]);
            store.blocks = (0..blocks).map(|number| (layout(1), hash(number + 1))).collect();
        }
        let mut socket = PubSocket::new();
        let events = socket.bind("tcp://127.0.0.1:0").await.unwrap().to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = listener.local_addr().unwrap().to_string();
        let server = tonic::transport::Server::builder().add_service(AdminServer::new(daemon.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let limits = Limits { rest_ms: 20, most_rest_ms: 200, ..Limits::default() };
        let sources = Sources::new(Arc::new(Namespaces::new(IndexLimits::default())), limits);
        let id = sources.add(SourceSpec { name: "node-0".into(), kind: SourceKind::Kvd { events, replay: None, admin } }).unwrap();
        Kvd { daemon, socket, sources, id }
    }

    /// Stores a block and says so, or says that nothing happened.
    async fn store(&mut self, layout: LayoutId, hash: SequenceHash, say: bool) {
        let (number, payload) = {
            let mut store = self.daemon.0.lock().unwrap();
            store.blocks.push((layout, hash));
            let mut event = if say { stored(layout, hash) } else { KvEvent::nothing() };
            event.stamp(1, store.digest());
            store.next_event += 1;
            (store.next_event - 1, kv_event::encode(number_of_seconds(store.next_event), &[event]))
        };
        let frames = vec![Bytes::from_static(b"kvd"), Bytes::copy_from_slice(&number.to_be_bytes()), Bytes::from(payload)];
        self.socket.send(ZmqMessage::try_from(frames).unwrap()).await.unwrap();
    }

    async fn until(&self, what: &str, is: impl Fn(&StreamView, &StreamStatus) -> bool) {
        let check = async {
            loop {
                let view = self.sources.views(self.id).unwrap().borrow()[0].clone();
                if is(&view, &self.sources.status()[0].1) {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), check).await.unwrap_or_else(|_| panic!("never {what}: {:#?}", self.sources.status()));
    }
}

fn number_of_seconds(number: u64) -> f64 {
    1e9 + number as f64
}

fn stored(layout: LayoutId, hash: SequenceHash) -> KvEvent {
    KvEvent::BlockStored(BlockStored {
        block_hashes: vec![hash],
        parent_block_hash: None,
        token_ids: Vec::new(),
        block_size: 16,
        lora_id: None,
        lora_name: None,
        medium: "CPU".into(),
        group_idx: layout.0[0].into(),
        kvd_layout: layout.to_string(),
        kvd_local: vec![hash.0[0].into()],
        kvd_position: 0,
        kvd_incarnation: None,
        kvd_digest: None,
    })
}

const KNOWN: State = State::Known { complete: true };

fn host_blocks(status: &StreamStatus) -> u64 {
    status.blocks[Medium::Host as usize]
}

#[tokio::test]
async fn a_daemon_that_has_long_been_there_is_known_by_its_snapshot_and_then_followed() {
    let mut kvd = Kvd::start(5).await;
    kvd.until("known", |view, status| view.state == KNOWN && host_blocks(status) == 5).await;
    sleep(Duration::from_millis(200)).await;
    kvd.store(layout(1), hash(100), true).await;
    kvd.until("followed", |view, status| view.state == KNOWN && host_blocks(status) == 6 && status.last_number == Some(10)).await;
    assert_eq!(kvd.daemon.0.lock().unwrap().snapshots, 1);
}

#[tokio::test]
async fn a_digest_that_differs_leads_to_another_snapshot() {
    let mut kvd = Kvd::start(5).await;
    kvd.until("known", |view, _| view.state == KNOWN).await;
    sleep(Duration::from_millis(200)).await;
    kvd.store(layout(1), hash(100), false).await;
    kvd.until("repaired", |view, status| view.state == KNOWN && host_blocks(status) == 6 && status.counts.divergences == 1).await;
    assert_eq!(kvd.daemon.0.lock().unwrap().snapshots, 2);
}

#[tokio::test]
async fn a_layout_that_is_new_is_learned_when_an_event_tells_of_it() {
    let mut kvd = Kvd::start(1).await;
    kvd.until("known", |view, _| view.state == KNOWN).await;
    sleep(Duration::from_millis(200)).await;
    kvd.daemon.0.lock().unwrap().layouts.push(layout(2));
    kvd.store(layout(2), hash(50), true).await;
    kvd.until("learned", |view, status| view.state == KNOWN && view.holders.len() == 2 && host_blocks(status) == 2).await;
    let view = kvd.sources.views(kvd.id).unwrap().borrow()[0].clone();
    let second = &view.holders[1];
    assert_eq!((second.layout, second.group, second.window_blocks), (Some(layout(2)), 2, Some(4)));
    assert_eq!(kvd.daemon.0.lock().unwrap().snapshots, 1);
}

#[tokio::test]
async fn a_daemon_that_is_away_is_unknown_and_its_blocks_are_not_used() {
    let kvd = Kvd::start(3).await;
    kvd.until("known", |view, _| view.state == KNOWN).await;
    let Kvd { socket, sources, id, daemon } = kvd;
    socket.close().await;
    let kvd = Kvd { socket: PubSocket::new(), sources, id, daemon };
    kvd.until("unknown", |view, _| matches!(view.state, State::Unknown(_))).await;
}
