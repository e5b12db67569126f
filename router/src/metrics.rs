//! Metrics in the text format of Prometheus.
//!
//! Written by hand: every number exists already where it is counted, and a registry would be a second place for each.
//! `kvd-router metrics --reference` prints the list below.

use crate::service::Service;
use std::fmt::{Display, Write};

/// One metric.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    pub name: &'static str,
    kind: &'static str,
    help: &'static str,
}

macro_rules! metrics {
    ($( $constant:ident = $name:literal $kind:ident $help:literal )*) => {
        $( pub(crate) const $constant: Metric = Metric { name: $name, kind: stringify!($kind), help: $help }; )*
        const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    RANKS = "kvd_router_ranks" gauge "Worker ranks that requests can be sent to. Label: model."
    UNKNOWN = "kvd_router_unknown_ranks" gauge "Of them, those whose blocks are not known: decisions about them fall back. Label: model."
    BLOCKS = "kvd_router_index_blocks" gauge "Distinct blocks that somebody has. Label: model."
    MEMBERSHIPS = "kvd_router_index_memberships" gauge "(block, holder, medium) triples. Label: model."
    INDEX_BYTES = "kvd_router_index_bytes" gauge "Memory of the index. Label: model."
    ORPHANS = "kvd_router_index_orphans" gauge "Blocks that wait for a parent nobody told of. Label: model."
    EVICTED = "kvd_router_index_evicted_total" counter "Memberships forgotten for want of memory. Label: model."
    LOST_ORPHANS = "kvd_router_index_lost_orphans_total" counter "Orphans lost for want of room. Label: model."
    NAME_CONFLICTS = "kvd_router_index_name_conflicts_total" counter "Names that two publishers used for different blocks. Label: model."
    DECIDED = "kvd_router_decisions_total" counter "Requests for which a worker was chosen. Label: model."
    REFUSED = "kvd_router_refusals_total" counter "Times that nobody could take a request. Label: model."
    ALL_UNKNOWN = "kvd_router_decisions_all_unknown_total" counter "Decisions by load, because no candidate's blocks were known. Label: model."
    SOME_UNKNOWN = "kvd_router_decisions_some_unknown_total" counter "Decisions in which some candidates' blocks were not known. Label: model."
    LOST = "kvd_router_requests_lost_total" counter "Requests that nobody finished. Label: model."
    ACTIVE = "kvd_router_active_requests" gauge "Requests that are booked. Label: model."
    QUEUED = "kvd_router_queued_requests" gauge "Requests that wait for a worker with room. Label: model."
    LOAD_TOKENS = "kvd_router_prefill_tokens" gauge "Tokens that a rank has to compute. Labels: model, worker, rank."
    SOURCE_KNOWN = "kvd_router_source_known" gauge "1 while what a stream's publisher has is proven, else 0. Label: source."
    SOURCE_COMPLETE = "kvd_router_source_complete" gauge "1 while all its publisher has is known, 0 when only what it told since it was followed. Label: source."
    SOURCE_BLOCKS = "kvd_router_source_blocks" gauge "Blocks of a stream's publisher. Labels: source, medium."
    SOURCE_SILENT = "kvd_router_source_silent_seconds" gauge "Since the last message; engines are silent when they are idle. Label: source."
    MESSAGES = "kvd_router_source_messages_total" counter "Messages applied. Label: source."
    EVENTS = "kvd_router_source_events_total" counter "Events applied. Label: source."
    GAPS = "kvd_router_source_gaps_total" counter "Times that messages were missing. Label: source."
    RESTARTS = "kvd_router_source_restarts_total" counter "Times that the publisher began anew. Label: source."
    DIVERGENCES = "kvd_router_source_divergences_total" counter "Times that the publisher's digest differed from what was known. Label: source."
    MALFORMED = "kvd_router_source_malformed_total" counter "Messages that could not be read. Label: source."
    REPLAYS = "kvd_router_source_replays_total" counter "Replays asked for. Label: source."
    SNAPSHOTS = "kvd_router_source_snapshots_total" counter "Snapshots asked for. Label: source."
    FLOODED = "kvd_router_source_flooded_total" counter "Messages dropped because they came faster than they could be applied: a gap follows. Label: source."
    RSS = "kvd_router_resident_memory_bytes" gauge "Memory of the process."
}

/// Everything, as it is now.
pub fn text(service: &Service) -> String {
    let mut out = Text(String::with_capacity(8 << 10));
    service.write_metrics(&mut out);
    out.head(RSS);
    out.line(RSS, "", resident_bytes());
    out.0
}

/// The exposition under way.
pub(crate) struct Text(String);

impl Text {
    pub fn head(&mut self, metric: Metric) {
        let _ = writeln!(self.0, "# HELP {} {}\n# TYPE {} {}", metric.name, metric.help, metric.name, metric.kind);
    }

    pub fn line(&mut self, metric: Metric, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{}{labels} {value}", metric.name);
    }
}

/// `text` as the value of a label.
pub(crate) fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Markdown of every metric.
pub fn reference() -> String {
    let mut out = String::from(
        "# Metrics of kvd-router\n\nPrometheus text at `/metrics` of `[http] listen`.\n\n| metric | type | meaning |\n|---|---|---|\n",
    );
    for metric in ALL {
        let _ = writeln!(out, "| `{}` | {} | {} |", metric.name, metric.kind, metric.help);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_names_every_metric_once() {
        let reference = reference();
        for metric in ALL {
            assert_eq!(reference.matches(&format!("`{}`", metric.name)).count(), 1, "{}", metric.name);
        }
    }

    #[test]
    fn a_label_cannot_end_its_line() {
        assert_eq!(label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
