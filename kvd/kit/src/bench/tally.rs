//! What is counted while requests run, by many threads at once.
//!
//! Sums are atomics, so that a clock can look at them at any moment; latencies are histograms behind a lock that is taken once a
//! request. Integrity is counted from the first request on, everything else from the end of the warm-up.

use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Longest latency told from longer ones.
const LONGEST_US: u64 = 3_600_000_000;
/// Requests kept for the line of load time over length.
const MOST_SAMPLES: usize = 100_000;

macro_rules! sums {
    ($( $(#[doc = $doc:literal])* $name:ident ),* $(,)?) => {
        /// Sums since the start, one for each thing counted.
        #[derive(Debug, Default)]
        pub struct Sums { $( $(#[doc = $doc])* pub $name: AtomicU64, )* }

        /// [`Sums`] at one moment, or between two.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Snapshot { $( $(#[doc = $doc])* pub $name: u64, )* }

        impl Sums {
            /// The sums now.
            pub fn now(&self) -> Snapshot {
                Snapshot { $( $name: self.$name.load(Ordering::Relaxed), )* }
            }
        }

        impl Snapshot {
            /// What was added since `earlier`.
            pub fn since(&self, earlier: &Snapshot) -> Snapshot {
                Snapshot { $( $name: self.$name - earlier.$name, )* }
            }
        }
    };
}

sums! {
    /// Requests that are done.
    requests,
    /// Tokens of their inputs, as far as they are in whole blocks.
    asked_tokens,
    /// Tokens of the answers in the trace. Nothing generates them.
    output_tokens,
    /// Microseconds that loads and stores took, all threads together.
    busy_us,
    /// Tokens that came from the arena.
    arena_tokens,
    /// Tokens that came from storage.
    storage_tokens,
    /// Payload bytes copied out of the arena for blocks that were there.
    arena_bytes,
    /// Payload bytes copied out of the arena for blocks that had to be read from storage.
    storage_bytes,
    /// Blocks loaded and found right.
    verified_blocks,
    /// Bytes delivered as sound that were not those of the block. Must stay zero.
    wrong_bytes,
    /// Blocks whose checksum did not match: refused by the engine's side, computed again.
    refused_blocks,
    /// Blocks that a lookup had found and a load did not bring; what is behind one is not asked for again.
    missed_blocks,
    /// Payload bytes copied into the arena.
    stored_bytes,
    /// Blocks copied into the arena.
    stored_blocks,
    /// Blocks not stored because no slot could be had.
    busy_blocks,
    /// Calls that the daemon did not answer, or refused.
    unanswered,
}

/// Adds to a sum.
pub fn add(sum: &AtomicU64, value: u64) {
    sum.fetch_add(value, Ordering::Relaxed);
}

/// Microseconds, counted to three digits.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Latency {
        Latency(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are sound"))
    }
}

impl Latency {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_micros().clamp(1, u128::from(LONGEST_US)) as u64);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that so many percent do not pass, in milliseconds; zero when nothing was counted.
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.value_at_percentile(percent) as f64 / 1000.0 }
    }

    /// The mean, in milliseconds.
    pub fn mean_ms(&self) -> f64 {
        self.0.mean() / 1000.0
    }

    /// The greatest, in milliseconds.
    pub fn max_ms(&self) -> f64 {
        self.0.max() as f64 / 1000.0
    }

    /// The distribution: milliseconds, and the percentage of latencies that are not above.
    pub fn distribution(&self) -> Vec<(f64, f64)> {
        let mut below = 0;
        let step = |value: hdrhistogram::iterators::IterationValue<u64>| {
            below += value.count_since_last_iteration();
            (value.value_iterated_to() as f64 / 1000.0, below as f64 / self.0.len() as f64 * 100.0)
        };
        self.0.iter_recorded().map(step).collect()
    }
}

/// How long one request took, and when it was meant to begin.
#[derive(Debug, Clone, Default)]
pub struct Times {
    /// From when it was meant to begin until its prefix was loaded.
    pub load: Duration,
    /// The same from when it did begin.
    pub load_uncorrected: Duration,
    /// From when it was meant to begin until its first token.
    pub first_token: Duration,
    /// Tokens loaded.
    pub loaded_tokens: u64,
    /// For each block from the arena: from asking until it was copied and checked.
    pub arena_blocks: Vec<Duration>,
    /// The same for each block from storage.
    pub storage_blocks: Vec<Duration>,
    /// From asking for slots until the last block of a window was copied.
    pub stores: Vec<Duration>,
}

/// Every latency of a measurement.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    /// Loads of whole requests that found something, from their intended start.
    pub load: Latency,
    /// The same from their actual start.
    pub load_uncorrected: Latency,
    /// First tokens of all requests, from their intended start.
    pub first_token: Latency,
    /// Blocks from the arena.
    pub arena_block: Latency,
    /// Blocks from storage.
    pub storage_block: Latency,
    /// Windows stored.
    pub store: Latency,
    /// Tokens and seconds of loads, from their actual start.
    pub samples: Vec<(f64, f64)>,
}

impl Latencies {
    fn record(&mut self, times: &Times) {
        self.first_token.record(times.first_token);
        if times.loaded_tokens > 0 {
            self.load.record(times.load);
            self.load_uncorrected.record(times.load_uncorrected);
            if self.samples.len() < MOST_SAMPLES {
                self.samples.push((times.loaded_tokens as f64, times.load_uncorrected.as_secs_f64()));
            }
        }
        times.arena_blocks.iter().for_each(|latency| self.arena_block.record(*latency));
        times.storage_blocks.iter().for_each(|latency| self.storage_block.record(*latency));
        times.stores.iter().for_each(|latency| self.store.record(*latency));
    }
}

/// Everything counted.
#[derive(Debug, Default)]
pub struct Tally {
    /// Sums since the start.
    pub sums: Sums,
    latencies: Mutex<(Option<Instant>, Latencies)>,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, (Option<Instant>, Latencies)> {
        self.latencies.lock().expect("no panic while held")
    }

    /// Latencies of requests meant to begin from now on count.
    pub fn begin(&self, now: Instant) {
        *self.lock() = (Some(now), Latencies::default());
    }

    /// No latencies count any more. Returns those that did.
    pub fn end(&self) -> Latencies {
        std::mem::take(&mut *self.lock()).1
    }

    /// Counts a request that was meant to begin at `intended`.
    pub fn record(&self, intended: Instant, times: &Times) {
        let (since, latencies) = &mut *self.lock();
        if since.is_some_and(|since| intended >= since) {
            latencies.record(times);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_of_the_warm_up_do_not_count() {
        let (tally, start) = (Tally::default(), Instant::now());
        let times = Times { load: Duration::from_millis(7), loaded_tokens: 1, ..Times::default() };
        tally.record(start, &times);
        tally.begin(start + Duration::from_secs(1));
        tally.record(start, &times);
        tally.record(start + Duration::from_secs(2), &times);
        let latencies = tally.end();
        assert_eq!((latencies.load.count(), latencies.load.percentile_ms(50.0).round()), (1, 7.0));
        tally.record(start + Duration::from_secs(3), &times);
        assert_eq!(tally.end().load.count(), 0);
    }

    #[test]
    fn a_distribution_ends_with_everything() {
        let mut latency = Latency::default();
        (1..=200).for_each(|ms| latency.record(Duration::from_millis(ms)));
        let points = latency.distribution();
        assert!((points.last().unwrap().1 - 100.0).abs() < 1e-9);
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
        assert!((latency.percentile_ms(50.0) - 100.0).abs() < 1.0 && latency.max_ms() >= 200.0);
    }
}
