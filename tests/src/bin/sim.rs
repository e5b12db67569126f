//! Runs seeds of the simulation: `cargo xtask sim --seeds 10000 --from 0`.

#![forbid(unsafe_code)]

use clap::Parser;
use kvd_tests::sim::{self, Coverage, Outcome, Situation};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

/// Runs seeds of the simulation until one fails, and says what they met.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
}

#[derive(Debug, Default)]
struct Totals {
    steps: u64,
    accepted: u64,
    refused: u64,
    stored: u64,
    crashes: u64,
    hand_overs: u64,
    coverage: Coverage,
}

impl Totals {
    fn add(&mut self, outcome: Outcome) {
        self.steps += outcome.steps;
        self.accepted += outcome.accepted;
        self.refused += outcome.refused;
        self.stored += outcome.stored;
        self.crashes += outcome.crashes;
        self.hand_overs += outcome.hand_overs;
        self.coverage += outcome.coverage;
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let began = Instant::now();
    let mut totals = Totals::default();
    for seed in arguments.from..arguments.from + arguments.seeds {
        let trace = |at: u64, line: sim::Line<'_>| {
            if arguments.trace {
                println!("{at:>6} {line:?}");
            }
        };
        let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| sim::run_watched(seed, &mut { trace }))) else {
            println!("seed {seed} failed; replay it with (--trace prints every step):");
            println!("  cargo xtask sim --seeds 1 --from {seed} --trace");
            return ExitCode::FAILURE;
        };
        totals.add(outcome);
    }
    report(arguments.seeds, began.elapsed().as_secs_f64(), &totals);
    ExitCode::SUCCESS
}

fn report(seeds: u64, seconds: f64, totals: &Totals) {
    for situation in Situation::ALL {
        println!("{:>10}  {}", totals.coverage.count(*situation), situation.what());
    }
    let Totals { steps, accepted, refused, stored, crashes, hand_overs, .. } = totals;
    println!(
        "{steps} steps, {accepted} stripes accepted, {refused} refused, {stored} blocks stored, {crashes} crashes, {hand_overs} hand-overs"
    );
    println!("{seeds} seeds in {seconds:.1} s: {:.0} seeds/s, {:.0} steps/s", seeds as f64 / seconds, *steps as f64 / seconds);
}
