//! Replaying traces through the real ledger, and through the two ends that policies are measured between.

mod ends;
mod replay;

pub use ends::{belady, lru};
pub use replay::{Medium, replay};

use crate::traces::{Request, Trace};
use std::collections::HashSet;

/// What a replay found in the cache, as numbers of tokens: of the trace's first half (of requests) and its second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hits {
    found: [u64; 2],
    asked: [u64; 2],
}

impl Hits {
    /// Counts the first `blocks` of a request as found.
    fn count(&mut self, second_half: bool, request: &Request, blocks: usize) {
        let half = usize::from(second_half);
        self.found[half] += request.tokens_of(blocks);
        self.asked[half] += u64::from(request.input_tokens);
    }

    /// Percent of all tokens.
    pub fn percent(&self) -> f64 {
        percent(self.found[0] + self.found[1], self.asked[0] + self.asked[1])
    }

    /// Percent of the tokens of each half.
    pub fn percent_of_halves(&self) -> [f64; 2] {
        [0, 1].map(|half| percent(self.found[half], self.asked[half]))
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64 * 100.0
}

/// Distinct blocks of a trace.
pub fn distinct_blocks(trace: &Trace) -> usize {
    trace.requests.iter().flat_map(|request| &request.blocks).collect::<HashSet<_>>().len()
}
