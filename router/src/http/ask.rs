//! `POST /query` and `/query_by_hash`: who has how much of a prompt.

use super::error::{ApiError, json};
use super::{Answer, Body, Shared, read};
use crate::hash::PromptIdentity;
use crate::service::{AskError, Content, Overlap, Prompt, QueryAnswer};
use axum::extract::State;
use axum::http::StatusCode;
use kvd_block::LocalHash;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest list of `frequencies`, in blocks.
const MOST_FREQUENCIES: usize = 1 << 20;

#[derive(Debug, Deserialize)]
struct Query {
    token_ids: Vec<u32>,
    model_name: String,
    #[serde(default)]
    lora_name: Option<String>,
    #[serde(default)]
    cache_salt: Option<String>,
    #[serde(default)]
    routing_group: Option<String>,
}

#[derive(Debug, Deserialize)]
struct QueryByHash {
    block_hashes: Vec<Hash>,
    model_name: String,
    #[serde(default)]
    block_size: u32,
    #[serde(default)]
    cache_salt: Option<String>,
    #[serde(default)]
    routing_group: Option<String>,
}

/// 64 bits; clients write them with and without a sign.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Hash {
    Unsigned(u64),
    Signed(i64),
}

/// What one worker has, in tokens. `cpu` counts what `gpu` does and what follows in host memory; `disk` all.
#[derive(Debug, Default, Serialize)]
struct Instance {
    longest_matched: u64,
    gpu: u64,
    dp: BTreeMap<String, u64>,
    cpu: u64,
    disk: u64,
}

#[derive(Debug, Default, Serialize)]
struct Scores {
    /// Tokens in device memory, by worker and rank.
    scores: BTreeMap<String, BTreeMap<String, u64>>,
    /// How many ranks have each leading block in device memory.
    frequencies: Vec<u64>,
    instances: BTreeMap<String, Instance>,
    /// Workers whose blocks are not known, and why. They count as having none.
    unknown: BTreeMap<String, BTreeMap<String, String>>,
    block_size: u32,
}

/// `POST /query`.
pub(super) async fn query(State(service): Shared, body: Body) -> Answer {
    let query: Query = read(&service, body)?;
    one_group(query.routing_group.as_deref())?;
    let identity = PromptIdentity { lora: query.lora_name.unwrap_or_default(), salt: query.cache_salt.unwrap_or_default() };
    let prompt = Prompt { identity, ..Prompt::of_tokens(&query.model_name, query.token_ids) };
    Ok(json(StatusCode::OK, &scores(&service.query(&prompt)?)))
}

/// `POST /query_by_hash`.
pub(super) async fn query_by_hash(State(service): Shared, body: Body) -> Answer {
    let query: QueryByHash = read(&service, body)?;
    one_group(query.routing_group.as_deref())?;
    if query.cache_salt.is_some() {
        return Err(ApiError::bad("`cache_salt` changes the hashes themselves: compute `block_hashes` with it and leave it out here"));
    }
    let locals = query.block_hashes.iter().map(|hash| match hash {
        Hash::Unsigned(hash) => LocalHash(*hash),
        Hash::Signed(hash) => LocalHash(*hash as u64),
    });
    let content = Content::Hashes { locals: locals.collect(), block_tokens: query.block_size, prompt_tokens: 0 };
    let prompt = Prompt { model: query.model_name, content, ..Prompt::default() };
    Ok(json(StatusCode::OK, &scores(&service.query(&prompt)?)))
}

/// Dynamo's clients may name a group; there is one here.
pub(super) fn one_group(group: Option<&str>) -> Result<(), ApiError> {
    match group {
        None | Some("" | "default") => Ok(()),
        Some(other) => Err(ApiError::bad(format!(
            "there is no routing group `{other}`: this router has one group; run another router, or give the models different names"
        ))),
    }
}

fn scores(answer: &QueryAnswer) -> Scores {
    let mut scores = Scores { block_size: answer.block_tokens, ..Scores::default() };
    for overlap in &answer.workers {
        scores.add(overlap, u64::from(answer.block_tokens));
    }
    scores
}

impl Scores {
    fn add(&mut self, overlap: &Overlap, block_tokens: u64) {
        let (name, rank) = (overlap.target.worker.to_string(), overlap.target.rank.to_string());
        let [gpu, cpu, disk] = overlap.cumulative.map(|blocks| u64::from(blocks) * block_tokens);
        let instance = self.instances.entry(name.clone()).or_default();
        instance.dp.insert(rank.clone(), gpu);
        instance.gpu = instance.gpu.max(gpu);
        instance.cpu = instance.cpu.max(cpu);
        instance.disk = instance.disk.max(disk);
        instance.longest_matched = instance.longest_matched.max(disk);
        if let Some(why) = &overlap.unknown {
            self.unknown.entry(name).or_default().insert(rank, why.clone());
            return;
        }
        if gpu > 0 {
            self.scores.entry(name).or_default().insert(rank, gpu);
        }
        let blocks = (overlap.cumulative[0] as usize).min(MOST_FREQUENCIES);
        self.frequencies.resize(self.frequencies.len().max(blocks), 0);
        self.frequencies[..blocks].iter_mut().for_each(|frequency| *frequency += 1);
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> ApiError {
        let status = match error {
            AskError::UnknownModel { .. } | AskError::UnknownWorker { .. } | AskError::UnknownRequest(_) => StatusCode::NOT_FOUND,
            AskError::BlockTokens { .. } | AskError::Prompt(_) => StatusCode::BAD_REQUEST,
            AskError::Again(_) | AskError::Nobody(_) => StatusCode::CONFLICT,
            AskError::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        ApiError::new(status, error)
    }
}
