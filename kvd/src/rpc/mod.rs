//! Administration over gRPC. Every answer but the snapshot comes from the owner of the ledger between two inputs, so it is of one moment.

mod inspect;
mod snapshot;
mod status;
mod verify;

use crate::daemon::Shared;
use crate::driver::Stopped;
use kvd_block::{LayoutHandle, SequenceHash, TierKind};
use kvd_ledger::Input;
use kvd_proto::admin::admin_server::{Admin, AdminServer};
use kvd_proto::admin::{
    DrainReply, DrainRequest, InspectReply, InspectRequest, LayoutsReply, LayoutsRequest, PinReply, PinRequest, PurgeReply, PurgeRequest,
    SessionsReply, SessionsRequest, SnapshotPart, SnapshotRequest, StatusReply, StatusRequest, TiersReply, TiersRequest, VerifyProgress,
    VerifyRequest,
};
use kvd_proto::local::Reply;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tracing::{error, info};

/// Most hashes or tokens of one request.
const MOST_KEYS: usize = 1 << 20;

/// Serves until the task is aborted.
pub fn start(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let snapshots = Arc::new(Semaphore::new(snapshot::MOST_SNAPSHOTS));
        let service = AdminServer::new(Service { shared, purging: Mutex::default(), snapshots }).max_decoding_message_size(16 << 20);
        if let Err(error) = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)).await {
            error!(%error, "administration stopped");
        }
    })
}

#[derive(Debug)]
struct Service {
    shared: Arc<Shared>,
    purging: Mutex<()>,
    /// Turns for reading a snapshot.
    snapshots: Arc<Semaphore>,
}

/// Answers of a stream; each waits until the reader has taken the one before.
type Answers<T> = ReceiverStream<Result<T, Status>>;

fn stopping(_: Stopped) -> Status {
    Status::unavailable("kvd is stopping")
}

fn hashes(bytes: &[Vec<u8>]) -> Result<Vec<SequenceHash>, Status> {
    if bytes.len() > MOST_KEYS {
        return Err(Status::invalid_argument(format!("{} hashes, at most {MOST_KEYS} are allowed", bytes.len())));
    }
    let hash = |bytes: &Vec<u8>| bytes.as_slice().try_into().map(SequenceHash);
    bytes.iter().map(hash).collect::<Result<_, _>>().map_err(|_| Status::invalid_argument("a sequence hash is 16 bytes"))
}

#[tonic::async_trait]
impl Admin for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Ok(Response::new(status::status(&self.shared).await.map_err(stopping)?))
    }

    async fn layouts(&self, _: Request<LayoutsRequest>) -> Result<Response<LayoutsReply>, Status> {
        Ok(Response::new(status::layouts(&self.shared).await.map_err(stopping)?))
    }

    async fn tiers(&self, _: Request<TiersRequest>) -> Result<Response<TiersReply>, Status> {
        let tiers = status::status(&self.shared).await.map_err(stopping)?.tiers;
        Ok(Response::new(TiersReply { tiers }))
    }

    async fn sessions(&self, _: Request<SessionsRequest>) -> Result<Response<SessionsReply>, Status> {
        Ok(Response::new(status::sessions(&self.shared)))
    }

    async fn inspect(&self, request: Request<InspectRequest>) -> Result<Response<InspectReply>, Status> {
        Ok(Response::new(inspect::inspect(&self.shared, request.into_inner()).await?))
    }

    type VerifyStream = Answers<VerifyProgress>;

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let (progress, answers) = mpsc::channel(4);
        tokio::spawn(verify::verify(self.shared.clone(), request.into_inner(), progress));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        let draining = request.into_inner().draining;
        info!(draining, "an operator asks for it");
        let driver = &self.shared.driver;
        driver.inputs(vec![Input::Drain(draining)]).await.map_err(stopping)?;
        self.shared.draining.send_replace(draining);
        let (leases, transfers) = driver.ask(|view| (view.ledger.open_leases(), view.ledger.open_transfers())).await.map_err(stopping)?;
        Ok(Response::new(DrainReply { open_leases: leases as u64, open_transfers: transfers as u64 }))
    }

    async fn pin(&self, request: Request<PinRequest>) -> Result<Response<PinReply>, Status> {
        let request = request.into_inner();
        let layout = known_layout(&self.shared, request.layout)?;
        let reply = self.shared.operator.pin(layout, hashes(&request.hashes)?, request.ttl_ms).await.map_err(stopping)?;
        match reply {
            Reply::Pinned { blocks } => Ok(Response::new(PinReply { pinned_blocks: blocks })),
            Reply::Busy { what } => Err(Status::resource_exhausted(what)),
            Reply::Invalid { why } => Err(Status::invalid_argument(why)),
            other => Err(Status::internal(format!("unexpected answer {other:?}"))),
        }
    }

    async fn purge(&self, request: Request<PurgeRequest>) -> Result<Response<PurgeReply>, Status> {
        let request = request.into_inner();
        if !request.confirm {
            return Err(Status::failed_precondition("a purge forgets blocks for good: confirm it"));
        }
        let layout = request.layout.map(|layout| known_layout(&self.shared, layout)).transpose()?;
        let before = self.totals().await?;
        info!(?layout, "an operator purges");
        // One at a time: the catalog takes the newest purge for a sign that all before it are done.
        let _alone = self.purging.lock().await;
        let generation = self.remember_purge(layout).await?;
        self.shared.driver.inputs(vec![Input::Purge { layout, generation }]).await.map_err(stopping)?;
        let after = self.totals().await?;
        let gone = |tier: usize| before[tier].saturating_sub(after[tier]);
        Ok(Response::new(PurgeReply { cpu_blocks: gone(0), storage_blocks: gone(1) }))
    }

    type SnapshotStream = Answers<SnapshotPart>;

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let busy = |_| Status::resource_exhausted("too many snapshots are being read: try again");
        let turn = self.snapshots.clone().try_acquire_owned().map_err(busy)?;
        let (parts, answers) = mpsc::channel(1);
        let reading = snapshot::snapshot(self.shared.clone(), parts);
        tokio::spawn(async move {
            reading.await;
            drop(turn);
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

impl Service {
    /// The disk knows of a purge before anybody else does, so that no crash undoes what an operator was told.
    async fn remember_purge(&self, layout: Option<LayoutHandle>) -> Result<u64, Status> {
        let Some(storage) = self.shared.storage.clone() else { return Ok(0) };
        let id = layout.and_then(|layout| self.shared.layouts.get(layout)).map(|layout| layout.id);
        let remembered = tokio::task::spawn_blocking(move || storage.remember_purge(id)).await;
        remembered.map_err(|error| Status::internal(error.to_string()))?.map_err(Status::unavailable)
    }

    async fn totals(&self) -> Result<[u64; 2], Status> {
        self.shared.driver.ask(|view| TierKind::ALL.map(|tier| view.ledger.totals(tier).blocks)).await.map_err(stopping)
    }
}

fn known_layout(shared: &Shared, handle: u32) -> Result<LayoutHandle, Status> {
    let handle = u16::try_from(handle).ok().map(LayoutHandle);
    handle.filter(|handle| shared.layouts.get(*handle).is_some()).ok_or_else(|| Status::not_found("no such layout: see `kvctl layouts`"))
}
