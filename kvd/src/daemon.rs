//! Puts the parts together, runs them, and takes them apart in order.

mod stop;

use crate::clock::Clock;
use crate::driver::{self, Driver};
use crate::events::{EventFeed, EventsError, Publisher};
use crate::executor::Executor;
use crate::layouts::Layouts;
use crate::measure::Measures;
use crate::operator::Operator;
use crate::recovery::{self, Recovered};
use crate::session::{Access, BindError, Engines, Listener, Service};
use crate::settings::Settings;
use crate::storage::{self, Storage, StorageError};
use crate::takeover::{self, Inherited, TakeoverError};
use crate::{metrics, rpc, scrub};
use kvd_block::TierKind;
use kvd_ledger::{Input, Ledger, LedgerConfig, SpaceConfig};
use kvd_shm::{Arena, ArenaError, HugePages};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// How long a daemon that takes over waits for the ports of the other.
const PORT_PATIENCE: Duration = Duration::from_secs(5);
/// Name of the file in the data directory that tells scripts where the daemon listens.
pub const ADDRESSES_FILE: &str = "kvd.addresses.json";

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum ServeError {
    #[error(transparent)]
    Arena(#[from] ArenaError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Events(#[from] EventsError),
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    #[error("cannot listen on {address}: {source}; set `[{section}] listen` to another address")]
    Listen { section: &'static str, address: SocketAddr, source: io::Error },
    #[error("`[{section}] extent_bytes` is {bytes}: it must be a multiple of 4096, two pages at least")]
    BadExtent { section: &'static str, bytes: u64 },
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    #[error("the daemon stopped while it was starting")]
    Stopped(#[from] driver::Stopped),
    #[error("the ledger's thread ended by itself: this is a bug in kvd, the journal says where; blocks on storage are safe")]
    LedgerEnded,
}

/// Where a running daemon listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Process.
    pub pid: u32,
    /// Socket of the engines.
    pub socket: PathBuf,
    /// gRPC.
    pub admin: String,
    /// Prometheus.
    pub metrics: String,
    /// Event stream; empty when there is none.
    pub events: String,
    /// Replay of events; empty when there is none.
    pub replay: String,
}

/// What the parts that look at the daemon share.
#[derive(Debug)]
pub struct Shared {
    /// As resolved for this machine.
    pub settings: Settings,
    /// Where it listens.
    pub addresses: Addresses,
    /// The owner of the ledger.
    pub driver: Driver,
    /// Every layout.
    pub layouts: Arc<Layouts>,
    /// Host memory.
    pub arena: Arc<Arena>,
    /// Local storage.
    pub storage: Option<Arc<Storage>>,
    /// Who is connected.
    pub engines: Arc<Engines>,
    /// What is counted outside the ledger.
    pub measures: Arc<Measures>,
    /// Number of this life.
    pub incarnation: u64,
    /// When it began.
    pub started: Instant,
    /// True while new leases are refused.
    pub draining: watch::Sender<bool>,
    /// The operator's session.
    pub operator: Operator,
}

/// A daemon that is ready to serve.
#[derive(Debug)]
pub struct Daemon {
    /// What its parts share.
    pub shared: Arc<Shared>,
    listener: Listener,
    service: Arc<Service>,
    closing: watch::Sender<bool>,
    takeovers: mpsc::Receiver<UnixStream>,
    driver_thread: thread::JoinHandle<()>,
    driver_ended: oneshot::Receiver<Infallible>,
    serving: Vec<JoinHandle<()>>,
    publishing: Option<JoinHandle<()>>,
}

/// Memory, ledger and storage, before anything runs.
struct Base {
    arena: Arc<Arena>,
    ledger: Ledger,
    layouts: Arc<Layouts>,
    storage: Option<Arc<Storage>>,
    incarnation: u64,
    inherited: Option<Inherited>,
}

impl Daemon {
    /// Starts everything. `settings` are resolved for this machine. When this returns, engines can connect.
    pub async fn start(settings: Settings, take_over: bool) -> Result<Daemon, ServeError> {
        let clock = Clock::start();
        let mut settings = settings;
        let (given, base) = tokio::task::spawn_blocking(move || {
            let base = prepare(&mut settings, take_over);
            base.map(|base| (settings, base))
        })
        .await
        .map_err(io::Error::other)??;
        let settings = given;
        let Base { arena, ledger, layouts, storage, incarnation, inherited } = base;
        let measures = Arc::new(Measures::default());
        // The daemon taken over from lets go of its ports a moment after its arena.
        let patience = if take_over { PORT_PATIENCE } else { Duration::ZERO };
        if !settings.admin.listen.ip().is_loopback() {
            warn!(address = %settings.admin.listen, "administration is open to other machines: whoever reaches it may drop every block");
        }
        let admin = patiently(patience, || listen("admin", settings.admin.listen)).await?;
        let scrape = patiently(patience, || listen("metrics", settings.metrics.listen)).await?;
        let publisher = match settings.events.enabled {
            true => Some(patiently(patience, || Publisher::bind(&settings.events)).await?),
            false => None,
        };
        let listener = Listener::bind(&settings.engine)?;
        let addresses = addresses(&listener, &admin, &scrape, publisher.as_ref())?;

        let (events, events_queue) = mpsc::channel(crate::events::QUEUE_MESSAGES);
        let events = publisher.is_some().then_some(events);
        let publishing = publisher.map(|publisher| publisher.start(events_queue, incarnation, layouts.clone(), arena.clone()));
        let feed = EventFeed::new(events, layouts.clone(), measures.clone());
        let (driver, queue) = Driver::queue();
        let executor =
            Executor::new(arena.clone(), layouts.clone(), storage.clone(), feed, driver.clone(), Handle::current(), measures.clone());
        let (ended, driver_ended) = oneshot::channel();
        let driver_thread = driver::start(queue, ledger, executor, clock, measures.clone(), ended)?;
        if let Some(inherited) = inherited {
            take_back(&driver, &layouts, inherited).await?;
        }
        driver.send(driver::Turn::Announce).await?;

        let engines = Arc::new(Engines::new(settings.limits.max_connections));
        let (closing, is_closing) = watch::channel(false);
        let (takeovers, takeovers_queue) = mpsc::channel(1);
        let service = Arc::new(Service {
            arena: arena.clone(),
            layouts: layouts.clone(),
            storage: storage.clone(),
            driver: driver.clone(),
            engines: engines.clone(),
            measures: measures.clone(),
            incarnation,
            access: Access::new(&settings.engine),
            closing: is_closing,
            takeovers,
            defining: Mutex::new(()),
        });
        let operator = Operator::open(driver.clone()).await?;
        let shared = Arc::new(Shared {
            settings,
            addresses,
            driver,
            layouts,
            arena,
            storage,
            engines,
            measures,
            incarnation,
            started: Instant::now(),
            draining: watch::Sender::new(false),
            operator,
        });
        let mut serving = vec![rpc::start(admin, shared.clone()), metrics::start(scrape, shared.clone())];
        serving.extend(scrub::start(shared.clone()));
        prefault(&shared);
        write_addresses(&shared);
        Ok(Daemon { shared, listener, service, closing, takeovers: takeovers_queue, driver_thread, driver_ended, serving, publishing })
    }

    /// Serves engines until `stop` is ready or another daemon has taken over. Fails when the ledger's thread dies: what it
    /// decided is unknown then, and the way back is a restart.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        tokio::pin!(stop);
        let mut accepting = true;
        loop {
            tokio::select! {
                _ = &mut stop => {
                    info!("stopping");
                    self.drain().await;
                    self.close(None).await;
                    return Ok(());
                }
                Some(socket) = self.takeovers.recv() => {
                    if let Some(socket) = self.prepare_hand_over(socket).await {
                        self.close(Some(socket)).await;
                        return Ok(());
                    }
                }
                _ = &mut self.driver_ended => return Err(ServeError::LedgerEnded),
                accepted = self.listener.accept() => match accepted {
                    Ok(socket) => {
                        accepting = true;
                        drop(tokio::spawn(self.service.clone().serve(socket)));
                    }
                    Err(error) => {
                        if std::mem::take(&mut accepting) {
                            warn!(%error, "a connection could not be accepted: it waits");
                        }
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

/// Tries again for as long as `patience` lasts.
async fn patiently<T, E, F: Future<Output = Result<T, E>>>(patience: Duration, attempt: impl Fn() -> F) -> Result<T, E> {
    let until = Instant::now() + patience;
    loop {
        match attempt().await {
            Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(20)).await,
            outcome => return outcome,
        }
    }
}

async fn listen(section: &'static str, address: SocketAddr) -> Result<tokio::net::TcpListener, ServeError> {
    tokio::net::TcpListener::bind(address).await.map_err(|source| ServeError::Listen { section, address, source })
}

/// Everything that blocks: the old daemon, memory, disk, recovery.
fn prepare(settings: &mut Settings, take_over: bool) -> Result<Base, ServeError> {
    check_extents(settings)?;
    let socket = settings.engine.socket.clone().unwrap_or_default();
    if !take_over {
        // Before the slot file, whose lock would tell less.
        crate::session::refuse_if_served(&socket)?;
    }
    let inherited = if take_over { Some(takeover::take_over(&socket)?) } else { None };
    let arena = match &inherited {
        Some(inherited) => adopt_arena(settings, inherited),
        None => Arc::new(new_arena(settings)?),
    };
    let opened = if settings.nvme.enabled { Some(storage::open(&settings.nvme, arena.clone())?) } else { None };
    let nvme = opened.as_ref().map(|opened| {
        let limits = opened.medium.limits();
        SpaceConfig { capacity_bytes: limits.capacity_bytes, extent_bytes: limits.extent_bytes }
    });
    let space = SpaceConfig { capacity_bytes: arena.bytes(), extent_bytes: settings.arena.extent_bytes.map_or(0, |size| size.0) };
    let mut ledger = Ledger::new(ledger_config(settings, space, nvme));
    let layouts = Arc::new(Layouts::default());
    let (incarnation, storage) = match opened {
        None => (crate::clock::unix_ms(), None),
        Some(opened) => {
            let incarnation = opened.catalog.next_incarnation().map_err(StorageError::from)?;
            let file = storage::slots_path(&settings.nvme);
            let (storage, _recovered): (Storage, Recovered) = recovery::recover(opened, file.display().to_string(), &mut ledger, &layouts)?;
            (incarnation, Some(Arc::new(storage)))
        }
    };
    if let Some(inherited) = &inherited {
        define_inherited(inherited, storage.as_deref(), &mut ledger, &layouts)?;
    }
    let incarnation = inherited.as_ref().map_or(incarnation, |inherited| incarnation.max(inherited.incarnation + 1));
    Ok(Base { arena, ledger, layouts, storage, incarnation, inherited })
}

fn check_extents(settings: &Settings) -> Result<(), ServeError> {
    for (section, size) in [("arena", settings.arena.extent_bytes), ("nvme", settings.nvme.extent_bytes)] {
        let bytes = size.map_or(0, |size| size.0);
        let wanted = section == "arena" || settings.nvme.enabled;
        if wanted && (bytes < 2 * kvd_block::PAGE_BYTES || !bytes.is_multiple_of(kvd_block::PAGE_BYTES)) {
            return Err(ServeError::BadExtent { section, bytes });
        }
    }
    Ok(())
}

fn new_arena(settings: &Settings) -> Result<Arena, ServeError> {
    let bytes = settings.arena.bytes.map_or(0, |size| size.0);
    let huge = if settings.arena.huge_pages { HugePages::WhenReserved } else { HugePages::Never };
    let arena = Arena::create(bytes, huge)?;
    if !arena.uses_huge_pages() && crate::machine::shared_memory_is_small_pages() {
        info!("the arena is made of 4 KiB pages: storage is faster with larger ones, see \"Large pages\" in docs/operating.md");
    }
    if let Err(error) = arena.interleave_numa() {
        warn!(%error, "the arena stays on one NUMA node");
    }
    Ok(arena)
}

/// The inherited arena keeps its size: its memory is shared with engines as it is.
fn adopt_arena(settings: &mut Settings, inherited: &Inherited) -> Arc<Arena> {
    let bytes = crate::settings::ByteSize(inherited.arena.bytes());
    if settings.arena.bytes.is_some_and(|wanted| wanted != bytes) {
        warn!(is = %bytes, wanted = ?settings.arena.bytes, "the arena taken over keeps its size until a start without --takeover");
    }
    settings.arena.bytes = Some(bytes);
    settings.arena.extent_bytes = Some(crate::settings::ByteSize(inherited.extent_bytes));
    inherited.arena.clone()
}

fn define_inherited(inherited: &Inherited, storage: Option<&Storage>, ledger: &mut Ledger, layouts: &Layouts) -> Result<(), ServeError> {
    for spec in inherited.layout_specs() {
        if layouts.find(spec.id()).is_some() || spec.validate().is_err() {
            continue;
        }
        let handle = match storage {
            Some(storage) => Some(storage.layout_handle(spec).map_err(io::Error::other)?),
            None => layouts.free_handle(),
        };
        if let Some(handle) = handle {
            let generation = storage.map_or(0, |storage| storage.generation(spec.id()));
            recovery::define(ledger, layouts, handle, spec.clone(), generation);
        }
    }
    Ok(())
}

/// Gives the inherited blocks to the ledger.
async fn take_back(driver: &Driver, layouts: &Arc<Layouts>, inherited: Inherited) -> Result<(), ServeError> {
    let layouts = layouts.clone();
    let verified = tokio::task::spawn_blocking(move || inherited.verified_rows(&layouts)).await;
    let (rows, refused) = verified.map_err(io::Error::other)?;
    info!(blocks = rows.len(), refused, "blocks of the arena were taken over");
    for rows in rows.chunks(8192) {
        driver.inputs(vec![Input::Recovered { tier: TierKind::Cpu, rows: rows.to_vec() }]).await?;
    }
    Ok(())
}

fn ledger_config(settings: &Settings, arena: SpaceConfig, nvme: Option<SpaceConfig>) -> LedgerConfig {
    let limits = &settings.limits;
    LedgerConfig {
        arena_eviction: settings.arena.eviction.into(),
        nvme_eviction: settings.nvme.eviction.into(),
        admission: settings.nvme.admission.into(),
        write_budget_dwpd: settings.nvme.writes_per_day,
        max_writes: settings.nvme.max_writes,
        max_reads: settings.nvme.max_reads,
        max_leases_per_session: limits.max_leases_per_session,
        max_blocks_per_request: limits.max_blocks_per_request,
        max_pinned: limits.max_pinned,
        load_deadline_ms: limits.load_deadline_ms,
        load_lease_ms: limits.load_lease_ms,
        store_lease_ms: limits.store_lease_ms,
        write_pause_ms: limits.write_pause_ms,
        ..LedgerConfig::new(arena, nvme)
    }
}

fn addresses(
    listener: &Listener,
    admin: &tokio::net::TcpListener,
    metrics: &tokio::net::TcpListener,
    publisher: Option<&Publisher>,
) -> Result<Addresses, io::Error> {
    Ok(Addresses {
        pid: std::process::id(),
        socket: listener.path().to_owned(),
        admin: admin.local_addr()?.to_string(),
        metrics: metrics.local_addr()?.to_string(),
        events: publisher.map_or_else(String::new, |publisher| publisher.endpoint.clone()),
        replay: publisher.map_or_else(String::new, |publisher| publisher.replay_endpoint.clone()),
    })
}

/// Tells scripts where the daemon listens. Without storage the directory may not be there, and that is no trouble.
fn write_addresses(shared: &Shared) {
    let Some(dir) = &shared.settings.nvme.path else { return };
    let text = serde_json::to_string_pretty(&shared.addresses).expect("plain values");
    let (temporary, path) = (dir.join(format!("{ADDRESSES_FILE}.new")), dir.join(ADDRESSES_FILE));
    let written = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&temporary, text + "\n"))
        .and_then(|()| std::fs::rename(&temporary, &path));
    if let Err(error) = written {
        warn!(%error, path = %path.display(), "the addresses could not be written: kvctl needs --address");
    }
}

fn prefault(shared: &Arc<Shared>) {
    if !shared.settings.arena.prefault {
        return;
    }
    const PIECE_BYTES: u64 = 64 << 20;
    let arena = shared.arena.clone();
    let work = move || {
        let mut at = 0;
        while at < arena.bytes() {
            let end = (at + PIECE_BYTES).min(arena.bytes());
            if let Err(error) = arena.prefault(at..end) {
                warn!(%error, at, "the arena could not be prefaulted whole: the first stores take longer");
                return;
            }
            at = end;
        }
        info!(bytes = arena.bytes(), "the arena is prefaulted");
    };
    if let Err(error) = thread::Builder::new().name("kvd-prefault".into()).spawn(work) {
        warn!(%error, "the arena is not prefaulted");
    }
}
