//! The service over HTTP, in JSON. `POST /query`, `/query_by_hash`, `/register`, `/unregister` and `GET /workers` take and give
//! what the standalone indexer of NVIDIA Dynamo 1.6.1 does, so that its clients work; the rest is ours.

mod ask;
mod decide;
mod error;
mod members;

use crate::metrics;
use crate::service::Service;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use error::{ApiError, json};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::error;

type Shared = State<Arc<Service>>;
type Body = Result<Bytes, BytesRejection>;
type Answer = Result<Response, ApiError>;

/// Serves until the task is aborted.
pub fn start(listener: TcpListener, service: Arc<Service>) -> JoinHandle<()> {
    let app = app(service);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            error!(%error, "HTTP stopped");
        }
    })
}

fn app(service: Arc<Service>) -> Router {
    let most = usize::try_from(service.settings().http.max_body_bytes.0).unwrap_or(usize::MAX);
    Router::new()
        .route("/query", post(ask::query))
        .route("/query_by_hash", post(ask::query_by_hash))
        .route("/workers", get(members::list).post(members::register).delete(members::unregister))
        .route("/register", post(members::register))
        .route("/unregister", post(members::unregister))
        .route("/heartbeat", post(members::heartbeat))
        .route("/select", post(decide::select))
        .route("/prefill_complete", post(decide::prefill_complete))
        .route("/finish", post(decide::finish))
        .route("/loads", get(decide::loads))
        .route("/explain/{id}", get(decide::explain))
        .route("/health", get(health))
        .route("/metrics", get(metrics_text))
        .fallback(nowhere)
        .method_not_allowed_fallback(not_so)
        .layer(DefaultBodyLimit::max(most))
        .with_state(service)
}

/// Healthy is a router that answers; `unknown` says for how many ranks it falls back.
async fn health(State(service): Shared) -> Response {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
        workers: usize,
        unknown: usize,
    }
    let (workers, unknown) = service.health();
    json(StatusCode::OK, &Health { status: "ok", workers, unknown })
}

async fn metrics_text(State(service): Shared) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::text(&service)).into_response()
}

async fn nowhere(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is nothing at {}: docs/router.md lists what there is", uri.path()))
}

async fn not_so(method: Method, uri: Uri) -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}: docs/router.md says what it takes", uri.path()))
}

/// The body as a `T`.
fn read<T: DeserializeOwned>(service: &Service, body: Body) -> Result<T, ApiError> {
    let bytes = body.map_err(|rejection| ApiError::body(&rejection, service.settings().http.max_body_bytes.0))?;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::bad(format!("the body is not what is taken here: {error}")))
}

/// The value of `key` in the query of a URI.
fn parameter(uri: &Uri, key: &str) -> Option<String> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == key).map(|(_, value)| decoded(value)).next()
}

/// Undoes `%41` and `+`. What is no escape stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = after.get(..2).filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(match (escape, first) {
            (Some(byte), _) => byte,
            (None, b'+') => b' ',
            (None, byte) => *byte,
        });
        rest = if escape.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_they_were_meant() {
        let uri: Uri = "/workers?a=1&model_name=meta%2Dllama%2f3+b&odd=%zz".parse().unwrap();
        assert_eq!(parameter(&uri, "model_name").as_deref(), Some("meta-llama/3 b"));
        assert_eq!(parameter(&uri, "odd").as_deref(), Some("%zz"));
        assert_eq!(parameter(&uri, "none"), None);
    }
}
