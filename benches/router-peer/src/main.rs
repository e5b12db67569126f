//! kvd's block index beside NVIDIA Dynamo's, on the same events and prompts, in one run.
//!
//! ```text
//! router_peer [--quick] [--runs N] [--memberships N] [--shape 0..5]
//! ```
//!
//! Events are timed as CPU time of the process from the first event until the last is visible, queues drained. Look-ups are
//! timed one by one. Memory is what a counting allocator says is live after everything was stored.

#![deny(unsafe_code)]

mod differences;
mod inputs;
mod ours;
mod peer;
mod scenes;

#[path = "../../src/allocator.rs"]
#[allow(unsafe_code, reason = "an allocator is unsafe to write, not to use")]
mod allocator;
#[path = "../../src/machine.rs"]
#[allow(dead_code)]
mod machines;
#[path = "../../src/measure.rs"]
#[allow(dead_code)]
mod measure;
#[path = "../../src/report.rs"]
#[allow(dead_code)]
mod report;

use allocator::CountingAllocator;
use inputs::Shape;
pub use machines::{commit, machine};
pub use measure::{Interleaved, median};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Shapes between which everything the claim names varies.
const SHAPES: [Shape; 6] = [
    Shape { workers: 64, tokens: 4 << 10, block_tokens: 64, shared: 0.5 },
    Shape { workers: 64, tokens: 32 << 10, block_tokens: 16, shared: 0.9 },
    Shape { workers: 64, tokens: 128 << 10, block_tokens: 16, shared: 0.5 },
    Shape { workers: 512, tokens: 4 << 10, block_tokens: 16, shared: 0.9 },
    Shape { workers: 512, tokens: 32 << 10, block_tokens: 64, shared: 0.5 },
    Shape { workers: 512, tokens: 128 << 10, block_tokens: 64, shared: 0.9 },
];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|found| found == name).and_then(|at| arguments.get(at + 1)?.parse().ok());
    let quick = arguments.iter().any(|found| found == "--quick");
    let runs: usize = value("--runs").unwrap_or(if quick { 1 } else { 3 });
    let memberships = value("--memberships").unwrap_or(if quick { 300_000 } else { 2_000_000 });
    let mut report = report::Report::new("router_peer");
    let only: Option<usize> = value("--shape");
    for (_, shape) in SHAPES.into_iter().enumerate().filter(|(at, _)| only.is_none_or(|only| only == *at)) {
        scenes::compare(shape, memberships, runs, &mut report);
    }
    differences::count(&mut report);
    Ok(report.publish()?)
}
