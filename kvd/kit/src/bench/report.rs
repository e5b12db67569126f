//! What was measured, with units in the names: what `--json` writes, and what tables and pages are made of.
//!
//! GB is 10⁹ bytes, GiB is 2³⁰. What could not be measured is `null`, never zero.

use super::break_even::LoadCost;
use super::mlperf::MlperfSummary;
use super::sessions::Sessions;
use super::tally::Latency;
use serde::Serialize;

/// Version of the shape below. Fields are added without changing it.
pub const SCHEMA: &str = "kvd-bench/1";

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of kvd.
    pub kvd_version: &'static str,
    /// When it began, in seconds since 1970.
    pub started_unix_s: u64,
    /// True when a person ended it early.
    pub interrupted: bool,
    /// The medium.
    pub target: TargetFacts,
    /// Whose KV.
    pub model: ModelFacts,
    /// The requests.
    pub trace: TraceFacts,
    /// How they were made.
    pub run: RunFacts,
    /// Whether every byte was right.
    pub integrity: Integrity,
    /// What was found in the cache.
    pub hits: Hits,
    /// How fast it came.
    pub load: Load,
    /// How fast it went.
    pub store: Store,
    /// How long it took.
    pub latency_ms: Latencies,
    /// What it cost in CPU time.
    pub cpu: Cpu,
    /// What reached the disk; `null` when the kernel counts nothing for it.
    pub disk: Option<DiskFacts>,
    /// What a load costs; `null` when there were too few.
    pub load_cost: Option<LoadCost>,
    /// From how many tokens on loading beats computing at the given speed; `null` without a speed, or when it never does.
    pub break_even_tokens: Option<f64>,
    /// Sessions sustained; `null` when not asked for.
    pub sessions: Option<Sessions>,
    /// The tool's own limit; `null` when not asked for.
    pub ceiling: Option<Ceiling>,
    /// Twice a second.
    pub timeline: Vec<TimelinePoint>,
    /// What a reader must know before quoting a number.
    pub warnings: Vec<String>,
    /// The same in the names of the MLPerf Storage KV-cache benchmark.
    pub mlperf_kv_cache: MlperfSummary,
    /// Distributions for the page's charts.
    #[serde(skip)]
    pub distributions: Vec<(String, Vec<(f64, f64)>)>,
}

/// The medium.
#[derive(Debug, Clone, Serialize)]
pub struct TargetFacts {
    /// As given.
    pub url: String,
    /// How the daemon reaches it.
    pub detail: String,
    /// Whether it goes around the page cache; `null` where there is none.
    pub direct_io: Option<bool>,
    /// The kernel's name of the disk.
    pub disk: Option<String>,
    /// What its maker calls it.
    pub disk_model: Option<String>,
    /// Its size.
    pub disk_capacity_bytes: Option<u64>,
    /// Space the blocks had on it.
    pub storage_bytes: Option<u64>,
    /// What was left there because it was asked for.
    pub kept: Option<String>,
}

/// Whose KV.
#[derive(Debug, Clone, Serialize)]
pub struct ModelFacts {
    /// Its name.
    pub name: String,
    /// Where the numbers are from.
    pub source: String,
    /// Data type of the KV.
    pub kv_dtype: String,
    /// All layers, all ranks.
    pub bytes_per_token: u64,
    /// Ranks that own a part of each block.
    pub ranks: u16,
    /// Tokens in a block.
    pub block_tokens: u32,
    /// Bytes of a block without its header.
    pub block_payload_bytes: u64,
}

/// The requests.
#[derive(Debug, Clone, Serialize)]
pub struct TraceFacts {
    /// The file.
    pub file: String,
    /// Its format.
    pub format: String,
    /// Requests read from it, warm-up included.
    pub requests_read: u64,
    /// Lines left out because they could not be read.
    pub skipped_lines: u64,
}

/// How requests were made.
#[derive(Debug, Clone, Serialize)]
pub struct RunFacts {
    /// `open` or `closed`.
    pub pace: String,
    /// Factor on the trace's clock.
    pub speed: f64,
    /// Sessions at once, or most requests under way.
    pub concurrency: usize,
    /// Not measured.
    pub warm_up_s: f64,
    /// Measured.
    pub measured_s: f64,
    /// Requests done while measured.
    pub requests: u64,
    /// Memory that blocks passed through.
    pub arena_bytes: u64,
    /// Speed of the simulated GPU; `null`: computing took no time.
    pub simulated_prefill_tokens_per_s: Option<f64>,
    /// Payloads could be compressed to a half.
    pub compressible: bool,
}

/// Whether every byte was right. Counted from the first request on, warm-up included.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Integrity {
    /// Blocks loaded and compared byte for byte.
    pub verified_blocks: u64,
    /// Bytes delivered as sound that were not. Anything but zero is a bug of kvd.
    pub wrong_bytes: u64,
    /// Blocks refused because their checksum did not match: the medium gave back something else than was written.
    pub refused_blocks: u64,
    /// Images that the daemon itself found corrupt.
    pub corrupt_images: u64,
    /// Blocks found by a lookup that were gone when they were loaded: late, evicted or corrupt. What is behind one is computed again.
    pub missed_blocks: u64,
    /// Calls the daemon did not answer.
    pub unanswered_calls: u64,
}

/// What was found in the cache.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Hits {
    /// Tokens asked for, in whole blocks.
    pub asked_tokens: u64,
    /// Of them, loaded from memory.
    pub arena_tokens: u64,
    /// Of them, loaded from storage.
    pub storage_tokens: u64,
    /// Loaded of asked for.
    pub hit_rate: f64,
    /// Loaded from storage of asked for.
    pub storage_hit_rate: f64,
}

/// Loads: engine ← kvd.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Load {
    /// Blocks that had to be read from storage.
    pub storage_gb_per_s: f64,
    /// Blocks that were in memory.
    pub arena_gb_per_s: f64,
    /// Bytes of the former.
    pub storage_bytes: u64,
    /// Bytes of the latter.
    pub arena_bytes: u64,
}

/// Stores: engine → kvd → storage.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Store {
    /// Into memory.
    pub accepted_gb_per_s: f64,
    /// From memory to storage.
    pub written_gb_per_s: f64,
    /// Bytes of the former.
    pub accepted_bytes: u64,
    /// Bytes of the latter, headers included.
    pub written_bytes: u64,
    /// Blocks not taken because no slot could be had.
    pub busy_blocks: u64,
    /// Blocks that left memory before storage had taken them.
    pub lost_blocks: u64,
    /// Writes to storage that failed.
    pub failed_writes: u64,
}

/// Latencies, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latencies {
    /// A request's whole prefix, from when the request was due.
    pub load: Percentiles,
    /// The same from when it was begun: what a tool that waits for itself would report.
    pub load_uncorrected: Percentiles,
    /// First token, from when the request was due: load and, if simulated, the computing of the rest.
    pub first_token: Percentiles,
    /// A block from storage, from asking for its window until it was copied and checked.
    pub storage_block: Percentiles,
    /// The same for a block in memory.
    pub arena_block: Percentiles,
    /// A window of blocks stored.
    pub store: Percentiles,
}

/// A distribution, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    /// How many.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p99_9: f64,
    /// 99.99 %.
    pub p99_99: f64,
    /// The greatest.
    pub max: f64,
}

impl Percentiles {
    /// Of what was counted.
    pub fn of(latency: &Latency) -> Percentiles {
        let at = |percent| latency.percentile_ms(percent);
        Percentiles {
            count: latency.count(),
            mean: latency.mean_ms(),
            p50: at(50.0),
            p90: at(90.0),
            p95: at(95.0),
            p99: at(99.0),
            p99_9: at(99.9),
            p99_99: at(99.99),
            max: latency.max_ms(),
        }
    }
}

/// CPU time.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cpu {
    /// Of the daemon.
    pub daemon_s: f64,
    /// Of this tool: the engine's copies and checksums, and the making and comparing of payloads.
    pub client_s: f64,
    /// Of the daemon for each GiB loaded or stored.
    pub daemon_s_per_gib: f64,
    /// Of this tool for each GiB loaded or stored.
    pub client_s_per_gib: f64,
}

/// What reached the disk. The kernel counts everybody's traffic, not only ours.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct DiskFacts {
    /// Read from it.
    pub read_bytes: u64,
    /// Written to it.
    pub written_bytes: u64,
    /// Written to it for each byte of images that kvd wrote; `null` when it wrote none.
    pub write_amplification: Option<f64>,
    /// How often a day the disk would be written whole at this rate.
    pub drive_writes_per_day: f64,
}

/// The same requests as fast as this tool can make them, with a medium that keeps nothing.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ceiling {
    /// Loads and stores together.
    pub moved_gb_per_s: f64,
    /// The measurement's loads and stores together.
    pub measured_gb_per_s: f64,
    /// The latter of the former.
    pub share: f64,
    /// How long it was measured.
    pub measured_s: f64,
}

/// Half a second.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TimelinePoint {
    /// Its end, from the start of the measurement.
    pub at_s: f64,
    /// Loads from storage.
    pub storage_load_gb_per_s: f64,
    /// Loads from memory.
    pub arena_load_gb_per_s: f64,
    /// Stores into memory.
    pub store_gb_per_s: f64,
    /// Tokens loaded of tokens asked for; `null` when no request ended.
    pub hit_rate: Option<f64>,
}

impl Report {
    /// True when every byte delivered was right.
    pub fn is_sound(&self) -> bool {
        self.integrity.wrong_bytes == 0
    }

    /// As a file for machines.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report is plain values") + "\n"
    }
}
