//! The measurement in the field names of the KV-cache benchmark of MLPerf Storage v3.0 (`kv-cache.py` of mlcommons/storage).
//!
//! Its `gbps` fields are GiB per second and its `gb` fields GiB; that is kept. Fields whose meaning has no counterpart here (GPU
//! memory, prompt phrases, autoscaling) are left out. It is a translation for comparing, not a submission.

use super::replay::Measured;
use super::report::Percentiles;
use super::tally::Latency;
use kvd_block::LayoutSpec;
use serde::Serialize;

const GIB: f64 = (1u64 << 30) as f64;

/// What `summary` holds there.
#[derive(Debug, Clone, Serialize)]
pub struct MlperfSummary {
    /// Whose names these are.
    pub benchmark: &'static str,
    /// The names.
    pub summary: Summary,
}

/// The fields of `summary`.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are another project's, which documents them")]
pub struct Summary {
    pub total_requests: u64,
    /// Tokens of answers, as the trace has them: nothing is generated, as with its `--generation-mode none`.
    pub total_tokens: u64,
    pub elapsed_time: f64,
    pub avg_throughput_tokens_per_sec: f64,
    /// Seconds of all threads together.
    pub total_storage_io_time: f64,
    pub storage_throughput_tokens_per_sec: f64,
    pub requests_per_second: f64,
    pub end_to_end_latency_ms: MlperfPercentiles,
    pub storage_io_latency_ms: MlperfPercentiles,
    pub cache_stats: CacheStats,
}

/// The percentiles given there.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs, reason = "the names are another project's, which documents them")]
pub struct MlperfPercentiles {
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
}

/// The fields of `cache_stats`.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are another project's, which documents them")]
pub struct CacheStats {
    pub cache_hit_rate: f64,
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub cpu_entries: u64,
    pub storage_entries: u64,
    pub tier_cpu_kv_bytes_written_gb: f64,
    pub tier_storage_kv_bytes_written_gb: f64,
    pub tier_cpu_kv_bytes_read_gb: f64,
    pub tier_storage_kv_bytes_read_gb: f64,
    pub tier_cpu_read_bandwidth_gbps: f64,
    pub tier_cpu_write_bandwidth_gbps: f64,
    pub tier_storage_read_bandwidth_gbps: f64,
    pub tier_storage_write_bandwidth_gbps: f64,
    pub total_read_bytes: u64,
    pub total_write_bytes: u64,
    pub total_read_gb: f64,
    pub total_write_gb: f64,
    pub read_write_ratio: f64,
    pub storage_read_p50_ms: f64,
    pub storage_read_p95_ms: f64,
    pub storage_read_p99_ms: f64,
    pub storage_read_p999_ms: f64,
    pub storage_read_p9999_ms: f64,
}

fn percentiles(latency: &Latency) -> MlperfPercentiles {
    let Percentiles { mean, p50, p95, p99, p99_9: p999, p99_99: p9999, .. } = Percentiles::of(latency);
    MlperfPercentiles { mean, p50, p95, p99, p999, p9999 }
}

/// Translates. `blocks`: how many blocks memory and storage hold at the end.
pub fn summary(measured: &Measured, spec: &LayoutSpec, blocks: (u64, u64)) -> MlperfSummary {
    let (sums, elapsed) = (&measured.sums, measured.elapsed.as_secs_f64());
    let (busy, tokens) = (sums.busy_us as f64 / 1e6, sums.output_tokens);
    let (gb, per_s) = (|bytes: u64| bytes as f64 / GIB, |bytes: u64| rate(bytes as f64 / GIB, elapsed));
    let written = written_bytes(measured, spec);
    let hits = (sums.arena_tokens + sums.storage_tokens) / u64::from(spec.block_tokens);
    let asked = sums.asked_tokens / u64::from(spec.block_tokens);
    let (read, write) = (sums.arena_bytes + sums.storage_bytes, sums.stored_bytes);
    let storage_read = percentiles(&measured.latencies.storage_block);
    let cache_stats = CacheStats {
        cache_hit_rate: rate(hits as f64, asked as f64),
        cache_hits: hits,
        cache_misses: asked.saturating_sub(hits),
        cpu_entries: blocks.0,
        storage_entries: blocks.1,
        tier_cpu_kv_bytes_written_gb: gb(write),
        tier_storage_kv_bytes_written_gb: gb(written),
        tier_cpu_kv_bytes_read_gb: gb(sums.arena_bytes),
        tier_storage_kv_bytes_read_gb: gb(sums.storage_bytes),
        tier_cpu_read_bandwidth_gbps: per_s(sums.arena_bytes),
        tier_cpu_write_bandwidth_gbps: per_s(write),
        tier_storage_read_bandwidth_gbps: per_s(sums.storage_bytes),
        tier_storage_write_bandwidth_gbps: per_s(written),
        total_read_bytes: read,
        total_write_bytes: write,
        total_read_gb: gb(read),
        total_write_gb: gb(write),
        read_write_ratio: read as f64 / write.max(1) as f64,
        storage_read_p50_ms: storage_read.p50,
        storage_read_p95_ms: storage_read.p95,
        storage_read_p99_ms: storage_read.p99,
        storage_read_p999_ms: storage_read.p999,
        storage_read_p9999_ms: storage_read.p9999,
    };
    let summary = Summary {
        total_requests: sums.requests,
        total_tokens: tokens,
        elapsed_time: elapsed,
        avg_throughput_tokens_per_sec: rate(tokens as f64, elapsed),
        total_storage_io_time: busy,
        storage_throughput_tokens_per_sec: rate(tokens as f64, busy),
        requests_per_second: rate(sums.requests as f64, elapsed),
        end_to_end_latency_ms: percentiles(&measured.latencies.first_token),
        storage_io_latency_ms: percentiles(&measured.latencies.load_uncorrected),
        cache_stats,
    };
    MlperfSummary { benchmark: "MLPerf Storage v3.0, kv_cache_benchmark", summary }
}

/// Bytes of images that the daemon wrote to the medium.
pub fn written_bytes(measured: &Measured, spec: &LayoutSpec) -> u64 {
    measured.counters.get("kvd_written_total").copied().unwrap_or(0.0) as u64 * spec.slot_bytes()
}

fn rate(amount: f64, over: f64) -> f64 {
    if over > 0.0 { amount / over } else { 0.0 }
}
