//! Runs seeds of the simulation: `cargo run --release -p kvd-tests --bin sim -- --seeds 10000 --from 0`.

#![forbid(unsafe_code)]

use clap::Parser;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

/// Runs seeds of the simulation until one fails.
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let began = Instant::now();
    let (mut steps, mut accepted, mut refused, mut stored, mut crashes, mut hand_overs, mut resurrected) = (0, 0, 0, 0, 0, 0, 0);
    for seed in arguments.from..arguments.from + arguments.seeds {
        let run = || {
            kvd_tests::sim::run_watched(seed, &mut |at, line| {
                if arguments.trace {
                    println!("{at:>6} {line:?}");
                }
            })
        };
        let Ok(outcome) = catch_unwind(AssertUnwindSafe(run)) else {
            println!("seed {seed} failed; replay it with:");
            println!("  cargo run --release -p kvd-tests --bin sim -- --seeds 1 --from {seed}");
            return ExitCode::FAILURE;
        };
        steps += outcome.steps;
        accepted += outcome.accepted;
        refused += outcome.refused;
        stored += outcome.stored;
        crashes += outcome.crashes;
        hand_overs += outcome.hand_overs;
        resurrected += outcome.resurrected;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} seeds in {seconds:.1} s: {:.0} seeds/s, {:.0} steps/s",
        arguments.seeds,
        arguments.seeds as f64 / seconds,
        steps as f64 / seconds
    );
    println!("steps {steps}, stripes accepted {accepted}, refused {refused}, blocks stored {stored}");
    println!("crashes {crashes}, hand-overs {hand_overs}, purged blocks served again after a restart {resurrected}");
    ExitCode::SUCCESS
}
