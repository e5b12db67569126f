//! A kvd that has the blocks of one prompt in memory, and tells so when it is asked for a snapshot.

use bytes::Bytes;
use kvd_block::digest::{Digest, term_in};
use kvd_block::{LayoutId, LocalHash, SequenceHash, TierKind};
use kvd_proto::admin::admin_server::{Admin, AdminServer};
use kvd_proto::admin::{
    DrainReply, DrainRequest, InspectReply, InspectRequest, Layout, LayoutsReply, LayoutsRequest, PinReply, PinRequest, PurgeReply,
    PurgeRequest, SessionsReply, SessionsRequest, SnapshotBlock, SnapshotLayout, SnapshotPart, SnapshotRequest, StatusReply, StatusRequest,
    TiersReply, TiersRequest, VerifyProgress, VerifyRequest,
};
use kvd_router::hash::{PromptIdentity, hash_prompt};
use std::pin::Pin;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use zeromq::{PubSocket, Socket, SocketSend, ZmqMessage};

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

const LAYOUT: LayoutId = LayoutId([7; 16]);

/// A kvd's sockets. Dropped, they are gone.
pub struct Node {
    events: String,
    admin: String,
    _runtime: Runtime,
}

impl Node {
    /// A kvd with all whole blocks of `tokens` of the model it calls `model`.
    pub fn start(model: &str, block_tokens: u32, tokens: &[u32]) -> Node {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut locals = Vec::new();
        hash_prompt(tokens, block_tokens as usize, &PromptIdentity::default(), &[], &mut locals);
        let daemon = Daemon { model: model.into(), block_tokens, locals };
        let (events, admin) = runtime.block_on(async {
            let mut socket = PubSocket::new();
            let events = socket.bind("tcp://127.0.0.1:0").await.unwrap().to_string();
            tokio::spawn(async move {
                // A heartbeat of a topic that nobody wants keeps the socket.
                loop {
                    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
                    let _ = socket.send(ZmqMessage::from(Bytes::new())).await;
                }
            });
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let admin = listener.local_addr().unwrap().to_string();
            let server = tonic::transport::Server::builder().add_service(AdminServer::new(daemon));
            tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
            (events, admin)
        });
        Node { events, admin, _runtime: runtime }
    }

    /// As `[[nodes]]` says it.
    pub fn toml(&self, name: &str) -> String {
        format!("[[nodes]]\nname = \"{name}\"\nevents = \"{}\"\nadmin = \"{}\"\n", self.events, self.admin)
    }
}

#[derive(Debug)]
struct Daemon {
    model: String,
    block_tokens: u32,
    locals: Vec<LocalHash>,
}

impl Daemon {
    fn name(number: usize) -> SequenceHash {
        SequenceHash([number as u8 + 1; 16])
    }

    fn parts(&self) -> [SnapshotPart; 2] {
        let mut digest = Digest::default();
        let blocks = self.locals.iter().enumerate().map(|(number, local)| {
            digest.add(term_in(Daemon::name(number), LAYOUT, TierKind::Cpu));
            let parent = number.checked_sub(1).map_or(vec![0; 16], |before| Daemon::name(before).0.to_vec());
            let hash = Daemon::name(number).0.to_vec();
            SnapshotBlock { layout: 1, hash, parent, local: local.0, position: number as u32, medium: "CPU".into() }
        });
        let blocks = blocks.collect();
        let (model, block_tokens) = (self.model.clone(), self.block_tokens);
        let layout = SnapshotLayout { handle: 1, id: LAYOUT.0.to_vec(), block_tokens, model, ..SnapshotLayout::default() };
        let part = SnapshotPart { incarnation: 1, next_event: 5, ..SnapshotPart::default() };
        let digest = Some(kvd_proto::admin::Digest { sum: digest.sum, count: digest.count });
        [SnapshotPart { layouts: vec![layout], ..part.clone() }, SnapshotPart { blocks, digest, ..part }]
    }
}

fn refused<T>() -> Answer<T> {
    Err(Status::unimplemented("not in this fake"))
}

#[tonic::async_trait]
impl Admin for Daemon {
    type VerifyStream = Streamed<VerifyProgress>;
    type SnapshotStream = Streamed<SnapshotPart>;

    async fn layouts(&self, _: Request<LayoutsRequest>) -> Answer<LayoutsReply> {
        let (model, block_tokens, attention) = (self.model.clone(), self.block_tokens, "full_attention".into());
        let layout = Layout { id: LAYOUT.0.to_vec(), model, block_tokens, attention, ..Layout::default() };
        Ok(Response::new(LayoutsReply { layouts: vec![layout] }))
    }

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        Ok(Response::new(Box::pin(tokio_stream::iter(self.parts().map(Ok)))))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusReply> {
        refused()
    }
    async fn tiers(&self, _: Request<TiersRequest>) -> Answer<TiersReply> {
        refused()
    }
    async fn sessions(&self, _: Request<SessionsRequest>) -> Answer<SessionsReply> {
        refused()
    }
    async fn inspect(&self, _: Request<InspectRequest>) -> Answer<InspectReply> {
        refused()
    }
    async fn verify(&self, _: Request<VerifyRequest>) -> Answer<Self::VerifyStream> {
        refused()
    }
    async fn drain(&self, _: Request<DrainRequest>) -> Answer<DrainReply> {
        refused()
    }
    async fn pin(&self, _: Request<PinRequest>) -> Answer<PinReply> {
        refused()
    }
    async fn purge(&self, _: Request<PurgeRequest>) -> Answer<PurgeReply> {
        refused()
    }
}
