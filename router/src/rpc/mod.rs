//! The service over gRPC (`kvd.router.v1`, documented in its `.proto`).

mod translate;

use crate::fleet::{Conflict, InstanceName, LeaseId, Unregistered};
use crate::service::{AskError, RegisterError, SelectRequest, Service};
use kvd_proto::router::router_server::{Router, RouterServer};
use kvd_proto::router::{
    ExplainReply, ExplainRequest, FinishReply, FinishRequest, HeartbeatReply, HeartbeatRequest, LoadsReply, LoadsRequest,
    PrefillCompleteReply, PrefillCompleteRequest, QueryReply, QueryRequest, RegisterWorkerReply, RegisterWorkerRequest, ReserveReply,
    ReserveRequest, SelectReply, SelectRequest as SelectMessage, UnregisterWorkerReply, UnregisterWorkerRequest, WorkersReply,
    WorkersRequest,
};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tracing::error;

/// Serves until the task is aborted.
pub fn start(listener: TcpListener, service: Arc<Service>) -> JoinHandle<()> {
    let most = usize::try_from(service.settings().grpc.max_message_bytes.0).unwrap_or(usize::MAX);
    tokio::spawn(async move {
        let router = RouterServer::new(Rpc { service }).max_decoding_message_size(most);
        if let Err(error) = Server::builder().add_service(router).serve_with_incoming(TcpListenerStream::new(listener)).await {
            error!(%error, "gRPC stopped");
        }
    })
}

#[derive(Debug)]
struct Rpc {
    service: Arc<Service>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Router for Rpc {
    async fn select(&self, request: Request<SelectMessage>) -> Answer<SelectReply> {
        let message = request.into_inner();
        let id = if message.request_id.is_empty() { self.service.fresh_id() } else { message.request_id.clone() };
        let selected = self.service.select(&translate::select(message, id)?).await?;
        Ok(Response::new(translate::selected(selected)))
    }

    async fn reserve(&self, request: Request<ReserveRequest>) -> Answer<ReserveReply> {
        let message = request.into_inner();
        let request = SelectRequest {
            id: message.request_id,
            prompt: translate::prompt(message.prompt.unwrap_or_default())?,
            expected_output_tokens: u32::try_from(message.expected_output_tokens).unwrap_or(u32::MAX),
            worker: Some(message.worker).filter(|worker| !worker.is_empty()),
            rank: message.rank,
            ..SelectRequest::default()
        };
        let reserved = self.service.reserve(&request)?;
        Ok(Response::new(ReserveReply { overlap: translate::selected(reserved).overlap }))
    }

    async fn prefill_complete(&self, request: Request<PrefillCompleteRequest>) -> Answer<PrefillCompleteReply> {
        let message = request.into_inner();
        let (id, measured) = translate::measured(message);
        self.service.prefill_complete(&id, &measured)?;
        Ok(Response::new(PrefillCompleteReply {}))
    }

    async fn finish(&self, request: Request<FinishRequest>) -> Answer<FinishReply> {
        let message = request.into_inner();
        let tokens = Some(message.output_tokens).filter(|tokens| *tokens > 0).map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX));
        self.service.finish(&message.request_id, tokens, message.failed)?;
        Ok(Response::new(FinishReply {}))
    }

    async fn loads(&self, request: Request<LoadsRequest>) -> Answer<LoadsReply> {
        let model = request.into_inner().model;
        let loads = self.service.loads(Some(model.as_str()).filter(|model| !model.is_empty()))?;
        Ok(Response::new(translate::loads(loads)))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Answer<ExplainReply> {
        let explained = self.service.explain(&request.into_inner().request_id)?;
        Ok(Response::new(translate::explained(explained)))
    }

    async fn query(&self, request: Request<QueryRequest>) -> Answer<QueryReply> {
        let prompt = translate::prompt(request.into_inner().prompt.unwrap_or_default())?;
        Ok(Response::new(translate::query(&self.service.query(&prompt)?)))
    }

    async fn workers(&self, request: Request<WorkersRequest>) -> Answer<WorkersReply> {
        let model = request.into_inner().model;
        let listing = self.service.listing(Some(model.as_str()).filter(|model| !model.is_empty()));
        Ok(Response::new(translate::listing(listing)))
    }

    async fn register_worker(&self, request: Request<RegisterWorkerRequest>) -> Answer<RegisterWorkerReply> {
        let message = request.into_inner();
        let spec = serde_json::from_str(&message.spec_json)
            .map_err(|error| Status::invalid_argument(format!("`spec_json` is no worker: {error}")))?;
        let lease = self.service.register(spec, Some(message.ttl_ms).filter(|ttl| *ttl > 0))?;
        let (lease, ttl_ms) = lease.map_or((0, 0), |(lease, ttl_ms)| (lease.0, ttl_ms));
        Ok(Response::new(RegisterWorkerReply { lease, ttl_ms }))
    }

    async fn unregister_worker(&self, request: Request<UnregisterWorkerRequest>) -> Answer<UnregisterWorkerReply> {
        self.service.unregister(&InstanceName::from(request.into_inner().worker))?;
        Ok(Response::new(UnregisterWorkerReply {}))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Answer<HeartbeatReply> {
        let ttl_ms = self.service.heartbeat(LeaseId(request.into_inner().lease))?;
        Ok(Response::new(HeartbeatReply { ttl_ms }))
    }
}

impl From<AskError> for Status {
    fn from(error: AskError) -> Status {
        let text = error.to_string();
        match error {
            AskError::UnknownModel { .. } | AskError::UnknownWorker { .. } | AskError::UnknownRequest(_) => Status::not_found(text),
            AskError::BlockTokens { .. } | AskError::Prompt(_) => Status::invalid_argument(text),
            AskError::Again(_) => Status::already_exists(text),
            AskError::Nobody(_) => Status::failed_precondition(text),
            AskError::Busy(_) => Status::resource_exhausted(text),
        }
    }
}

impl From<RegisterError> for Status {
    fn from(error: RegisterError) -> Status {
        let text = error.to_string();
        match error {
            RegisterError::Off => Status::permission_denied(text),
            RegisterError::Lease { .. } | RegisterError::Conflict(Conflict::Spec(_)) => Status::invalid_argument(text),
            RegisterError::Conflict(Conflict::Full { .. }) => Status::resource_exhausted(text),
            RegisterError::Conflict(_) => Status::already_exists(text),
        }
    }
}

impl From<Unregistered> for Status {
    fn from(error: Unregistered) -> Status {
        match error {
            Unregistered::Lease(_) | Unregistered::Name(_) => Status::not_found(error.to_string()),
            Unregistered::Elsewhere { .. } => Status::failed_precondition(error.to_string()),
        }
    }
}
