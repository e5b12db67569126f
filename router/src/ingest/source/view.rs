//! What others see of a source.

use crate::ingest::HolderView;
use crate::ingest::apply::Tally;
use crate::ingest::stream::{Counts, Reason, State};
use std::time::Duration;

/// One stream of a source: a rank of an engine, or a kvd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamView {
    /// Whether what its holders have may be used.
    pub state: State,
    /// Why it was refused.
    pub why: Option<String>,
    /// Who they are. They stay while the source is there, and more may come.
    pub holders: Vec<HolderView>,
}

/// One stream, for operators.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamStatus {
    /// Source, and rank if it has several.
    pub name: String,
    /// Whether its view is proven.
    pub state: State,
    /// What stands in the way, in words.
    pub why: Option<String>,
    /// What the last message that could not be read had.
    pub last_error: Option<String>,
    /// Number of the last message applied.
    pub last_number: Option<u64>,
    /// Since the last message. Engines are silent when they are idle.
    pub silent_for: Option<Duration>,
    /// Over the last second in which anything came.
    pub events_per_second: f64,
    /// Held now, by medium.
    pub blocks: [u64; 4],
    /// What messages brought.
    pub tally: Tally,
    /// Losses and repairs.
    pub counts: Counts,
    /// Messages dropped because they came too fast.
    pub flooded: u64,
    /// Messages without a number.
    pub misframed: u64,
}

impl StreamStatus {
    pub(super) fn starting(name: &str) -> StreamStatus {
        StreamStatus {
            name: name.to_owned(),
            state: State::Unknown(Reason::Starting),
            why: None,
            last_error: None,
            last_number: None,
            silent_for: None,
            events_per_second: 0.0,
            blocks: [0; 4],
            tally: Tally::default(),
            counts: Counts::default(),
            flooded: 0,
            misframed: 0,
        }
    }
}
