//! What eviction and admission policies are worth: recorded traces through the real ledger.
//!
//! For each trace and capacity: the share of prompt tokens found, with every policy, between a cache of single blocks by recency
//! (`LRU`) and the best there can be (`Belady`). Then admission to NVMe below a small arena: the share found and what was written.
//! Without `--traces` the slices in `tests/fixtures/traces` are replayed: enough to see that it works, too short to judge by.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use kvd_benches::policies::{Hits, Medium, belady, distinct_blocks, lru, replay};
use kvd_benches::traces::{Trace, load_all};
use kvd_benches::{Report, Row};
use kvd_ledger::{Admission, Eviction};

/// Parts of a trace's distinct blocks that the cache has room for.
const PARTS: [f64; 4] = [0.01, 0.03, 0.1, 0.3];
/// Sizes that others have published figures for.
const PUBLISHED: [usize; 4] = [1_000, 5_000, 20_000, 50_000];
/// A cache smaller than this says nothing.
const LEAST_BLOCKS: usize = 20;
/// Arena and NVMe of the admission table, as parts of the distinct blocks.
const SMALL_ARENA: f64 = 0.02;
const SMALL_NVME: f64 = 0.1;
/// Budget of the last row of the admission table, in drive writes per day: what a busy hour with so small a drive runs into.
const BUDGET_DWPD: f64 = 60.0;

#[derive(Parser)]
#[command(about)]
struct Arguments {
    /// Folder with traces under the names they are published with.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/traces"))]
    traces: PathBuf,
    /// Only traces whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut report = Report::new("policies");
    let traces: Vec<Trace> = load_all(&arguments.traces)?.into_iter().filter(|trace| trace.name.contains(&arguments.only)).collect();
    let mut whole = Distance::default();
    for trace in &traces {
        let distance = evictions(trace, &mut report);
        distance.report(&trace.name, &mut report);
        whole.add(&distance);
    }
    whole.report("all traces", &mut report);
    traces.iter().for_each(|trace| admissions(trace, &mut report));
    report.publish()?;
    Ok(())
}

/// Percentage points between LRU and Belady, and how many of them each policy gained.
#[derive(Default)]
struct Distance {
    points: f64,
    gained: BTreeMap<String, f64>,
}

impl Distance {
    fn add(&mut self, other: &Distance) {
        self.points += other.points;
        other.gained.iter().for_each(|(policy, gained)| *self.gained.entry(policy.clone()).or_default() += gained);
    }

    fn report(&self, name: &str, report: &mut Report) {
        for (policy, gained) in &self.gained {
            let closed = if self.points > 0.0 { gained / self.points * 100.0 } else { 0.0 };
            println!("{name}: {policy} closes {closed:.1} % of {:.1} points between LRU and Belady", self.points);
            report.push(Row::alone(format!("{name}, LRU to Belady closed by {policy}"), "%", &[closed]));
        }
        println!();
    }
}

fn evictions(trace: &Trace, report: &mut Report) -> Distance {
    let distinct = distinct_blocks(trace);
    let references: usize = trace.requests.iter().map(|request| request.blocks.len()).sum();
    println!("{}: {} requests, {references} blocks asked for, {distinct} distinct", trace.name, trace.requests.len());
    let mut capacities: Vec<usize> = PARTS.iter().map(|part| (distinct as f64 * part) as usize).collect();
    if trace.name == "conversation" {
        capacities.extend(PUBLISHED);
    }
    capacities.retain(|capacity| *capacity >= LEAST_BLOCKS && *capacity < distinct);
    capacities.sort();
    let names = Eviction::ALL.map(|eviction| format!("{eviction:?}").to_lowercase());
    println!("{:>8} {:>8}{} {:>8}", "blocks", "LRU", names.iter().map(|name| format!(" {name:>8}")).collect::<String>(), "Belady");
    let mut distance = Distance::default();
    for capacity in capacities {
        let (low, high) = (lru(trace, capacity), belady(trace, capacity));
        let policies = Eviction::ALL.map(|eviction| replay(trace, Medium(capacity), None, |config| config.arena_eviction = eviction).0);
        let all: Vec<Hits> = [low].into_iter().chain(policies).chain([high]).collect();
        println!("{capacity:>8}{}", all.iter().map(|hits| format!(" {:>8.2}", hits.percent())).collect::<String>());
        for half in [0, 1] {
            let name = ["1st half", "2nd half"][half];
            println!("{name:>8}{}", all.iter().map(|hits| format!(" {:>8.2}", hits.percent_of_halves()[half])).collect::<String>());
        }
        distance.points += high.percent() - low.percent();
        for (name, hits) in names.iter().zip(policies) {
            *distance.gained.entry(name.clone()).or_default() += hits.percent() - low.percent();
            report.push(row(format!("{}, {capacity} blocks, {name} beside Belady", trace.name), hits, high));
        }
        report.push(row(format!("{}, {capacity} blocks, LRU beside Belady", trace.name), low, high));
    }
    distance
}

fn row(metric: String, ours: Hits, reference: Hits) -> Row {
    let (ours, reference) = (ours.percent(), reference.percent());
    let ratio = (reference > 0.0).then(|| ours / reference);
    Row { reference: Some(reference), ratio, ..Row::alone(metric, "% found", &[ours]) }
}

fn admissions(trace: &Trace, report: &mut Report) {
    let distinct = distinct_blocks(trace) as f64;
    let (arena, nvme) = ((distinct * SMALL_ARENA) as usize, (distinct * SMALL_NVME) as usize);
    if arena < LEAST_BLOCKS {
        return;
    }
    println!("{}: arena of {arena} blocks, NVMe of {nvme}", trace.name);
    println!("{:>10} {:>12} {:>8} {:>10} {:>8} {:>10}", "eviction", "admission", "found %", "written", "saved %", "refused");
    for eviction in [Eviction::Lineage, Eviction::Density] {
        let mut always = 0;
        let rows = Admission::ALL.map(|admission| (format!("{admission:?}").to_lowercase(), admission, None));
        let budget = [("60 a day".to_owned(), Admission::Always, Some(BUDGET_DWPD))];
        for (name, admission, budget) in rows.into_iter().chain(budget) {
            let (hits, counters) = replay(trace, Medium(arena), Some(Medium(nvme)), |config| {
                (config.arena_eviction, config.nvme_eviction) = (eviction, eviction);
                (config.admission, config.write_budget_dwpd) = (admission, budget);
            });
            let written = counters.written;
            always = if admission == Admission::Always && budget.is_none() { written } else { always };
            let saved = (1.0 - written as f64 / always.max(1) as f64) * 100.0;
            let refused = counters.offload_refused + counters.offload_over_budget;
            let eviction = format!("{eviction:?}").to_lowercase();
            println!("{eviction:>10} {name:>12} {:>8.2} {written:>10} {saved:>8.1} {refused:>10}", hits.percent());
            let metric = |what: &str| format!("{}, NVMe by {eviction}, admission {name}, {what}", trace.name);
            report.push(Row::alone(metric("found"), "% found", &[hits.percent()]));
            report.push(Row::alone(metric("written"), "blocks", &[written as f64]));
        }
    }
    println!();
}
