//! `kvd serve`: the daemon, until a signal ends it.

use crate::ConfigFile;
use anyhow::anyhow;
use clap::Args;
use kvd::daemon::{Daemon, Shared};
use kvd::logging::{self, LogFormat};
use kvd::settings;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// What `kvd serve` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Replace the running daemon and keep what it has in memory.
    #[arg(long)]
    takeover: bool,
    /// End when the process that started this one ends. `kvd bench` must leave nothing behind, even killed.
    #[arg(long, hide = true)]
    die_with_parent: bool,
    /// Shape of the journal on stderr. `KVD_LOG` chooses what is in it (default `info`).
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

/// Runs the daemon until it is told to stop.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = arguments.file.load()?;
    logging::start(arguments.log_format);
    if arguments.die_with_parent {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    }
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
    Ok(ExitCode::SUCCESS)
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
