//! What the spaces have counted, as metrics.

use super::Service;
use super::space::Space;
use crate::index::Medium;
use crate::ingest::source::StreamStatus;
use crate::ingest::stream::State;
use crate::metrics::{self, Metric, Text, label};
use std::sync::Arc;

impl Service {
    /// Writes every metric of every model.
    pub(crate) fn write_metrics(&self, out: &mut Text) {
        let spaces: Vec<Arc<Space>> = self.spaces().values().cloned().collect();
        let seen: Vec<Vec<(Metric, u64)>> = spaces.iter().map(|space| seen(space)).collect();
        let kinds = seen.first().map_or(0, Vec::len);
        for kind in 0..kinds {
            out.head(seen[0][kind].0);
            for (space, values) in spaces.iter().zip(&seen) {
                let (metric, value) = values[kind];
                out.line(metric, &format!("{{model=\"{}\"}}", label(&space.model)), value);
            }
        }
        self.write_streams(out);
        out.head(metrics::LOAD_TOKENS);
        for load in self.loads(None).map(|loads| loads.workers).unwrap_or_default() {
            let worker = label(load.target.worker.as_str());
            let labels = format!("{{model=\"{}\",worker=\"{worker}\",rank=\"{}\"}}", label(&load.model), load.target.rank);
            out.line(metrics::LOAD_TOKENS, &labels, load.prefill_tokens);
        }
    }
}

impl Service {
    fn write_streams(&self, out: &mut Text) {
        let streams: Vec<(String, StreamStatus)> = self.streams().into_iter().map(|status| (label(&status.name), status)).collect();
        for (metric, value) in OF_STREAMS {
            out.head(*metric);
            for (name, status) in &streams {
                out.line(*metric, &format!("{{source=\"{name}\"}}"), value(status));
            }
        }
        out.head(metrics::SOURCE_SILENT);
        for (name, status) in &streams {
            if let Some(silent) = status.silent_for {
                out.line(metrics::SOURCE_SILENT, &format!("{{source=\"{name}\"}}"), silent.as_secs_f64());
            }
        }
        out.head(metrics::SOURCE_BLOCKS);
        for (name, status) in &streams {
            for (medium, blocks) in Medium::ALL.into_iter().zip(status.blocks) {
                out.line(metrics::SOURCE_BLOCKS, &format!("{{source=\"{name}\",medium=\"{medium}\"}}"), blocks);
            }
        }
    }
}

/// A number of a stream.
type OfStream = fn(&StreamStatus) -> u64;

const OF_STREAMS: &[(Metric, OfStream)] = &[
    (metrics::SOURCE_KNOWN, |status| u64::from(matches!(status.state, State::Known { .. }))),
    (metrics::SOURCE_COMPLETE, |status| u64::from(status.state == State::Known { complete: true })),
    (metrics::MESSAGES, |status| status.counts.applied),
    (metrics::EVENTS, |status| status.tally.events),
    (metrics::GAPS, |status| status.counts.gaps),
    (metrics::RESTARTS, |status| status.counts.restarts),
    (metrics::DIVERGENCES, |status| status.counts.divergences),
    (metrics::MALFORMED, |status| status.counts.malformed),
    (metrics::REPLAYS, |status| status.counts.replays),
    (metrics::SNAPSHOTS, |status| status.counts.snapshots),
    (metrics::FLOODED, |status| status.flooded),
];

fn seen(space: &Space) -> Vec<(Metric, u64)> {
    let ranks = space.ranks();
    let unknown = ranks.list.iter().filter(|ranked| ranked.unknown.is_some()).count();
    let index = space.index.read().stats();
    let desk = space.desk();
    let counters = desk.route.counters();
    let active: u64 = ranks.list.iter().map(|ranked| u64::from(desk.route.load(ranked.worker).requests())).sum();
    vec![
        (metrics::RANKS, ranks.list.len() as u64),
        (metrics::UNKNOWN, unknown as u64),
        (metrics::BLOCKS, index.blocks),
        (metrics::MEMBERSHIPS, index.memberships),
        (metrics::INDEX_BYTES, index.bytes),
        (metrics::ORPHANS, index.orphans),
        (metrics::EVICTED, index.evicted),
        (metrics::LOST_ORPHANS, index.lost_orphans),
        (metrics::NAME_CONFLICTS, index.name_conflicts),
        (metrics::DECIDED, counters.decided),
        (metrics::REFUSED, counters.refused),
        (metrics::ALL_UNKNOWN, counters.all_unknown),
        (metrics::SOME_UNKNOWN, counters.some_unknown),
        (metrics::LOST, counters.lost),
        (metrics::ACTIVE, active),
        (metrics::QUEUED, desk.queue.len() as u64),
    ]
}
