//! What a request says about itself, and what the router knows of the workers that could take it.

use crate::index::Reach;
use serde::{Deserialize, Serialize};
use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

/// Names a request as long as it lives, and its decision afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

impl RequestId {
    /// The request that a frontend calls `name`.
    pub fn named(name: &str) -> RequestId {
        RequestId(xxh3_64(name.as_bytes()))
    }
}

/// One engine rank that requests can be sent to. Small and dense: a place in tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub u32);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("w{}", self.0))
    }
}

/// Names a conversation. 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Session(pub u64);

/// What a worker does for requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Prefill and decode.
    #[default]
    Both,
    /// Prefill for others.
    Prefill,
    /// Decode, and short prefills of its own.
    Decode,
}

/// `key=value`.
pub type Label = (String, String);

/// What a worker is, from its registration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerProfile {
    /// What people call it.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Free words that requests can require or prefer.
    pub labels: Vec<Label>,
    /// Node it runs on; workers of one node exchange blocks at once.
    pub node: String,
    /// Rack of the node.
    pub rack: String,
    /// LoRA adapters it has. A request for another is not sent there; empty takes any.
    pub adapters: Vec<String>,
    /// Bytes of KV of one block, over all ranks and groups.
    pub block_bytes: u64,
    /// Blocks that its devices hold; 0 is not known. What does not fit beside the requests it has must wait for their end.
    pub device_blocks: u64,
    /// Requests that it may have at a time; 0 is no limit.
    pub most_requests: u32,
    /// Tokens not yet computed that it may have waiting; 0 is no limit. One request always fits.
    pub most_waiting_tokens: u64,
}

/// What is known about a worker's blocks of one prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The index is complete for all that this worker can use.
    Exact(Reach),
    /// Some stream of this worker is not proven complete, so that its answer is not used.
    Unknown,
}

/// A worker that the caller offers for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub worker: WorkerId,
    /// What it has of the prompt.
    pub known: Known,
}

/// What agents and frontends say beside the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hints {
    /// Higher goes first; 0 is normal.
    pub priority: i32,
    /// Tokens that the answer is expected to have; 0 is not known.
    pub output_tokens: u32,
    /// When the first token must be there, on the router's clock in milliseconds.
    pub deadline_ms: Option<f64>,
}

/// One request to be routed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteRequest {
    /// Its name.
    pub id: RequestId,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of a block.
    pub block_tokens: u32,
    /// What is hinted at.
    pub hints: Hints,
    /// The conversation it belongs to.
    pub session: Session,
    /// The only worker that may take it.
    pub pinned: Option<WorkerId>,
    /// Labels a worker must have, all of them.
    pub required: Vec<Label>,
    /// Labels that speak for a worker.
    pub preferred: Vec<Label>,
    /// LoRA adapter; empty for the base model.
    pub adapter: String,
}

impl RouteRequest {
    /// Blocks that the prompt and the expected answer take.
    pub fn total_blocks(&self) -> u64 {
        let tokens = u64::from(self.prompt_tokens) + u64::from(self.hints.output_tokens);
        tokens.div_ceil(u64::from(self.block_tokens.max(1)))
    }
}

/// Why a worker cannot take a request at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Excluded {
    /// Nobody registered it.
    NotRegistered,
    /// The request is pinned to another.
    PinnedElsewhere,
    /// It does not do this part of the work.
    Role,
    /// It lacks the LoRA adapter.
    Adapter,
    /// It lacks a required label.
    Label,
    /// It has as many requests or waiting tokens as it may.
    Full,
}

impl fmt::Display for Excluded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Excluded::NotRegistered => "not registered",
            Excluded::PinnedElsewhere => "pinned elsewhere",
            Excluded::Role => "other role",
            Excluded::Adapter => "adapter missing",
            Excluded::Label => "required label missing",
            Excluded::Full => "full",
        })
    }
}

impl WorkerProfile {
    /// Whether it can take `request` for `part` of the work, its load aside.
    pub(super) fn excludes(&self, worker: WorkerId, request: &RouteRequest, part: Role) -> Option<Excluded> {
        if request.pinned.is_some_and(|pinned| pinned != worker) {
            return Some(Excluded::PinnedElsewhere);
        }
        let other = match part {
            Role::Both | Role::Decode => Role::Prefill,
            Role::Prefill => Role::Decode,
        };
        if self.role == other {
            return Some(Excluded::Role);
        }
        if !request.adapter.is_empty() && !self.adapters.is_empty() && !self.adapters.contains(&request.adapter) {
            return Some(Excluded::Adapter);
        }
        if !request.required.iter().all(|label| self.labels.contains(label)) {
            return Some(Excluded::Label);
        }
        None
    }

    /// How many of the preferred labels it has.
    pub(super) fn preferred(&self, request: &RouteRequest) -> usize {
        request.preferred.iter().filter(|label| self.labels.contains(label)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(role: Role) -> WorkerProfile {
        WorkerProfile { role, labels: vec![("zone".into(), "a".into())], adapters: vec!["french".into()], ..WorkerProfile::default() }
    }

    #[test]
    fn a_worker_without_a_required_label_is_excluded() {
        let request = RouteRequest { required: vec![("zone".into(), "b".into())], ..RouteRequest::default() };
        assert_eq!(profile(Role::Both).excludes(WorkerId(0), &request, Role::Both), Some(Excluded::Label));
    }

    #[test]
    fn a_worker_that_names_its_adapters_takes_no_other() {
        let request = |adapter: &str| RouteRequest { adapter: adapter.into(), ..RouteRequest::default() };
        assert_eq!(profile(Role::Both).excludes(WorkerId(0), &request("dutch"), Role::Both), Some(Excluded::Adapter));
        assert_eq!(profile(Role::Both).excludes(WorkerId(0), &request("french"), Role::Both), None);
        assert_eq!(profile(Role::Both).excludes(WorkerId(0), &request(""), Role::Both), None);
    }

    #[test]
    fn a_prefill_worker_takes_no_whole_request() {
        let request = RouteRequest::default();
        assert_eq!(profile(Role::Prefill).excludes(WorkerId(0), &request, Role::Both), Some(Excluded::Role));
        assert_eq!(profile(Role::Prefill).excludes(WorkerId(0), &request, Role::Prefill), None);
        assert_eq!(profile(Role::Decode).excludes(WorkerId(0), &request, Role::Both), None);
        assert_eq!(profile(Role::Decode).excludes(WorkerId(0), &request, Role::Prefill), Some(Excluded::Role));
    }

    #[test]
    fn a_pinned_request_is_taken_by_nobody_else() {
        let request = RouteRequest { pinned: Some(WorkerId(3)), ..RouteRequest::default() };
        assert_eq!(profile(Role::Both).excludes(WorkerId(2), &request, Role::Both), Some(Excluded::PinnedElsewhere));
        assert_eq!(profile(Role::Both).excludes(WorkerId(3), &request, Role::Both), None);
    }
}
