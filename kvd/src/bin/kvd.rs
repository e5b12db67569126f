//! The daemon's command line.

#![forbid(unsafe_code)]

use anyhow::anyhow;
use clap::{Args, Parser, Subcommand};
use kvd::daemon::{Daemon, Shared};
use kvd::logging::{self, LogFormat};
use kvd::settings::{self, Settings};
use kvd::{machine, metrics};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

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
    Serve(Serve),
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
struct Serve {
    #[command(flatten)]
    file: ConfigFile,
    /// Replace the running daemon and keep what it has in memory.
    #[arg(long)]
    takeover: bool,
    /// Shape of the journal on stderr. `KVD_LOG` chooses what is in it (default `info`).
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
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
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Our errors say their causes themselves.
            eprintln!("kvd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let text = match command {
        Command::Serve(arguments) => return serve(arguments),
        Command::Config { reference: true, .. } => settings::reference(),
        Command::Config { file, .. } => file.load()?.to_toml(),
        Command::Metrics { .. } => metrics::reference(),
    };
    print!("{text}");
    Ok(())
}

fn serve(arguments: Serve) -> anyhow::Result<()> {
    let settings = arguments.file.load()?;
    logging::start(arguments.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).thread_name("kvd").enable_all().build();
    let runtime = runtime.map_err(|error| anyhow!("cannot start the runtime: {error}"))?;
    runtime.block_on(async {
        let stop = stop_signal()?;
        let daemon = Daemon::start(settings, arguments.takeover).await?;
        println!("{}", table(&daemon.shared));
        anyhow::Ok(daemon.run(stop).await?)
    })?;
    // What still waits for a subscriber or an operator is not waited for.
    runtime.shutdown_background();
    Ok(())
}

/// Ready when the daemon is told to stop. Registered before anything is opened, so an early signal is not lost.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| anyhow!("cannot listen for SIGTERM: {error}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| anyhow!("cannot listen for SIGINT: {error}"))?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn table(shared: &Shared) -> String {
    let settings = &shared.settings;
    let about = |size: Option<settings::ByteSize>| size.map_or_else(String::new, |size| settings::about(size.0));
    let pages = if shared.arena.uses_huge_pages() { "2 MiB pages" } else { "4 KiB pages" };
    let storage = match &shared.storage {
        Some(storage) => format!("{}  {}", about(settings.nvme.bytes), storage.detail),
        None => "none ([nvme] enabled = false): nothing survives a restart".into(),
    };
    let addresses = &shared.addresses;
    let events = match addresses.events.as_str() {
        "" => "none ([events] enabled = false)".into(),
        events => format!("{events}  replay {}", addresses.replay),
    };
    [
        format!("kvd {} is ready, process {}, life {}", env!("CARGO_PKG_VERSION"), addresses.pid, shared.incarnation),
        format!("  engines  {}", addresses.socket.display()),
        format!("  memory   {}  {pages}", about(settings.arena.bytes)),
        format!("  storage  {storage}"),
        format!("  admin    {}  (kvctl status)", addresses.admin),
        format!("  metrics  http://{}/metrics", addresses.metrics),
        format!("  events   {events}"),
    ]
    .join("\n")
}
