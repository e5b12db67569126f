//! `kvd bench`: recorded KV traffic against a medium, through the production path.
//!
//! A real daemon keeps its blocks on the medium; this process is the engines, over the same socket, leases and checksummed copies as
//! a real one. What is measured is therefore what a fleet would get, and every byte that comes back is compared with what was stored.
//!
//! * [`plan`]: what is measured. [`run`]: measures it. [`report`]: what came out.
//! * [`place`], [`daemon`], [`device`]: the medium, the process on it, the disk under it.
//! * [`feed`], [`blocks`], [`engine`], [`replay`]: from a trace to requests that are served.
//! * [`sessions`], [`break_even`], [`mlperf`]: what follows from it. [`table`], [`html`]: for people.

pub mod blocks;
pub mod break_even;
pub mod daemon;
pub mod device;
pub mod engine;
pub mod error;
pub mod feed;
pub mod html;
pub mod mlperf;
pub mod place;
pub mod plan;
pub mod progress;
pub mod replay;
pub mod report;
pub mod sessions;
mod summing;
pub mod table;
pub mod tally;

pub use error::BenchError;
pub use plan::{FindSessions, Pace, Plan};
pub use report::Report;

use crate::Target;
use daemon::Daemon;
use device::Disk;
use engine::Engine;
use feed::Feed;
use kvd_block::LayoutSpec;
use place::Place;
use progress::Progress;
use replay::{Course, Measured, Stage, replay};
use sessions::Sessions;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tally::{Snapshot, Tally};

/// Fewer slots in the arena than this for each thread, and loads wait for each other's slots.
const LEAST_SLOTS_PER_THREAD: u64 = 6;

/// One daemon's part of a measurement, and what only its end knows.
struct Act {
    measured: Measured,
    sessions: Option<Sessions>,
    /// From the first request on, warm-up and search included.
    all: Snapshot,
    /// Blocks in memory and on storage at the end.
    blocks: (u64, u64),
    corrupt_images: u64,
    storage: String,
    storage_bytes: Option<u64>,
    kept: Option<String>,
    disk: Option<Disk>,
    requests_read: u64,
    skipped_lines: u64,
    format: &'static str,
}

/// Measures. `interrupted` may be set at any time: then what was measured so far is reported. `shows`: a line that moves, on a terminal.
///
/// # Errors
/// When nothing could be measured. The medium is left as it was found.
pub fn run(plan: &Plan, interrupted: &AtomicBool, shows: bool) -> Result<Report, BenchError> {
    let started_unix_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let trace_block_tokens = Feed::open(plan, false)?.block_tokens();
    let spec = blocks::layout(plan, trace_block_tokens)?;
    check_arena(plan, &spec)?;
    let act = act(plan, &spec, &plan.target, interrupted, shows)?;
    let ceiling = match plan.ceiling.filter(|_| !interrupted.load(Ordering::Relaxed)) {
        Some(longest) => Some(ceiling(plan, &spec, longest, &act, interrupted, shows)?),
        None => None,
    };
    Ok(summing::report(plan, &spec, act, ceiling, started_unix_s, interrupted.load(Ordering::Relaxed)))
}

fn check_arena(plan: &Plan, spec: &LayoutSpec) -> Result<(), BenchError> {
    let (slots, threads) = (plan.arena_bytes / spec.slot_bytes(), plan.concurrency as u64);
    let extent = plan.arena_bytes / 16;
    if slots < LEAST_SLOTS_PER_THREAD * threads || (plan.arena_bytes < 1 << 30 && extent < spec.slot_bytes()) {
        let needed = (LEAST_SLOTS_PER_THREAD * threads * spec.slot_bytes()).max(16 * spec.slot_bytes());
        return Err(BenchError::Choice(format!(
            "--arena-bytes {}: too small for {threads} at once with blocks of {}; give at least {}, or fewer with --concurrency",
            table::bytes(plan.arena_bytes),
            table::bytes(spec.slot_bytes()),
            table::bytes(needed.next_power_of_two()),
        )));
    }
    Ok(())
}

/// Starts a daemon on `target`, replays, and closes it down.
fn act(plan: &Plan, spec: &LayoutSpec, target: &Target, interrupted: &AtomicBool, shows: bool) -> Result<Act, BenchError> {
    let folder = tempfile::Builder::new().prefix("kvd-bench-").tempdir();
    let folder = folder.map_err(|source| BenchError::Io { path: std::env::temp_dir(), source })?;
    // Dropped last to first: the daemon ends before its files go.
    let place = Place::prepare(target, plan.storage_bytes, plan.overwrite, plan.keep, folder.path())?;
    let mut daemon = Daemon::start(&plan.program, &place, plan.arena_bytes, folder.path())?;
    let disk = place.medium_path().and_then(Disk::under);
    let (tally, stop) = (Tally::default(), AtomicBool::new(false));
    let engine = Engine::connect(plan, spec, &daemon.socket, *target != Target::Null, &tally, &stop)?;
    let feed = Mutex::new(Feed::open(plan, plan.repeat)?);
    let stage = Stage { engine: &engine, tally: &tally, feed: &feed, stop: &stop, interrupted, disk: disk.as_ref() };
    let measured = measure(plan, &stage, &mut daemon, shows)?;
    let sessions = find_sessions(plan, &stage, &mut daemon, shows)?;
    let counters = daemon.counters()?;
    let counter = |name: &str| counters.get(name).copied().unwrap_or(0.0) as u64;
    let feed = feed.lock().expect("no panic while held");
    Ok(Act {
        measured,
        sessions,
        all: tally.sums.now(),
        blocks: (counter("kvd_tier_blocks{tier=\"cpu\"}"), counter("kvd_tier_blocks{tier=\"nvme\"}")),
        corrupt_images: counter("kvd_corrupt_total"),
        storage: daemon.storage.clone(),
        storage_bytes: place.bytes,
        kept: place.kept().map(Path::display).map(|path| path.to_string()),
        disk: disk.clone(),
        requests_read: feed.given,
        skipped_lines: feed.skipped(),
        format: feed.format().0,
    })
}

fn measure(plan: &Plan, stage: &Stage, daemon: &mut Daemon, shows: bool) -> Result<Measured, BenchError> {
    let course = Course {
        pace: plan.pace,
        speed: plan.speed,
        concurrency: plan.concurrency,
        think_ms: plan.think_ms,
        warm_up: plan.warm_up,
        duration: plan.duration,
    };
    let progress = Progress::new(shows, plan.duration);
    let measured = replay(stage, daemon, &course, &progress);
    progress.clear();
    measured
}

/// Tries numbers of sessions, on the cache as the measurement left it.
fn find_sessions(plan: &Plan, stage: &Stage, daemon: &mut Daemon, shows: bool) -> Result<Option<Sessions>, BenchError> {
    let Some(search) = &plan.find_sessions else { return Ok(None) };
    stage.feed.lock().expect("no panic while held").make_endless();
    let progress = Progress::new(shows, Some(search.step));
    let attempt = |sessions| {
        if stage.interrupted.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let course = Course {
            pace: Pace::Closed,
            speed: plan.speed,
            concurrency: sessions,
            think_ms: plan.think_ms,
            warm_up: search.step / 4,
            duration: Some(search.step),
        };
        let measured = replay(stage, daemon, &course, &progress)?;
        let p95 = Duration::from_secs_f64(measured.latencies.first_token.percentile_ms(sessions::IN_TIME_PERCENT) / 1e3);
        let loaded = measured.sums.arena_bytes + measured.sums.storage_bytes;
        let gb_per_s = loaded as f64 / 1e9 / measured.elapsed.as_secs_f64().max(1e-9);
        Ok(Some((measured.latencies.first_token.count(), p95, gb_per_s)))
    };
    let found = sessions::find(search, attempt);
    progress.clear();
    found.map(Some)
}

/// The same requests with a medium that keeps nothing, as fast as they can be made.
fn ceiling(
    plan: &Plan,
    spec: &LayoutSpec,
    longest: Duration,
    act: &Act,
    interrupted: &AtomicBool,
    shows: bool,
) -> Result<report::Ceiling, BenchError> {
    let flat_out = Plan {
        pace: Pace::Closed,
        think_ms: Some(0),
        prefill_tokens_per_second: None,
        find_sessions: None,
        duration: Some(longest.min(act.measured.elapsed.max(Duration::from_secs(1)))),
        warm_up: plan.warm_up.min(longest),
        storage_bytes: act.storage_bytes,
        ..plan.clone()
    };
    let measured = self::act(&flat_out, spec, &Target::Null, interrupted, shows)?.measured;
    let (moved, ours) = (summing::moved_gb_per_s(&measured), summing::moved_gb_per_s(&act.measured));
    let share = if moved > 0.0 { ours / moved } else { 0.0 };
    Ok(report::Ceiling { moved_gb_per_s: moved, measured_gb_per_s: ours, share, measured_s: measured.elapsed.as_secs_f64() })
}
