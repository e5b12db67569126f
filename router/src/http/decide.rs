//! `/select` and what follows it: decisions, and what becomes of the requests they were about.

use super::error::json;
use super::{Answer, Body, Shared, parameter, read};
use crate::hash::{MediaSpan, PromptIdentity};
use crate::route::Measured;
use crate::service::{Content, Prompt, SelectRequest};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use kvd_block::LocalHash;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Select {
    model_name: String,
    #[serde(default)]
    token_ids: Vec<u32>,
    #[serde(default)]
    block_hashes: Vec<u64>,
    #[serde(default)]
    block_size: u32,
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    lora_name: Option<String>,
    #[serde(default)]
    cache_salt: Option<String>,
    #[serde(default)]
    media: Vec<Media>,
    #[serde(default)]
    request_id: Option<String>,
    #[serde(default)]
    peek: bool,
    #[serde(default)]
    expected_output_tokens: u32,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    deadline_ms: Option<f64>,
    #[serde(default)]
    session: String,
    #[serde(default)]
    required_labels: BTreeMap<String, String>,
    #[serde(default)]
    preferred_labels: BTreeMap<String, String>,
    #[serde(default)]
    worker: Option<crate::fleet::InstanceName>,
    #[serde(default)]
    rank: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Media {
    hash: u64,
    from_token: usize,
    to_token: usize,
}

/// `POST /select`.
pub(super) async fn select(State(service): Shared, body: Body) -> Answer {
    let select: Select = read(&service, body)?;
    let id = select.request_id.clone().unwrap_or_else(|| service.fresh_id());
    let selected = service.select(&request(select, id)).await?;
    Ok(json(StatusCode::OK, &selected))
}

fn request(select: Select, id: String) -> SelectRequest {
    let content = if select.block_hashes.is_empty() {
        Content::Tokens(select.token_ids)
    } else {
        let locals = select.block_hashes.into_iter().map(LocalHash).collect();
        Content::Hashes { locals, block_tokens: select.block_size, prompt_tokens: select.prompt_tokens }
    };
    let identity = PromptIdentity { lora: select.lora_name.unwrap_or_default(), salt: select.cache_salt.unwrap_or_default() };
    let span = |media: Media| MediaSpan { hash: media.hash, from_token: media.from_token, to_token: media.to_token };
    SelectRequest {
        id,
        prompt: Prompt { model: select.model_name, content, identity, media: select.media.into_iter().map(span).collect() },
        peek: select.peek,
        expected_output_tokens: select.expected_output_tokens,
        priority: select.priority,
        deadline_ms: select.deadline_ms,
        session: select.session,
        required_labels: select.required_labels,
        preferred_labels: select.preferred_labels,
        worker: select.worker.map(|name| name.to_string()),
        rank: select.rank,
    }
}

#[derive(Debug, Serialize)]
struct Done {
    status: &'static str,
}

#[derive(Debug, Deserialize)]
struct Prefilled {
    request_id: String,
    #[serde(flatten)]
    measured: Measured,
}

/// `POST /prefill_complete`.
pub(super) async fn prefill_complete(State(service): Shared, body: Body) -> Answer {
    let prefilled: Prefilled = read(&service, body)?;
    service.prefill_complete(&prefilled.request_id, &prefilled.measured)?;
    Ok(json(StatusCode::OK, &Done { status: "ok" }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Finished {
    request_id: String,
    #[serde(default)]
    output_tokens: Option<u32>,
    #[serde(default)]
    failed: bool,
}

/// `POST /finish`.
pub(super) async fn finish(State(service): Shared, body: Body) -> Answer {
    let finished: Finished = read(&service, body)?;
    service.finish(&finished.request_id, finished.output_tokens, finished.failed)?;
    Ok(json(StatusCode::OK, &Done { status: "ok" }))
}

/// `GET /loads`, of one model with `?model_name=`.
pub(super) async fn loads(State(service): Shared, uri: Uri) -> Answer {
    Ok(json(StatusCode::OK, &service.loads(parameter(&uri, "model_name").as_deref())?))
}

/// `GET /explain/{id}`.
pub(super) async fn explain(State(service): Shared, Path(id): Path<String>) -> Answer {
    Ok(json(StatusCode::OK, &service.explain(&id)?))
}
