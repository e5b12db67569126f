//! `/workers`: who is there; registering, renewing and leaving.

use super::ask::one_group;
use super::error::{ApiError, json};
use super::{Answer, Body, Shared, parameter, read};
use crate::fleet::{Conflict, Endpoints, InstanceName, LeaseId, Unregistered, WorkerSpec};
use crate::service::{RegisterError, Service};
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};

/// What Dynamo's clients register: one rank at a time, by other names.
#[derive(Debug, Deserialize)]
struct Rank {
    instance_id: InstanceName,
    endpoint: String,
    model_name: String,
    block_size: u32,
    #[serde(default)]
    dp_rank: u32,
    #[serde(default)]
    replay_endpoint: Option<String>,
    #[serde(default)]
    routing_group: Option<String>,
    #[serde(default)]
    ttl_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Registered {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Leaving {
    #[serde(alias = "instance_id")]
    name: InstanceName,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beat {
    lease: u64,
}

/// `GET /workers`, of one model with `?model_name=`.
pub(super) async fn list(State(service): Shared, uri: Uri) -> Answer {
    one_group(parameter(&uri, "routing_group").as_deref())?;
    Ok(json(StatusCode::OK, &service.listing(parameter(&uri, "model_name").as_deref()).workers))
}

/// `POST /workers` or `/register`: a worker as in the configuration with an optional `ttl_ms`, or a rank as Dynamo's clients say it.
pub(super) async fn register(State(service): Shared, body: Body) -> Answer {
    let mut said: serde_json::Map<String, serde_json::Value> = read(&service, body)?;
    let not_taken = |error: serde_json::Error| ApiError::bad(format!("this is no worker: {error}"));
    let (spec, ttl_ms) = if said.contains_key("instance_id") {
        let rank: Rank = serde_json::from_value(said.into()).map_err(not_taken)?;
        one_group(rank.routing_group.as_deref())?;
        (with_rank(&service, &rank)?, rank.ttl_ms)
    } else {
        let ttl_ms = said.remove("ttl_ms").map(serde_json::from_value).transpose().map_err(not_taken)?;
        (serde_json::from_value(said.into()).map_err(not_taken)?, ttl_ms)
    };
    let lease = service.register(spec, ttl_ms)?;
    let (lease, ttl_ms) = lease.map_or((None, None), |(lease, ttl_ms)| (Some(lease.0), Some(ttl_ms)));
    Ok(json(StatusCode::CREATED, &Registered { status: "ok", lease, ttl_ms }))
}

/// The worker that is there already, with one rank more (or told anew).
fn with_rank(service: &Service, rank: &Rank) -> Result<WorkerSpec, ApiError> {
    let fresh = || WorkerSpec { name: rank.instance_id.clone(), ranks: 0, ..WorkerSpec::default() };
    let mut spec = service.worker(&rank.instance_id).unwrap_or_else(fresh);
    spec.model.clone_from(&rank.model_name);
    spec.block_tokens = rank.block_size;
    if rank.dp_rank > spec.ranks {
        let (name, next, missing) = (&rank.instance_id, rank.dp_rank, spec.ranks);
        return Err(ApiError::bad(format!(
            "worker `{name}`: rank {next} before rank {missing}: register ranks in order, or all at once with `ranks` and `events`"
        )));
    }
    let list = |endpoints: &Endpoints, address: &str| {
        let mut all: Vec<String> = (0..spec.ranks).map(|rank| endpoints.of(rank, spec.ranks).unwrap_or_default()).collect();
        all.resize(all.len().max(rank.dp_rank as usize + 1), String::new());
        all[rank.dp_rank as usize] = address.to_owned();
        if all.iter().all(String::is_empty) { Endpoints::default() } else { Endpoints::new(all) }
    };
    let events = list(&spec.events, &rank.endpoint);
    let replay = list(&spec.replay, rank.replay_endpoint.as_deref().unwrap_or_default());
    Ok(WorkerSpec { ranks: spec.ranks.max(rank.dp_rank + 1), events, replay, ..spec })
}

/// `DELETE /workers` or `POST /unregister`, with `{"name": …}` or `{"instance_id": …}`, or `DELETE /workers?name=…`.
pub(super) async fn unregister(State(service): Shared, uri: Uri, body: Body) -> Answer {
    let name = match parameter(&uri, "name") {
        Some(name) => name.into(),
        None => read::<Leaving>(&service, body)?.name,
    };
    service.unregister(&name)?;
    Ok(json(StatusCode::OK, &Registered { status: "ok", lease: None, ttl_ms: None }))
}

/// `POST /heartbeat` with `{"lease": …}`.
pub(super) async fn heartbeat(State(service): Shared, body: Body) -> Answer {
    let lease = read::<Beat>(&service, body)?.lease;
    let ttl_ms = service.heartbeat(LeaseId(lease))?;
    Ok(json(StatusCode::OK, &Registered { status: "ok", lease: Some(lease), ttl_ms: Some(ttl_ms) }))
}

impl From<RegisterError> for ApiError {
    fn from(error: RegisterError) -> ApiError {
        let status = match &error {
            RegisterError::Off => StatusCode::FORBIDDEN,
            RegisterError::Lease { .. } | RegisterError::Conflict(Conflict::Spec(_)) => StatusCode::BAD_REQUEST,
            RegisterError::Conflict(_) => StatusCode::CONFLICT,
        };
        ApiError::new(status, error)
    }
}

impl From<Unregistered> for ApiError {
    fn from(error: Unregistered) -> ApiError {
        let status = match error {
            Unregistered::Lease(_) | Unregistered::Name(_) => StatusCode::NOT_FOUND,
            Unregistered::Elsewhere { .. } => StatusCode::CONFLICT,
        };
        ApiError::new(status, error)
    }
}
