//! What the service is asked and what it answers, as JSON has it too. `docs/router.md` shows each by example.

use super::Prompt;
use crate::fleet::InstanceName;
use crate::route::{Evidence, Mode, SplitReason, Terms};
use serde::Serialize;
use std::collections::BTreeMap;

/// A rank of a worker, and where requests for it go.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    /// The worker.
    pub worker: InstanceName,
    /// Its data-parallel rank.
    pub rank: u32,
    /// Where to send the request; what the worker registered with.
    pub url: String,
}

/// How much of a prompt one rank can use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overlap {
    /// Who.
    #[serde(flatten)]
    pub target: Target,
    /// Blocks of its longest usable prefix.
    pub blocks: u32,
    /// The same blocks by the fastest medium each is in: device, host, disk, external.
    pub by_medium: [u32; 4],
    /// Blocks of the longest prefix in device memory; in device and host memory; in any medium.
    pub cumulative: [u32; 3],
    /// Why its blocks are not known, in which case nothing above is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// Who has how much of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueryAnswer {
    /// Tokens in a block.
    pub block_tokens: u32,
    /// Whole blocks of the prompt.
    pub prompt_blocks: u32,
    /// Every rank that serves the model.
    pub workers: Vec<Overlap>,
}

/// A request to be sent somewhere.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SelectRequest {
    /// Its name, unlike that of any other that has not ended.
    pub id: String,
    /// What it is about.
    pub prompt: Prompt,
    /// Decide, but book nothing.
    pub peek: bool,
    /// Tokens its answer is expected to have; 0 is not known.
    pub expected_output_tokens: u32,
    /// Higher goes first when requests wait.
    pub priority: i32,
    /// Milliseconds from now until its first token is due.
    pub deadline_ms: Option<f64>,
    /// Names its conversation; empty for none.
    pub session: String,
    /// Labels that a worker must have.
    pub required_labels: BTreeMap<String, String>,
    /// Labels that a worker had better have.
    pub preferred_labels: BTreeMap<String, String>,
    /// The only worker that may take it.
    pub worker: Option<String>,
    /// With `worker`: the only rank. Without: rank 0.
    pub rank: u32,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Selected {
    /// The request's name.
    pub request_id: String,
    /// Who decodes it, and computes its prompt unless `prefill` says otherwise.
    #[serde(flatten)]
    pub target: Target,
    /// How the decision was made.
    pub mode: Mode,
    /// Why not as configured, when it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// What the price of reuse rests on.
    pub evidence: Evidence,
    /// What it costs there.
    pub terms: Terms,
    /// Tokens in a block, for `terms`.
    pub block_tokens: u32,
    /// Who computes the prompt, when that is another worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill: Option<Target>,
    /// Why the prompt is computed where it is, when some workers do nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitReason>,
    /// How long it waited here for a worker with room.
    pub waited_ms: f64,
}

/// What one rank has to do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadView {
    /// Who.
    #[serde(flatten)]
    pub target: Target,
    /// What it serves.
    pub model: String,
    /// Requests whose prompt is not computed yet.
    pub waiting: u32,
    /// Tokens of theirs to be computed.
    pub prefill_tokens: u64,
    /// Requests that generate.
    pub decoding: u32,
    /// Blocks of all of them, answers expected included.
    pub blocks: u64,
    /// Until all prompts sent there are computed.
    pub queue_ms: f64,
    /// Until a prompt of a thousand tokens is computed, as it proved to be.
    pub prefill_ms_per_1k_tokens: f64,
    /// Why its blocks are not known, when they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// All loads of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadsAnswer {
    /// Requests that wait in the router.
    pub queued: usize,
    /// Every rank.
    pub workers: Vec<LoadView>,
}

/// Why a request went where it went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// The request's name.
    pub request_id: String,
    /// What it was about.
    pub model: String,
    /// The decision with every candidate and its terms in milliseconds.
    pub decision: crate::route::Decision,
    /// What people call the candidates, in the same order.
    pub names: Vec<String>,
    /// The table and the sentence that `kvd-router explain` prints.
    pub text: String,
}
