//! What the daemon itself counts, besides the ledger's own counters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the latency buckets, in microseconds.
pub const BUCKETS_US: [u64; 14] = [10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_US.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let us = duration.as_micros() as u64;
        if let Some(bucket) = BUCKETS_US.iter().position(|end| us <= *end) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Durations up to each of [`BUCKETS_US`].
    pub fn cumulative(&self) -> [u64; BUCKETS_US.len()] {
        let mut total = 0;
        std::array::from_fn(|bucket| {
            total += self.buckets[bucket].load(Ordering::Relaxed);
            total
        })
    }

    /// How many durations, and their sum in seconds.
    pub fn totals(&self) -> (u64, f64) {
        (self.count.load(Ordering::Relaxed), self.sum_us.load(Ordering::Relaxed) as f64 / 1e6)
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that is set.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the scrubber has done in this life of the daemon.
#[derive(Debug, Default)]
pub struct ScrubMeasures {
    /// Images read and checked.
    pub checked_blocks: Counter,
    /// Their bytes.
    pub checked_bytes: Counter,
    /// Images found corrupt or lost to the device, and forgotten.
    pub corrupt: Counter,
    /// Reads that the device failed.
    pub unreadable: Counter,
    /// Passes over everything.
    pub passes: Counter,
    /// When the last pass ended, in milliseconds since 1970; 0 when none has.
    pub last_pass_unix_ms: Gauge,
}

/// Everything counted outside the ledger.
#[derive(Debug, Default)]
pub struct Measures {
    /// From reading a lookup to queueing its answer.
    pub lookup_seconds: Histogram,
    /// Event messages given to the publisher.
    pub events_published: Counter,
    /// Event messages that were numbered and then dropped because the publisher was behind.
    pub events_dropped: Counter,
    /// Connections accepted, refused handshakes included.
    pub connections: Counter,
    /// Handshakes refused.
    pub refusals: Counter,
    /// Engines closed because they did not read their answers.
    pub slow_engines: Counter,
    /// The scrubber's.
    pub scrub: ScrubMeasures,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let histogram = Histogram::default();
        for us in [5, 15, 15, 3_000_000] {
            histogram.observe(Duration::from_micros(us));
        }
        let buckets = histogram.cumulative();
        assert_eq!((buckets[0], buckets[1], buckets[13]), (1, 3, 3));
        assert_eq!(histogram.totals().0, 4);
    }
}
