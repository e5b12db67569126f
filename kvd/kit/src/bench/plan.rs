//! What is to be measured: everything that can be chosen, with nothing done yet.

use crate::preset::Model;
use crate::{Target, trace};
use std::path::PathBuf;
use std::time::Duration;

/// One measurement.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The `kvd` program; its `serve` is what runs on the medium.
    pub program: PathBuf,
    /// The medium.
    pub target: Target,
    /// Whose KV it is.
    pub model: Model,
    /// What the numbers of the KV are called in the layout.
    pub kv_dtype: String,
    /// Ranks the engine splits the model over.
    pub tp: u16,
    /// The trace.
    pub trace: PathBuf,
    /// How to read it.
    pub trace_options: trace::Options,
    /// Tokens of one kvd block; `None` chooses by size.
    pub block_tokens: Option<u32>,
    /// Memory that blocks pass through.
    pub arena_bytes: u64,
    /// Space taken on the medium; `None` chooses by what is free.
    pub storage_bytes: Option<u64>,
    /// When requests are made.
    pub pace: Pace,
    /// Factor on the trace's clock and on pauses: 2 is twice as fast.
    pub speed: f64,
    /// Closed loop: sessions at once. Open loop: most requests under way.
    pub concurrency: usize,
    /// Pause between a session's answer and its next request, instead of the trace's own.
    pub think_ms: Option<u64>,
    /// Replayed before anything is measured.
    pub warm_up: Duration,
    /// Longest measurement; `None` until the trace ends.
    pub duration: Option<Duration>,
    /// Most requests replayed, warm-up included.
    pub most_requests: Option<u64>,
    /// Inputs are cut to this length.
    pub most_input_tokens: Option<u64>,
    /// Begin the trace again when it ends.
    pub repeat: bool,
    /// Speed of the simulated GPU that computes what was not loaded; `None` computes in no time.
    pub prefill_tokens_per_second: Option<f64>,
    /// Find how many sessions are sustained.
    pub find_sessions: Option<FindSessions>,
    /// How long a load may wait for storage.
    pub deadline: Duration,
    /// Payloads that storage may compress to a half.
    pub compressible: bool,
    /// Leave the files on the medium.
    pub keep: bool,
    /// Write over a block device.
    pub overwrite: bool,
    /// Measure the tool itself, too: the same requests with a medium that keeps nothing. How long at most.
    pub ceiling: Option<Duration>,
}

/// When requests are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// When the trace says, whether the answers before are there or not.
    Open,
    /// A session's next request follows its answer and a pause.
    Closed,
}

impl Pace {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Pace::Open => "open",
            Pace::Closed => "closed",
        }
    }
}

/// The search for the greatest number of sessions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FindSessions {
    /// A number of sessions is sustained when 95 % of its requests have their first token by then.
    pub ttft: Duration,
    /// How long each number is tried.
    pub step: Duration,
    /// No more than these are tried.
    pub most: usize,
}
