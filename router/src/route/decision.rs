//! Decisions as they are kept, sent and explained.

use super::price::Terms;
use super::request::{Excluded, RequestId, WorkerId};
use super::settings::Mode;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::fmt::Write;

/// What the price of a candidate's reuse rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The index, complete for this worker.
    #[default]
    Index,
    /// The index, and beyond it what this router sent there and is being computed.
    Coming,
    /// Only what this router sent there lately.
    Sent,
}

/// One candidate of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Priced {
    /// Who.
    pub worker: WorkerId,
    /// Its terms.
    pub terms: Terms,
    /// What they rest on.
    pub evidence: Evidence,
    /// Requests it had.
    pub requests: u32,
    /// Why it could not be chosen.
    pub excluded: Option<Excluded>,
}

/// Why a decision was not made in the mode that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// The index is complete for none of the candidates: the least loaded was taken.
    AllUnknown,
    /// It is not complete for some of them, which were priced by what was sent there lately.
    SomeUnknown,
}

/// One decision with all that it was made of.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Decision {
    /// About which request.
    pub request: RequestId,
    /// When, on the router's clock in milliseconds.
    pub at_ms: f64,
    /// Mode that was set.
    pub mode: Mode,
    /// What was done instead, where it could not be.
    pub fallback: Option<Fallback>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Milliseconds that one of own work counted for.
    pub weight: f64,
    /// Softmax temperature; above 0 the cheapest need not win.
    pub temperature_ms: f64,
    /// Who won; none when everyone was excluded.
    pub winner: Option<WorkerId>,
    /// Every candidate, in the order in which they were given.
    pub candidates: Vec<Priced>,
}

impl Decision {
    /// The mode in which it was made.
    pub fn made_by(&self) -> Mode {
        match self.fallback {
            Some(Fallback::AllUnknown) => Mode::LeastLoaded,
            _ => self.mode,
        }
    }

    /// The candidate that won.
    pub fn won(&self) -> Option<&Priced> {
        self.candidates.iter().find(|priced| Some(priced.worker) == self.winner)
    }

    /// The best of the others, by price.
    fn runner_up(&self) -> Option<&Priced> {
        let others = self.candidates.iter().filter(|priced| priced.excluded.is_none() && Some(priced.worker) != self.winner);
        others.min_by(|a, b| a.terms.total_ms.total_cmp(&b.terms.total_ms))
    }

    /// One sentence: why the winner won. `name` says what people call a worker.
    pub fn reason(&self, name: impl Fn(WorkerId) -> String) -> String {
        let Some(won) = self.won() else { return "Nobody could take it: every candidate was excluded.".into() };
        let who = name(won.worker);
        let Some(next) = self.runner_up() else { return format!("{who} was the only one that could take it.") };
        let other = name(next.worker);
        let (queue, next_queue) = (won.terms.queue_ms, next.terms.queue_ms);
        match self.made_by() {
            Mode::Direct => format!("{who} was asked for."),
            Mode::Random => format!("{who} was drawn by lot."),
            Mode::RoundRobin => format!("{who} was next."),
            Mode::PowerOfTwo => format!("{who} had less to do, {queue:.1} ms, than the other of two drawn by lot."),
            Mode::LeastLoaded if self.fallback.is_some() => {
                format!("The index is complete for no candidate, so {who} won as the least loaded, with {queue:.1} ms to do.")
            }
            Mode::LeastLoaded => format!("{who} had least to do: {queue:.1} ms; {other} had {next_queue:.1} ms."),
            Mode::Kv | Mode::Approximate => price_reason(won, &who, next, &other, self.temperature_ms),
        }
    }

    /// A table of all candidates, and the reason below it.
    pub fn explain(&self, name: impl Fn(WorkerId) -> String) -> String {
        let mut text = String::new();
        let made_by = self.made_by();
        let _ = write!(text, "request {:#018x}, {} tokens, mode {}", self.request.0, self.prompt_tokens, self.mode);
        let _ = match self.fallback {
            Some(Fallback::AllUnknown) => writeln!(text, ", decided by {made_by}: the index is complete for no candidate"),
            Some(Fallback::SomeUnknown) => writeln!(text, ", some candidates unknown to the index"),
            None => writeln!(text),
        };
        let width = self.candidates.iter().map(|priced| name(priced.worker).chars().count()).max().unwrap_or(0).max(6);
        let _ = writeln!(
            text,
            "  {:width$} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}  evidence",
            "worker", "total ms", "queue", "room", "decode", "prefill", "onboard", "scarcity", "bonus", "compute", "reuse"
        );
        let mut order: Vec<&Priced> = self.candidates.iter().collect();
        order.sort_by(|a, b| {
            (a.excluded.is_some(), a.terms.total_ms)
                .partial_cmp(&(b.excluded.is_some(), b.terms.total_ms))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        for priced in order {
            let star = if Some(priced.worker) == self.winner { '*' } else { ' ' };
            line(&mut text, star, &name(priced.worker), width, priced);
        }
        text + &self.reason(name) + "\n"
    }
}

fn line(text: &mut String, star: char, name: &str, width: usize, priced: &Priced) {
    if let Some(why) = priced.excluded {
        let _ = writeln!(text, "{star} {name:width$} {why}");
        return;
    }
    let terms = &priced.terms;
    let evidence = match priced.evidence {
        Evidence::Index => "index",
        Evidence::Coming => "index + coming",
        Evidence::Sent => "own decisions",
    };
    let bonus = 0.0 - terms.affinity_ms - terms.labels_ms;
    let _ = writeln!(
        text,
        "{star} {name:width$} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {bonus:>9.1} {:>8} {:>8}  {evidence}",
        terms.total_ms,
        terms.queue_ms,
        terms.room_ms,
        terms.decode_ms,
        terms.prefill_ms,
        terms.onboard_ms,
        terms.scarcity_ms,
        terms.uncached_tokens,
        terms.used_blocks,
    );
}

fn price_reason(won: &Priced, who: &str, next: &Priced, other: &str, temperature_ms: f64) -> String {
    let lead = next.terms.total_ms - won.terms.total_ms;
    if lead < 0.0 {
        return format!("{who} was drawn at a temperature of {temperature_ms} ms, though {other} was {:.1} ms cheaper.", -lead);
    }
    if lead < 1e-6 {
        return format!("{who} and {other} were equal at {:.1} ms; the lot decided.", won.terms.total_ms);
    }
    let (a, b) = (&won.terms, &next.terms);
    let gains = [
        (b.queue_ms - a.queue_ms, "less waiting"),
        (b.room_ms - a.room_ms, "less waiting for room"),
        (b.decode_ms - a.decode_ms, "less interference of decodes"),
        (b.prefill_ms - a.prefill_ms, "less computing"),
        (b.onboard_ms - a.onboard_ms, "less loading"),
        (b.scarcity_ms - a.scarcity_ms, "less time taken from others"),
        (a.affinity_ms - b.affinity_ms, "more of a bonus for the session"),
        (a.labels_ms - b.labels_ms, "more of a bonus for labels"),
    ];
    let most = gains.iter().max_by(|a, b| a.0.total_cmp(&b.0)).expect("some terms");
    let saved = b.uncached_tokens.saturating_sub(a.uncached_tokens);
    let tokens = if saved > 0 { format!("; it computes {saved} tokens fewer") } else { String::new() };
    format!("{who} won with {:.1} ms, {lead:.1} ms before {other}: {:.1} ms {}{tokens}.", a.total_ms, most.0, most.1)
}

/// The latest decisions, by request, within so many bytes.
#[derive(Debug, Default)]
pub struct History {
    /// Of each request the place of its latest decision, counted from the first ever made.
    places: HashMap<RequestId, u64>,
    kept: VecDeque<Decision>,
    first: u64,
    bytes: usize,
    most_bytes: usize,
    spare: Vec<Priced>,
}

impl History {
    /// Nothing decided yet.
    pub fn new(most_bytes: usize) -> History {
        History { most_bytes, ..History::default() }
    }

    /// An empty list for the candidates of the next decision.
    pub(super) fn scratch(&mut self) -> Vec<Priced> {
        let mut spare = std::mem::take(&mut self.spare);
        spare.clear();
        spare
    }

    /// Keeps a decision and forgets as many old ones as that takes.
    pub(super) fn keep(&mut self, decision: Decision) {
        self.bytes += bytes(&decision);
        self.places.insert(decision.request, self.first + self.kept.len() as u64);
        self.kept.push_back(decision);
        while self.bytes > self.most_bytes && self.kept.len() > 1 {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.kept.pop_front() else { return };
        self.bytes -= bytes(&oldest);
        if self.places.get(&oldest.request) == Some(&self.first) {
            self.places.remove(&oldest.request);
        }
        self.first += 1;
        self.spare = oldest.candidates;
    }

    /// The latest decision about `request`, while it is kept.
    pub fn about(&self, request: RequestId) -> Option<&Decision> {
        let place = self.places.get(&request)?;
        self.kept.get(place.checked_sub(self.first)? as usize)
    }

    /// The latest decision of all.
    pub fn latest(&self) -> Option<&Decision> {
        self.kept.back()
    }

    /// Decisions kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// True when none is.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

fn bytes(decision: &Decision) -> usize {
    size_of::<Decision>() + decision.candidates.capacity() * size_of::<Priced>() + size_of::<(RequestId, u64)>() * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(request: u64, totals: &[f64]) -> Decision {
        let terms = |total: &f64| Terms { total_ms: *total, prefill_ms: *total, uncached_tokens: *total as u32 * 10, ..Terms::default() };
        let candidates =
            (0u32..).zip(totals).map(|(worker, total)| Priced { worker: WorkerId(worker), terms: terms(total), ..Priced::default() });
        Decision { request: RequestId(request), winner: Some(WorkerId(0)), candidates: candidates.collect(), ..Decision::default() }
    }

    fn name(worker: WorkerId) -> String {
        format!("gpu-{}", worker.0)
    }

    #[test]
    fn the_reason_names_the_term_that_decided() {
        let reason = decision(1, &[10.0, 30.0, 50.0]).reason(name);
        assert_eq!(reason, "gpu-0 won with 10.0 ms, 20.0 ms before gpu-1: 20.0 ms less computing; it computes 200 tokens fewer.");
    }

    #[test]
    fn the_table_is_ordered_by_price_with_the_winner_marked_and_the_excluded_last() {
        let mut decision = decision(7, &[10.0, 50.0, 30.0]);
        decision.candidates[1].excluded = Some(Excluded::Full);
        let text = decision.explain(name);
        let starts: Vec<&str> = text.lines().map(|line| line.get(..7).unwrap_or(line)).collect();
        assert_eq!(starts, ["request", "  worke", "* gpu-0", "  gpu-2", "  gpu-1", "gpu-0 w"], "{text}");
        assert!(text.contains("gpu-1  full"), "{text}");
    }

    #[test]
    fn a_fallback_is_said_in_the_first_line_and_in_the_reason() {
        let decision = Decision { fallback: Some(Fallback::AllUnknown), ..decision(1, &[10.0, 20.0]) };
        let text = decision.explain(name);
        assert!(text.contains("mode kv, decided by least_loaded") && text.contains("The index is complete for no candidate"), "{text}");
    }

    #[test]
    fn old_decisions_go_when_memory_is_full_and_the_latest_about_a_request_counts() {
        let one = bytes(&decision(0, &[1.0, 2.0]));
        let mut history = History::new(one * 3);
        for request in [1, 2, 1, 3] {
            history.keep(decision(request, &[f64::from(request as u32), 2.0]));
        }
        assert_eq!(history.len(), 3);
        assert!([1, 2, 3].iter().all(|request| history.about(RequestId(*request)).is_some()));
        history.keep(decision(4, &[1.0, 2.0]));
        assert!(history.about(RequestId(2)).is_none() && history.about(RequestId(1)).is_some());
    }

    #[test]
    fn a_decision_survives_json() {
        let decision = decision(1, &[10.0, 20.0]);
        let json = serde_json::to_string(&decision).expect("plain values");
        assert_eq!(serde_json::from_str::<Decision>(&json).expect("its own text"), decision);
    }
}
