//! From what was counted to what is reported, and to what its reader must be warned of.

use super::Act;
use super::break_even::load_cost;
use super::mlperf;
use super::plan::{Pace, Plan};
use super::replay::{Measured, Point};
use super::report::{
    Ceiling, Cpu, DiskFacts, Hits, Integrity, Latencies, Load, ModelFacts, Percentiles, Report, RunFacts, SCHEMA, Store, TargetFacts,
    TimelinePoint, TraceFacts,
};
use crate::Target;
use kvd_block::LayoutSpec;

const SECONDS_PER_DAY: f64 = 86_400.0;
/// A run this near to the ceiling says more of the tool than of the medium.
const NEAR_CEILING: f64 = 0.8;
/// Fewer values than this have no 99.99th percentile.
const ENOUGH_FOR_TAILS: u64 = 10_000;

/// The report of a measurement.
pub fn report(plan: &Plan, spec: &LayoutSpec, act: Act, ceiling: Option<Ceiling>, started_unix_s: u64, interrupted: bool) -> Report {
    let measured = &act.measured;
    let load_cost = load_cost(&measured.latencies.samples);
    let speed = plan.prefill_tokens_per_second;
    let mut report = Report {
        schema: SCHEMA,
        kvd_version: env!("CARGO_PKG_VERSION"),
        started_unix_s,
        interrupted,
        target: target(plan, &act),
        model: model(plan, spec),
        trace: trace(plan, &act),
        run: run_facts(plan, measured),
        integrity: integrity(&act),
        hits: hits(measured),
        load: load(measured),
        store: store(measured, spec),
        latency_ms: latencies(measured),
        cpu: cpu(measured),
        disk: disk(&act, spec),
        load_cost,
        break_even_tokens: load_cost.zip(speed).and_then(|(cost, speed)| cost.break_even_tokens(speed)),
        ceiling,
        timeline: measured.timeline.iter().map(point).collect(),
        warnings: Vec::new(),
        mlperf_kv_cache: mlperf::summary(measured, spec, act.blocks),
        distributions: distributions(measured),
        sessions: act.sessions,
    };
    report.warnings = warnings(plan, &report);
    report
}

/// Loads and stores together.
pub fn moved_gb_per_s(measured: &Measured) -> f64 {
    let sums = &measured.sums;
    gb_per_s(sums.arena_bytes + sums.storage_bytes + sums.stored_bytes, measured)
}

fn gb_per_s(bytes: u64, measured: &Measured) -> f64 {
    share(bytes as f64 / 1e9, measured.elapsed.as_secs_f64())
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn counter(measured: &Measured, name: &str) -> u64 {
    measured.counters.get(name).copied().unwrap_or(0.0) as u64
}

fn target(plan: &Plan, act: &Act) -> TargetFacts {
    let on_disk = matches!(plan.target, Target::Directory(_) | Target::BlockDevice(_));
    TargetFacts {
        url: plan.target.to_string(),
        detail: act.storage.clone(),
        direct_io: on_disk.then(|| act.storage.contains("O_DIRECT")),
        disk: act.disk.as_ref().map(|disk| disk.name.clone()),
        disk_model: act.disk.as_ref().map(|disk| disk.model.clone()).filter(|model| !model.is_empty()),
        disk_capacity_bytes: act.disk.as_ref().map(|disk| disk.capacity_bytes),
        storage_bytes: act.storage_bytes,
        kept: act.kept.clone(),
    }
}

fn model(plan: &Plan, spec: &LayoutSpec) -> ModelFacts {
    ModelFacts {
        name: plan.model.name.clone(),
        source: plan.model.source.clone(),
        kv_dtype: plan.kv_dtype.clone(),
        bytes_per_token: plan.model.bytes_per_token(),
        ranks: spec.ranks,
        block_tokens: spec.block_tokens,
        block_payload_bytes: spec.payload_bytes(),
    }
}

fn trace(plan: &Plan, act: &Act) -> TraceFacts {
    TraceFacts {
        file: plan.trace.display().to_string(),
        format: act.format.into(),
        requests_read: act.requests_read,
        skipped_lines: act.skipped_lines,
    }
}

fn run_facts(plan: &Plan, measured: &Measured) -> RunFacts {
    RunFacts {
        pace: plan.pace.name().into(),
        speed: plan.speed,
        concurrency: plan.concurrency,
        warm_up_s: plan.warm_up.as_secs_f64(),
        measured_s: measured.elapsed.as_secs_f64(),
        requests: measured.sums.requests,
        arena_bytes: plan.arena_bytes,
        simulated_prefill_tokens_per_s: plan.prefill_tokens_per_second,
        compressible: plan.compressible,
    }
}

fn integrity(act: &Act) -> Integrity {
    Integrity {
        verified_blocks: act.all.verified_blocks,
        wrong_bytes: act.all.wrong_bytes,
        refused_blocks: act.all.refused_blocks,
        corrupt_images: act.corrupt_images,
        missed_blocks: act.all.missed_blocks,
        unanswered_calls: act.all.unanswered,
    }
}

fn hits(measured: &Measured) -> Hits {
    let sums = &measured.sums;
    let asked = sums.asked_tokens as f64;
    Hits {
        asked_tokens: sums.asked_tokens,
        arena_tokens: sums.arena_tokens,
        storage_tokens: sums.storage_tokens,
        // A request under way at an end has loads without an end; that is at most one request a thread.
        hit_rate: share((sums.arena_tokens + sums.storage_tokens) as f64, asked).min(1.0),
        storage_hit_rate: share(sums.storage_tokens as f64, asked).min(1.0),
    }
}

fn load(measured: &Measured) -> Load {
    let sums = &measured.sums;
    Load {
        storage_gb_per_s: gb_per_s(sums.storage_bytes, measured),
        arena_gb_per_s: gb_per_s(sums.arena_bytes, measured),
        storage_bytes: sums.storage_bytes,
        arena_bytes: sums.arena_bytes,
    }
}

fn store(measured: &Measured, spec: &LayoutSpec) -> Store {
    let written_bytes = mlperf::written_bytes(measured, spec);
    Store {
        accepted_gb_per_s: gb_per_s(measured.sums.stored_bytes, measured),
        written_gb_per_s: gb_per_s(written_bytes, measured),
        accepted_bytes: measured.sums.stored_bytes,
        written_bytes,
        busy_blocks: measured.sums.busy_blocks,
        lost_blocks: counter(measured, "kvd_evicted_cpu_unwritten_total"),
        failed_writes: counter(measured, "kvd_write_failed_total"),
    }
}

fn latencies(measured: &Measured) -> Latencies {
    let latencies = &measured.latencies;
    Latencies {
        load: Percentiles::of(&latencies.load),
        load_uncorrected: Percentiles::of(&latencies.load_uncorrected),
        first_token: Percentiles::of(&latencies.first_token),
        storage_block: Percentiles::of(&latencies.storage_block),
        arena_block: Percentiles::of(&latencies.arena_block),
        store: Percentiles::of(&latencies.store),
    }
}

fn cpu(measured: &Measured) -> Cpu {
    let sums = &measured.sums;
    let gib = (sums.arena_bytes + sums.storage_bytes + sums.stored_bytes) as f64 / (1u64 << 30) as f64;
    let (daemon_s, client_s) = (measured.daemon_cpu.as_secs_f64(), measured.client_cpu.as_secs_f64());
    Cpu { daemon_s, client_s, daemon_s_per_gib: share(daemon_s, gib), client_s_per_gib: share(client_s, gib) }
}

fn disk(act: &Act, spec: &LayoutSpec) -> Option<DiskFacts> {
    let (disk, traffic) = (act.disk.as_ref()?, act.measured.traffic?);
    let ours = mlperf::written_bytes(&act.measured, spec);
    let a_day = traffic.written_bytes as f64 * share(SECONDS_PER_DAY, act.measured.elapsed.as_secs_f64());
    Some(DiskFacts {
        read_bytes: traffic.read_bytes,
        written_bytes: traffic.written_bytes,
        write_amplification: (ours > 0).then(|| traffic.written_bytes as f64 / ours as f64),
        drive_writes_per_day: share(a_day, disk.capacity_bytes as f64),
    })
}

fn point(point: &Point) -> TimelinePoint {
    let (sums, span) = (&point.sums, point.span_s);
    let gb_per_s = |bytes: u64| share(bytes as f64 / 1e9, span);
    let hit = (sums.arena_tokens + sums.storage_tokens) as f64;
    TimelinePoint {
        at_s: point.at_s,
        storage_load_gb_per_s: gb_per_s(sums.storage_bytes),
        arena_load_gb_per_s: gb_per_s(sums.arena_bytes),
        store_gb_per_s: gb_per_s(sums.stored_bytes),
        hit_rate: (sums.asked_tokens > 0).then(|| (hit / sums.asked_tokens as f64).min(1.0)),
    }
}

fn distributions(measured: &Measured) -> Vec<(String, Vec<(f64, f64)>)> {
    let latencies = &measured.latencies;
    [("whole prefix", &latencies.load), ("block from storage", &latencies.storage_block), ("block from memory", &latencies.arena_block)]
        .into_iter()
        .filter(|(_, latency)| latency.count() > 0)
        .map(|(name, latency)| (name.to_owned(), latency.distribution()))
        .collect()
}

fn warnings(plan: &Plan, report: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |holds: bool, text: String| {
        if holds {
            warnings.push(text)
        }
    };
    let integrity = &report.integrity;
    warn(
        integrity.wrong_bytes > 0,
        format!("{} wrong bytes were delivered: this is a bug of kvd, please report it.", integrity.wrong_bytes),
    );
    warn(report.interrupted, "The run was ended early; the numbers are those until then.".into());
    warn(
        integrity.refused_blocks + integrity.corrupt_images > 0,
        "The medium gave back bytes that were not written. They were found by checksum and computed again; look at the disk.".into(),
    );
    if let Some(ceiling) = report.ceiling.filter(|ceiling| ceiling.share >= NEAR_CEILING) {
        let text = format!(
            "You are measuring this tool: the run reached {:.0} % of what it can do with a medium that keeps nothing. Use a machine with more cores, or more --concurrency.",
            ceiling.share * 100.0
        );
        warn(true, text);
    }
    warn(report.target.direct_io == Some(false), "The filesystem takes no direct I/O, so the page cache was measured, too.".into());
    let hits = &report.hits;
    warn(
        hits.storage_tokens < hits.arena_tokens,
        "More was loaded from memory than from storage. Let sessions overlap with --open, or replay a longer trace, to load storage more."
            .into(),
    );
    warn(hits.storage_tokens == 0, "Nothing was loaded from storage: the trace repeats too little, or the run was too short.".into());
    warn(
        integrity.missed_blocks > 0,
        format!(
            "{} loads ended early because a block was gone that had been found. The memory between must hold the prefixes of all requests under way at once: give more --arena-bytes, or fewer requests by --concurrency or --max-input-tokens.",
            integrity.missed_blocks
        ),
    );
    let store = &report.store;
    warn(
        store.busy_blocks + store.lost_blocks > 0,
        format!(
            "Storage was slower than what was stored: {} blocks found no slot and {} left memory unwritten. In a fleet they are computed again; here they lower the hit rate.",
            store.busy_blocks, store.lost_blocks
        ),
    );
    warn(store.failed_writes > 0, format!("{} writes to storage failed.", store.failed_writes));
    warn(integrity.unanswered_calls > 0, format!("{} calls had no answer from kvd.", integrity.unanswered_calls));
    warn(plan.compressible, "Payloads could be compressed to a half (--compressible).".into());
    let fewest = report.latency_ms.load.count;
    warn(
        fewest < ENOUGH_FOR_TAILS,
        format!("{fewest} loads of whole prefixes were timed; p99.99 needs {ENOUGH_FOR_TAILS}. Run longer before quoting tails."),
    );
    warn(
        plan.pace == Pace::Closed,
        "In a closed loop requests wait for answers, so latency under a fixed arrival rate is not measured; use --open for that.".into(),
    );
    warnings
}
