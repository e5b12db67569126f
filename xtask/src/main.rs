//! Chores of this repository: `cargo xtask graph | tidy | docs | sim | bench`.
//!
//! Nothing here depends on a crate of ours, so the checks compile in seconds and can judge a tree that does not build.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{bench, docs, graph, repository::Repository, sim, tidy};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Checks and chores of this repository")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Checks which crate may depend on what.
    Graph,
    /// Checks files, names and documents.
    Tidy,
    /// Writes the references of settings and metrics in docs from the programs' own declarations.
    Docs {
        /// Writes nothing; fails if the files differ.
        #[arg(long)]
        check: bool,
    },
    /// Runs simulated daemons, one per seed.
    Sim {
        /// How many seeds.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Print everything that happens.
        #[arg(long)]
        trace: bool,
    },
    /// Runs one bench, or lists them.
    Bench {
        /// The name of a bench; without it they are listed.
        name: Option<String>,
        /// Arguments of the bench itself.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let repository = Repository::find()?;
    match Arguments::parse().chore {
        Chore::Graph => graph::run(&repository),
        Chore::Tidy => tidy::run(&repository),
        Chore::Docs { check } => docs::run(&repository, check),
        Chore::Sim { seeds, from, trace } => sim::run(&repository, seeds, from, trace),
        Chore::Bench { name, arguments } => bench::run(&repository, name.as_deref(), &arguments),
    }
}
