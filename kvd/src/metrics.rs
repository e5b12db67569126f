//! Metrics in the text format of Prometheus, and `/healthz`.
//!
//! Written by hand: every number exists already, as a counter of the ledger or an atomic, and a registry would be a second
//! place for each. `kvd metrics --reference` prints the list below.

use crate::counters;
use crate::daemon::Shared;
use crate::driver::Stopped;
use crate::measure::BUCKETS_US;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kvd_block::TierKind;
use kvd_ledger::{Counters, TierTotals};
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::error;

/// An owner of the ledger that takes longer than this to answer is not healthy.
const HEALTH_LIMIT: Duration = Duration::from_secs(2);

/// Serves until the task is aborted.
pub fn start(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    let app = Router::new().route("/metrics", get(metrics)).route("/healthz", get(healthz)).with_state(shared);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            error!(%error, "metrics stopped");
        }
    })
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    match timeout(HEALTH_LIMIT, shared.driver.ask(|_| ())).await {
        Ok(Ok(())) => (StatusCode::OK, "ok\n").into_response(),
        Ok(Err(_)) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the ledger does not answer\n").into_response(),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match text(&shared).await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(Stopped) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}

/// A metric that is not a counter of the ledger.
#[derive(Debug, Clone, Copy)]
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

macro_rules! metrics {
    ($( $constant:ident = $name:literal $kind:ident $help:literal )*) => {
        $( const $constant: Metric = Metric { name: $name, kind: stringify!($kind), help: $help }; )*
        const OWN: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    CAPACITY = "kvd_tier_capacity_bytes" gauge "Size of a tier. Label: tier."
    USED = "kvd_tier_used_bytes" gauge "Bytes of a tier's slots that are in use. Label: tier."
    BLOCKS = "kvd_tier_blocks" gauge "Blocks that can be read from a tier. Label: tier."
    LEASES = "kvd_open_leases" gauge "Open store and load leases."
    TRANSFERS = "kvd_open_transfers" gauge "Blocks on their way to or from storage."
    ENGINES = "kvd_engines" gauge "Engines connected."
    CONNECTIONS = "kvd_engine_connections" gauge "Connections of engines: one per engine and one per worker."
    ACCEPTED = "kvd_connections_total" counter "Connections accepted, strangers included."
    REFUSED = "kvd_refusals_total" counter "Connections refused, or closed because they were no engine's."
    SLOW = "kvd_slow_engines_total" counter "Connections closed because the engine did not read its answers."
    PUBLISHED = "kvd_events_published_total" counter "KV event messages handed to the publisher."
    DROPPED = "kvd_events_dropped_total" counter "KV event messages numbered and dropped: subscribers see a gap."
    CATALOG_LOST = "kvd_catalog_changes_lost_total" counter "Changes of the catalog that could not be written: misses after the next restart."
    SCRUBBED = "kvd_scrub_checked_blocks_total" counter "Images at rest that the scrubber read and checked."
    SCRUBBED_BYTES = "kvd_scrub_checked_bytes_total" counter "Bytes of images at rest that the scrubber read and checked."
    SCRUB_CORRUPT = "kvd_scrub_corrupt_total" counter "Images that the scrubber found corrupt or unreadable, and had forgotten."
    SCRUB_UNREADABLE = "kvd_scrub_unreadable_total" counter "Reads of the scrubber that the device failed."
    SCRUB_PASSES = "kvd_scrub_passes_total" counter "Passes of the scrubber over every block."
    SCRUB_LAST = "kvd_scrub_last_pass_timestamp_seconds" gauge "When the scrubber's last pass ended, in seconds since 1970; 0 when none has."
    LOOKUP = "kvd_lookup_seconds" histogram "Time from reading a lookup to queueing its answer."
    DRAINING = "kvd_draining" gauge "1 while new leases are refused."
    INCARNATION = "kvd_incarnation" gauge "Number of this life of the daemon."
    RSS = "kvd_resident_memory_bytes" gauge "Memory of the process, touched parts of the arena included."
}

/// Everything, as of one moment of the ledger.
async fn text(shared: &Shared) -> Result<String, Stopped> {
    struct Seen {
        totals: [TierTotals; 2],
        leases: usize,
        transfers: usize,
        counters: Counters,
    }
    let seen = shared
        .driver
        .ask(|view| Seen {
            totals: TierKind::ALL.map(|tier| view.ledger.totals(tier)),
            leases: view.ledger.open_leases(),
            transfers: view.ledger.open_transfers(),
            counters: *view.ledger.counters(),
        })
        .await?;
    let mut out = Text(String::with_capacity(8 << 10));
    for (counter, value) in counters::of(&seen.counters) {
        out.head(counter.name, "counter", counter.help);
        out.line(counter.name, "", value);
    }
    out.per_tier(CAPACITY, seen.totals.map(|totals| totals.capacity_bytes));
    out.per_tier(USED, seen.totals.map(|totals| totals.used_bytes));
    out.per_tier(BLOCKS, seen.totals.map(|totals| totals.blocks));
    out.one(LEASES, seen.leases);
    out.one(TRANSFERS, seen.transfers);
    out.one(ENGINES, shared.engines.all().len());
    out.one(CONNECTIONS, shared.engines.connections());
    let measures = &shared.measures;
    out.one(ACCEPTED, measures.connections.get());
    out.one(REFUSED, measures.refusals.get());
    out.one(SLOW, measures.slow_engines.get());
    out.one(PUBLISHED, measures.events_published.get());
    out.one(DROPPED, measures.events_dropped.get());
    out.one(CATALOG_LOST, shared.storage.as_ref().map_or(0, |storage| storage.failed_changes()));
    let scrub = &measures.scrub;
    out.one(SCRUBBED, scrub.checked_blocks.get());
    out.one(SCRUBBED_BYTES, scrub.checked_bytes.get());
    out.one(SCRUB_CORRUPT, scrub.corrupt.get());
    out.one(SCRUB_UNREADABLE, scrub.unreadable.get());
    out.one(SCRUB_PASSES, scrub.passes.get());
    out.one(SCRUB_LAST, scrub.last_pass_unix_ms.get() / 1000);
    out.histogram(LOOKUP, measures.lookup_seconds.cumulative(), measures.lookup_seconds.totals());
    out.one(DRAINING, u8::from(*shared.draining.borrow()));
    out.one(INCARNATION, shared.incarnation);
    out.one(RSS, resident_bytes());
    Ok(out.0)
}

/// The exposition under way.
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn one(&mut self, metric: Metric, value: impl Display) {
        self.head(metric.name, metric.kind, metric.help);
        self.line(metric.name, "", value);
    }

    fn per_tier(&mut self, metric: Metric, values: [u64; 2]) {
        self.head(metric.name, metric.kind, metric.help);
        for (tier, value) in TierKind::ALL.into_iter().zip(values) {
            self.line(metric.name, &format!("{{tier=\"{tier}\"}}"), value);
        }
    }

    fn histogram(&mut self, metric: Metric, cumulative: [u64; BUCKETS_US.len()], (count, sum): (u64, f64)) {
        self.head(metric.name, metric.kind, metric.help);
        let bucket = format!("{}_bucket", metric.name);
        for (end_us, count) in BUCKETS_US.into_iter().zip(cumulative) {
            self.line(&bucket, &format!("{{le=\"{}\"}}", end_us as f64 / 1e6), count);
        }
        self.line(&bucket, "{le=\"+Inf\"}", count);
        self.line(&format!("{}_sum", metric.name), "", sum);
        self.line(&format!("{}_count", metric.name), "", count);
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * rustix::param::page_size() as u64
}

/// Markdown of every metric.
pub fn reference() -> String {
    let mut out = String::from(
        "# Metrics of kvd\n\nPrometheus text at `/metrics` of `[metrics] listen`.\n\n| metric | type | meaning |\n|---|---|---|\n",
    );
    for metric in OWN {
        let _ = writeln!(out, "| `{}` | {} | {} |", metric.name, metric.kind, metric.help);
    }
    for counter in counters::ALL {
        let _ = writeln!(out, "| `{}` | counter | {} |", counter.name, counter.help);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_names_every_metric_once() {
        let reference = reference();
        for name in OWN.iter().map(|metric| metric.name).chain(counters::ALL.iter().map(|counter| counter.name)) {
            assert_eq!(reference.matches(&format!("`{name}`")).count(), 1, "{name}");
        }
    }

    #[test]
    fn a_histogram_is_written_as_prometheus_reads_it() {
        let mut out = Text(String::new());
        out.histogram(LOOKUP, [1; BUCKETS_US.len()], (2, 0.5));
        assert!(out.0.contains("kvd_lookup_seconds_bucket{le=\"0.00001\"} 1\n"), "{}", out.0);
        assert!(out.0.ends_with("kvd_lookup_seconds_bucket{le=\"+Inf\"} 2\nkvd_lookup_seconds_sum 0.5\nkvd_lookup_seconds_count 2\n"));
    }
}
