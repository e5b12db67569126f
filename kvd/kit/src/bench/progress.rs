//! A line that moves, for a person at a terminal.

use super::tally::Snapshot;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// The line; nothing at all when standard error is no terminal, or when not wanted.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A line for what is called `what`. `whole`: how long it takes, when that is known.
    pub fn new(wanted: bool, whole: Option<Duration>) -> Progress {
        let bar = match whole {
            Some(whole) => ProgressBar::new(whole.as_millis() as u64),
            None => ProgressBar::new_spinner(),
        };
        if !wanted || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let shape = if whole.is_some() { "{bar:24} {msg}" } else { "{spinner} {elapsed_precise} {msg}" };
        bar.set_style(ProgressStyle::with_template(shape).expect("the template is sound"));
        Progress(bar)
    }

    /// Shows where things stand after `elapsed`.
    pub fn show(&self, what: &str, sums: &Snapshot, elapsed: Duration) {
        let gb_per_s = |bytes: u64| bytes as f64 / 1e9 / elapsed.as_secs_f64().max(1e-3);
        let (hit, asked) = (sums.arena_tokens + sums.storage_tokens, sums.asked_tokens.max(1));
        self.0.set_position(elapsed.as_millis() as u64);
        self.0.set_message(format!(
            "{what}: {} requests, {:.2} GB/s from storage, {:.2} from memory, {:.2} stored, {:.0} % of tokens hit, {} wrong bytes",
            sums.requests,
            gb_per_s(sums.storage_bytes),
            gb_per_s(sums.arena_bytes),
            gb_per_s(sums.stored_bytes),
            100.0 * hit as f64 / asked as f64,
            sums.wrong_bytes,
        ));
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}
