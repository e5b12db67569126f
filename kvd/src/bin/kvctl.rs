//! Looks into a running daemon, and tells it what to do.

#![forbid(unsafe_code)]

#[path = "kvctl/commands.rs"]
mod commands;
#[path = "kvctl/print.rs"]
mod print;

use clap::{Args, Parser, Subcommand};
use kvd::client;
use std::path::PathBuf;
use std::process::ExitCode;

/// Looks into a running kvd, and tells it what to do.
#[derive(Debug, Parser)]
#[command(name = "kvctl", version, arg_required_else_help = true)]
struct Arguments {
    /// Administration address of the daemon [default: as written in its data directory, else 127.0.0.1:7411].
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    address: Option<String>,
    /// Data directory of the daemon, to find its address.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How the daemon is doing.
    Status,
    /// Layouts, and how many blocks of each are where.
    Layouts,
    /// How full memory and storage are.
    Tiers,
    /// Engines connected now.
    Sessions,
    /// Where blocks are.
    Inspect(Inspect),
    /// Print everything that is resident, a JSON object a line, in parts that are exact together with the events since the first.
    Snapshot,
    /// Read images and check every byte. Corrupt ones are dropped. Fails when there were any.
    Verify {
        /// Most blocks to check; without it all.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        most: u64,
        /// MiB a second.
        #[arg(long, default_value_t = 256)]
        rate: u64,
        /// Only this medium: CPU or STORAGE.
        #[arg(long, default_value = "", hide_default_value = true)]
        medium: String,
    },
    /// Refuse new leases, so that engines let go of the daemon.
    Drain {
        /// Accept leases again.
        #[arg(long)]
        undo: bool,
    },
    /// Keep blocks from being evicted for some time.
    Pin {
        /// Layout handle (`kvctl layouts`).
        #[arg(long)]
        layout: u32,
        /// Seconds.
        #[arg(long, default_value_t = 3600)]
        seconds: u64,
        /// Sequence hashes, 32 hexadecimal digits each.
        #[arg(required = true)]
        hashes: Vec<String>,
    },
    /// Let pinned blocks be evicted again.
    Unpin {
        /// Layout handle (`kvctl layouts`).
        #[arg(long)]
        layout: u32,
        /// Sequence hashes, 32 hexadecimal digits each.
        #[arg(required = true)]
        hashes: Vec<String>,
    },
    /// Forget blocks for good: of one layout, or all.
    Purge {
        /// Layout handle (`kvctl layouts`).
        #[arg(long, conflicts_with = "all", required_unless_present = "all")]
        layout: Option<u32>,
        /// Everything.
        #[arg(long)]
        all: bool,
        /// Yes, for good.
        #[arg(long)]
        confirm: bool,
    },
    /// Print where the daemon listens and keeps its data.
    Config,
}

#[derive(Debug, Args)]
struct Inspect {
    /// Layout handle (`kvctl layouts`); without it every layout is tried.
    #[arg(long)]
    layout: Option<u32>,
    /// Tokens of a prefix, separated by commas: lists its blocks in order. Needs --layout.
    #[arg(long, value_delimiter = ',', requires = "layout", conflicts_with = "hashes")]
    tokens: Vec<u32>,
    /// LoRA adapter of the tokens.
    #[arg(long, default_value = "", hide_default_value = true)]
    lora: String,
    /// Cache salt of the tokens.
    #[arg(long, default_value = "", hide_default_value = true)]
    salt: String,
    /// Sequence hashes, 32 hexadecimal digits each.
    #[arg(required_unless_present = "tokens")]
    hashes: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(arguments)));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kvctl: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let address = client::find(arguments.address.as_deref(), arguments.data_dir.as_deref());
    let client = client::connect(&address).await?;
    let mut session = commands::Session { client, json: arguments.json };
    let answered = match arguments.command {
        Command::Status => session.status().await,
        Command::Layouts => session.layouts().await,
        Command::Tiers => session.tiers().await,
        Command::Sessions => session.sessions().await,
        Command::Inspect(what) => session.inspect(what).await,
        Command::Snapshot => session.snapshot().await,
        Command::Verify { most, rate, medium } => return session.verify(most, rate << 20, medium).await,
        Command::Drain { undo } => session.drain(!undo).await,
        Command::Pin { layout, seconds, hashes } => session.pin(layout, &hashes, seconds.saturating_mul(1000).max(1)).await,
        Command::Unpin { layout, hashes } => session.pin(layout, &hashes, 0).await,
        Command::Purge { layout, confirm, .. } => session.purge(layout, confirm).await,
        Command::Config => session.config().await,
    };
    answered.map(|()| ExitCode::SUCCESS)
}
