//! What every bench shares: interleaved runs, medians, one report as a table and as JSON.
//!
//! A bench measures one claim. It runs ours and a reference alternately, so that a slow minute of the machine falls on both,
//! and reports medians and their ratio. The ratio is always "higher is better, 1.0 is equal", whatever the unit.
//! Nothing here knows what is measured.
//!
//! ```no_run
//! use kvd_benches::{Better, Report, Row, interleave, seconds};
//!
//! fn main() -> std::io::Result<()> {
//!     let runs = interleave(5, || seconds(|| (0..1000).sum::<u64>()), || seconds(|| (0..1000).fold(0, |a, b| a ^ b)));
//!     Report::new("example").with(Row::compare("sum of 1,000", "s", Better::Lower, &runs)).publish()
//! }
//! ```

#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "an allocator is unsafe to write, not to use")]
mod allocator;
pub mod fleet;
mod machine;
mod measure;
pub mod policies;
mod report;
pub mod traces;

pub use allocator::{CountingAllocator, allocated_bytes};
pub use machine::{commit, machine};
pub use measure::{Interleaved, interleave, median, percentile, seconds};
pub use report::{Better, Report, Row};
