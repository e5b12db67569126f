//! `kvd conformance`: does this medium keep the promises of a tier?
//!
//! The checks are those of [`kvd_tiers::conformance`], the same that kvd's own tiers pass. Here they get a target to work on, a
//! clock that ends a check whose target never answers, and a table, a JSON file and an HTML page for what was found.

mod child;
mod facts;
mod fill;
mod findings;
mod places;
mod prepare;
mod raw;
mod report;
mod suite;
mod table;

pub use child::{HIDDEN_COMMAND, write_until_killed};
pub use facts::facts;
pub use findings::{Counts, Finding, Findings, SCHEMA, Verdict};
pub use places::Place;
pub use prepare::{ConformanceError, Sizes, prepare};
pub use report::html;
pub use suite::{Moment, Plan, chosen, run};
pub use table::LiveTable;
