//! `kvd-router serve`: the router, until a signal ends it.

use crate::ConfigFile;
use anyhow::{Context, bail};
use clap::Args;
use kvd_router::fleet::{Change, Directory, Origin};
use kvd_router::logging::{self, LogFormat};
use kvd_router::service::Service;
use kvd_router::{http, rpc};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{debug, info, warn};

/// How often leases and waiting requests are looked at.
const TICK: Duration = Duration::from_millis(100);

/// What `kvd-router serve` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Shape of the journal on stderr. `KVD_LOG` chooses what is in it (default `info`).
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

/// Runs the router until it is told to stop.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let settings = arguments.file.load()?;
    logging::start(arguments.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let http = bind(settings.http.listen, "[http] listen").await?;
        let grpc = bind(settings.grpc.listen, "[grpc] listen").await?;
        let (workers, nodes) = (settings.workers.clone(), settings.nodes.clone());
        let service = Service::new(settings);
        restore(&service);
        let conflicts = service.replace(&Origin::Configuration, workers, nodes);
        if let Some(conflict) = conflicts.first() {
            bail!("{conflict}");
        }
        // Whoever started this process with port 0 reads the addresses here.
        println!("http {} grpc {}", http.local_addr()?, grpc.local_addr()?);
        info!(http = %http.local_addr()?, grpc = %grpc.local_addr()?, "listening");
        http::start(http, service.clone());
        rpc::start(grpc, service.clone());
        tokio::spawn(tick(service.clone()));
        tokio::spawn(watch(service.clone()));
        if let Some(directory) = service.settings().discovery.directory.clone() {
            tokio::spawn(discover(service.clone(), directory));
        }
        tokio::spawn(keep(service.clone()));
        stopped().await?;
        info!("stopping");
        save(&service).await;
        Ok(())
    })
}

async fn bind(address: std::net::SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen at {address}: {error}; choose another with `{setting}`"))
}

async fn stopped() -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    Ok(())
}

/// What cannot be read is said, and done without.
fn restore(service: &Service) {
    match service.restore() {
        Ok(0) => {}
        Ok(streams) => info!(streams, "the last state was read; publishers now have to prove it"),
        Err(error) => warn!(%error, "the last state cannot be used: publishers are asked for all they have"),
    }
}

async fn save(service: &Service) {
    match service.save().await {
        Ok(0) => {}
        Ok(bytes) => debug!(bytes, "the state was written"),
        Err(error) => warn!(%error, "the state could not be written"),
    }
}

/// Writes the state from time to time, and lets go of what the last one had too much.
async fn keep(service: Arc<Service>) {
    let state = service.settings().state.clone();
    let mut unclaimed = Some(Instant::now() + Duration::from_millis(state.claim_ms));
    loop {
        sleep(Duration::from_millis(state.every_ms.max(100))).await;
        if unclaimed.is_some_and(|due| due <= Instant::now()) {
            unclaimed = None;
            service.forget_unclaimed();
        }
        save(&service).await;
    }
}

async fn tick(service: Arc<Service>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        service.tick();
    }
}

async fn watch(service: Arc<Service>) {
    service.watch().await;
}

/// Looks at the directory again and again.
async fn discover(service: Arc<Service>, path: PathBuf) {
    let mut looks = interval(Duration::from_millis(service.settings().discovery.poll_ms.max(10)));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut directory = Directory::new(path.clone());
    let mut was_there = true;
    loop {
        looks.tick().await;
        let looked = tokio::task::spawn_blocking(move || {
            let changes = directory.look();
            (directory, changes)
        });
        let Ok((back, changes)) = looked.await else { return };
        directory = back;
        match changes {
            Ok(changes) => {
                was_there = true;
                changes.into_iter().for_each(|change| apply(&service, change));
            }
            Err(error) if was_there => {
                was_there = false;
                warn!(path = %path.display(), %error, "the discovery directory cannot be listed: workers stay as they are");
            }
            Err(_) => {}
        }
    }
}

fn apply(service: &Service, change: Change) {
    let (path, workers, nodes) = match change {
        Change::Says { path, workers, nodes } => (path, workers, nodes),
        Change::Gone(path) => (path, Vec::new(), Vec::new()),
        Change::Bad { path, why } => {
            warn!(path = %path.display(), %why, "a discovery file cannot be used: what it said before holds");
            return;
        }
    };
    for conflict in service.replace(&Origin::File(path.clone()), workers, nodes) {
        warn!(path = %path.display(), why = %conflict, "a worker or node of a discovery file is not taken");
    }
}
