//! A MODEL of a fleet: engines with paged caches, nodes with kvd's host and disk tiers, and the real router in front of them.
//!
//! What is real: the recorded requests, the router's code (index, prices, learning, queue) and every residency event it is told.
//! What is a model: time. Engines, links and drives take as long as the formulas of [`Machine`] say, with constants from published
//! measurements and a noise of a few percent. Nothing here says how fast an engine is; it says how routers compare when
//! engines are that fast.
//!
//! * **Engine.** Prompts are computed one after the other, first come first served, those whose blocks are still loading being passed
//!   over. `prefill = fixed + tokens · a + pairs · b`, and each chunk of it carries one step of the answers being generated. An answer
//!   takes `tokens · (c + d · batch)`. Whole blocks stay in a cache ordered as vLLM's: by last use, the end of a prompt first, never
//!   while a request uses them. A request is admitted when its prompt and answer fit beside those in use.
//! * **Node.** Every computed block is copied to the host and to disk at no cost in time. Both keep the blocks used last. A request
//!   loads the part of its prefix that the device lacks as far as that is quicker than computing it; loads of a worker share its
//!   host link, those of a node its drives.
//! * **Events.** Each change of residency reaches the router's index after a fixed delay, in order.
//! * **Arrivals** are those of the trace with all times multiplied by one factor. A request of a session waits for the
//!   session's answer before it.
//!
//! The same seed gives the same run, to the last bit.

mod cache;
mod clock;
mod engine;
mod events;
mod machine;
mod outcome;
mod simulation;

pub use machine::Machine;
pub use outcome::{Outcome, Percentiles};
pub use simulation::{Fleet, simulate};

use crate::traces::Trace;
use cache::Cache;

/// The share of prompt tokens that one cache of `capacity_blocks` finds which all requests share: no router can do better with as
/// much memory in all, since it would have to keep each block once only and in the right place.
pub fn pooled_reuse(trace: &Trace, capacity_blocks: usize) -> f64 {
    let mut cache = Cache::new(capacity_blocks);
    let (mut found, mut all) = (0, 0);
    for request in &trace.requests {
        let blocks = whole_blocks(request);
        found += cache.prefix(blocks) as u64 * u64::from(request.block_tokens);
        all += u64::from(request.input_tokens);
        cache.insert(blocks, &mut Vec::new());
    }
    found as f64 / all.max(1) as f64
}

/// The blocks that engines keep: whole ones.
fn whole_blocks(request: &crate::traces::Request) -> &[u64] {
    let whole = (request.input_tokens / request.block_tokens) as usize;
    &request.blocks[..whole.min(request.blocks.len())]
}
