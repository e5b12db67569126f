//! The `kvd` program: one file per subcommand that does more than print.

#![forbid(unsafe_code)]

mod bench;
mod conformance;
mod serve;

use clap::{Args, Parser, Subcommand};
use kvd::settings::{self, Settings};
use kvd::{machine, metrics};
use std::path::PathBuf;
use std::process::ExitCode;

/// Keeps the KV blocks of this machine's LLM engines in shared memory and on local storage.
#[derive(Debug, Parser)]
#[command(name = "kvd", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon. No configuration is needed.
    Serve(serve::Arguments),
    /// Measure a medium under recorded KV traffic: for storage vendors and whoever buys storage.
    Bench(Box<bench::Arguments>),
    /// Check whether a directory or a block device keeps the promises that kvd relies on.
    Conformance(conformance::Arguments),
    /// The writer that a check kills.
    #[command(name = kvd_kit::conformance::HIDDEN_COMMAND, hide = true)]
    ConformanceWriter {
        /// What it does.
        orders: String,
    },
    /// Print the effective configuration as TOML.
    Config {
        #[command(flatten)]
        file: ConfigFile,
        /// Print every setting, its default and its meaning as Markdown instead.
        #[arg(long)]
        reference: bool,
    },
    /// Print what the daemon measures.
    Metrics {
        /// Print every metric as Markdown.
        #[arg(long, required = true)]
        reference: bool,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file (TOML). Without one every setting has its default.
    #[arg(long, value_name = "FILE", env = "KVD_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn load(&self) -> anyhow::Result<Settings> {
        let settings = self.config.as_deref().map_or_else(|| Ok(Settings::default()), settings::load)?;
        Ok(machine::resolve(&settings))
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Our errors say their causes themselves.
            eprintln!("kvd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let text = match command {
        Command::Serve(arguments) => return serve::run(arguments),
        Command::Bench(arguments) => return bench::run(*arguments),
        Command::Conformance(arguments) => return Ok(conformance::run(&arguments)),
        Command::ConformanceWriter { orders } => {
            return kvd_kit::conformance::write_until_killed(&orders).map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::msg);
        }
        Command::Config { reference: true, .. } => settings::reference(),
        Command::Config { file, .. } => file.load()?.to_toml(),
        Command::Metrics { .. } => metrics::reference(),
    };
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}
