//! What routing by the index is worth: recorded traces through the real router in front of a MODEL of a fleet.
//!
//! Times are those of the model in `kvd_benches::fleet`: they compare modes of routing and say nothing about engines. The load is
//! set by round robin: at 60 % its workers compute prompts for 60 % of the time, and all modes get the same arrivals. Beside the modes run
//! an omniscient router (the same prices, told of every change at once, speeds known) and, for reuse, one cache that all share.
//! Without `--traces` the slices in `tests/fixtures/traces` are replayed; `--quick` runs one fleet and one load of each.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use kvd_benches::fleet::{Fleet, Machine, Outcome, pooled_reuse, simulate};
use kvd_benches::traces::{Trace, load_all};
use kvd_benches::{Report, Row};
use kvd_router::route::{Mode, QueuePolicy, QueueSettings, RouteSettings, StartSpeeds};
use std::path::PathBuf;

const MODES: [Mode; 6] = [Mode::Kv, Mode::Approximate, Mode::LeastLoaded, Mode::PowerOfTwo, Mode::RoundRobin, Mode::Random];
/// Whole replays of the longest traces take minutes: requests beyond so many blocks in all are left out.
const MOST_BLOCKS: usize = 500_000;
/// A shorter slice says nothing.
const LEAST_REQUESTS: usize = 100;
/// With a queue in front: prompt tokens that a worker may have waiting.
const HELD_TOKENS: u64 = 32_768;

#[derive(Parser)]
struct Arguments {
    /// Folder with the recorded traces.
    #[arg(long)]
    traces: Option<PathBuf>,
    /// One fleet and one load of each trace.
    #[arg(long)]
    quick: bool,
    /// Sizes of fleets, in workers.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 16, 64])]
    workers: Vec<usize>,
    /// Loads, in percent of what round robin can serve.
    #[arg(long, value_delimiter = ',', default_values_t = [30, 60, 90])]
    loads: Vec<u32>,
    /// Only traces and machines whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Overrides `route.scarcity`.
    #[arg(long)]
    scarcity: Option<f64>,
    /// Overrides `route.overlap_weight`.
    #[arg(long)]
    overlap_weight: Option<f64>,
}

/// One trace on one fleet at one load.
struct Cell<'a> {
    trace: &'a Trace,
    machine: Machine,
    workers: usize,
    load: u32,
    stretch: f64,
}

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    let fixtures = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/traces"));
    if arguments.quick {
        (arguments.workers, arguments.loads) = (vec![8], vec![60]);
    }
    let traces = load_all(arguments.traces.as_ref().unwrap_or(&fixtures))?;
    let mut report = Report::new("trace_replay");
    for trace in traces.into_iter().map(cut) {
        for (machine, tiers, sizes) in arguments.machines() {
            let name = format!("{}, {}, {tiers}", trace.name, machine.name);
            if name.contains(&arguments.only) && trace.requests.len() >= LEAST_REQUESTS {
                fleets(&name, &trace, machine, &sizes, &arguments, &mut report);
            }
        }
    }
    report.publish().context("the report")
}

fn cut(mut trace: Trace) -> Trace {
    let mut blocks = 0;
    let fits = trace.requests.iter().take_while(|request| {
        blocks += request.blocks.len();
        blocks <= MOST_BLOCKS
    });
    trace.requests.truncate(fits.count());
    trace
}

fn fleets(name: &str, trace: &Trace, machine: Machine, sizes: &[usize], arguments: &Arguments, report: &mut Report) {
    println!("{name}: {} requests. A MODEL: times compare modes, they are nobody's measurements.", trace.requests.len());
    println!(
        "{:>7} {:>5} {:>13} {:>9} {:>9} {:>9} {:>7} {:>7} {:>7} {:>7} {:>6} {:>6}",
        "workers", "load", "mode", "mean ms", "p50 ms", "p99 ms", "reuse %", "device", "host", "disk", "max/av", "busy %"
    );
    for workers in sizes.iter().copied() {
        let mut cell = Cell { trace, machine, workers, load: 0, stretch: 1.0 };
        let natural = cell.run(&arguments.settings(Mode::RoundRobin)).utilisation();
        for load in arguments.loads.iter().copied() {
            cell = Cell { load, stretch: natural / (f64::from(load) / 100.0), ..cell };
            compare(name, &cell, arguments, report);
        }
    }
    println!();
}

impl Arguments {
    /// The machines that are replayed, and the sizes of their fleets: all sizes of one, the middle of the others.
    fn machines(&self) -> Vec<(Machine, &'static str, Vec<usize>)> {
        let large = (Machine::large(), "kvd", self.workers.clone());
        if self.quick {
            return vec![large];
        }
        let middle = vec![self.workers[self.workers.len() / 2]];
        vec![large, (Machine::large().bare(), "no kvd", middle.clone()), (Machine::small(), "kvd", middle)]
    }

    fn settings(&self, mode: Mode) -> RouteSettings {
        let default = RouteSettings::default();
        RouteSettings {
            mode,
            scarcity: self.scarcity.unwrap_or(default.scarcity),
            overlap_weight: self.overlap_weight.unwrap_or(default.overlap_weight),
            ..default
        }
    }
}

impl Cell<'_> {
    fn run(&self, settings: &RouteSettings) -> Outcome {
        self.run_held(settings, self.machine, 0)
    }

    fn run_held(&self, settings: &RouteSettings, machine: Machine, most_waiting_tokens: u64) -> Outcome {
        let fleet = Fleet { machine, workers: self.workers, settings: settings.clone(), stretch: self.stretch, most_waiting_tokens };
        simulate(self.trace, &fleet)
    }

    /// The same prices by a router that is told everything at once and knows how fast workers are.
    fn omniscient(&self, settings: &RouteSettings) -> Outcome {
        let machine = self.machine;
        let start = StartSpeeds {
            prefill_fixed_ms: machine.fixed_ms,
            prefill_tokens_per_s: 1_000.0 / machine.token_ms,
            attention_tokens: machine.token_ms / machine.pair_ms,
            onboard_gb_per_s: [0.0, machine.host_rate / 1e6, machine.disk_rate / 1e6, 0.0],
            decode_step_ms: machine.step_ms,
            decode_request_ms: machine.request_ms,
        };
        self.run_held(&RouteSettings { start, ..settings.clone() }, Machine { event_delay_ms: 0.0, ..machine }, 0)
    }

    /// What all caches of the fleet would find if they were one.
    fn pooled(&self) -> f64 {
        let block_bytes = self.machine.token_bytes * u64::from(self.trace.requests.first().map_or(1, |request| request.block_tokens));
        let nodes = self.workers.div_ceil(self.machine.workers_per_node) as u64;
        let bytes = self.workers as u64 * self.machine.device_bytes + nodes * self.machine.disk_bytes;
        pooled_reuse(self.trace, (bytes / block_bytes) as usize)
    }
}

fn compare(name: &str, cell: &Cell<'_>, arguments: &Arguments, report: &mut Report) {
    let outcomes = MODES.map(|mode| (mode.to_string(), cell.run(&arguments.settings(mode))));
    for (mode, outcome) in &outcomes {
        line(cell, mode, outcome);
    }
    let omniscient = cell.omniscient(&arguments.settings(Mode::Kv));
    line(cell, "omniscient", &omniscient);
    if cell.load >= 90 {
        queues(cell, arguments);
    }
    let pooled = cell.pooled();
    println!("{:>7} {:>5} {:>13} {:>37.1}", cell.workers, cell.load, "one cache", pooled * 100.0);
    let metric = |what: &str| format!("{name}, {} workers, {} %: {what}", cell.workers, cell.load);
    let kv = &outcomes[0].1;
    let mean = |at: usize| outcomes[at].1.ttft().mean;
    let (best, best_ms) = (1..MODES.len()).map(|at| (at, mean(at))).min_by(|a, b| a.1.total_cmp(&b.1)).expect("other modes");
    report.push(beside(metric("mean TTFT, kv beside round_robin"), "ms", kv.ttft().mean, mean(4), false));
    report.push(beside(metric(&format!("mean TTFT, kv beside {}", outcomes[best].0)), "ms", kv.ttft().mean, best_ms, false));
    report.push(beside(metric("p99 TTFT, kv beside round_robin"), "ms", kv.ttft().p99, outcomes[4].1.ttft().p99, false));
    report.push(beside(metric("reuse, kv beside omniscient"), "%", kv.reuse() * 100.0, omniscient.reuse() * 100.0, true));
    report.push(beside(metric("reuse, kv beside one cache"), "%", kv.reuse() * 100.0, pooled * 100.0, true));
}

/// The same by `kv` with requests held back while workers have enough to do.
fn queues(cell: &Cell<'_>, arguments: &Arguments) {
    for (name, policy) in [("kv, fcfs", QueuePolicy::Fcfs), ("kv, shortest", QueuePolicy::ShortestWork)] {
        let queue = QueueSettings { policy, ..QueueSettings::default() };
        let settings = RouteSettings { queue, ..arguments.settings(Mode::Kv) };
        line(cell, name, &cell.run_held(&settings, cell.machine, HELD_TOKENS));
    }
}

fn beside(metric: String, unit: &str, ours: f64, reference: f64, more_is_better: bool) -> Row {
    let ratio = if more_is_better { ours / reference } else { reference / ours };
    Row { reference: Some(reference), ratio: ratio.is_finite().then_some(ratio), ..Row::alone(metric, unit, &[ours]) }
}

fn line(cell: &Cell<'_>, mode: &str, outcome: &Outcome) {
    let (ttft, [device, host, disk]) = (outcome.ttft(), outcome.reuse_by_tier());
    println!(
        "{:>7} {:>4}% {mode:>13} {:>9.0} {:>9.0} {:>9.0} {:>7.1} {:>7.1} {:>7.1} {:>7.1} {:>6.2} {:>6.1}",
        cell.workers,
        cell.load,
        ttft.mean,
        ttft.p50,
        ttft.p99,
        outcome.reuse() * 100.0,
        device * 100.0,
        host * 100.0,
        disk * 100.0,
        outcome.imbalance(),
        outcome.utilisation() * 100.0,
    );
}
