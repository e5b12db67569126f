//! The medium and its catalog, opened together, and their troubles told once a minute.

use crate::machine::DATA_FILE;
use crate::settings::{IoChoice, MediumChoice, NvmeSettings};
use kvd_block::{LayoutHandle, LayoutId, LayoutSpec};
use kvd_ledger::{ReadResult, WriteResult};
use kvd_shm::Arena;
use kvd_tiers::{
    Catalog, CatalogChange, CatalogError, CatalogWriter, FoundImage, IoEngine, MemoryTier, NullTier, NvmeConfig, NvmeTier, OpenError,
    PurgeTable, Tier, TierError, TierLimits,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};
use tracing::{error, warn};

/// Catalog changes waiting to be written: 64 bytes each, 20 s of the fastest device.
const MOST_CHANGES: usize = 1 << 17;
/// Images that are checked at rest at once: by the scrubber, and by an operator's verification.
const CHECKS: usize = 2;
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// Folder of the catalog inside the data directory.
const CATALOG_DIR: &str = "catalog";
/// The catalog of a medium that survives nothing: apart, so that measuring costs no blocks of the slot file.
const PASSING_CATALOG_DIR: &str = "catalog.measuring";

/// Why storage cannot be used. Fatal at start: a cache that silently keeps nothing is worse than one that says so.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The data directory.
    #[error(
        "cannot use the data directory {}: {source}; set `[nvme] path` to a directory that user {uid} may write to, or run without \
         storage by `[nvme] enabled = false`",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Who wanted to.
        uid: u32,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The slot file.
    #[error("{0}; or run without storage by `[nvme] enabled = false`")]
    SlotFile(#[from] OpenError),
    /// The catalog.
    #[error("{0}; or run without storage by `[nvme] enabled = false`")]
    Catalog(#[from] CatalogError),
    /// A thread.
    #[error("cannot start the catalog's thread: {0}")]
    Thread(std::io::Error),
}

/// The storage of this daemon, until it is closed.
#[derive(Debug)]
pub struct Storage {
    /// Where and how, for people.
    pub detail: String,
    open: RwLock<Option<Open>>,
    complaints: Complaints,
}

/// Field order is drop order: transfers end, then the last rows are written, then the catalog is closed.
#[derive(Debug)]
struct Open {
    tier: Arc<dyn Tier>,
    writer: CatalogWriter,
    catalog: Arc<Catalog>,
    purges: Purged,
}

/// What was opened for the blocks.
#[derive(Debug)]
pub enum Medium {
    /// A file or a block device.
    Slots(NvmeTier),
    /// Memory of this process, for measuring.
    Memory(MemoryTier),
    /// Headers only, for measuring.
    Null(NullTier),
}

/// Opened storage, and whether the catalog describes it.
#[derive(Debug)]
pub struct Opened {
    /// Where the blocks are.
    pub medium: Medium,
    /// Its catalog.
    pub catalog: Catalog,
    /// What was purged.
    pub purges: Purged,
    /// The catalog was lost or describes another medium: it must be filled from a scan.
    pub must_scan: bool,
}

impl Medium {
    /// Sizes of the medium.
    pub fn limits(&self) -> TierLimits {
        match self {
            Medium::Slots(tier) => tier.limits(),
            Medium::Memory(tier) => tier.limits(),
            Medium::Null(tier) => tier.limits(),
        }
    }

    /// One line for people: which way blocks take.
    pub fn probe_line(&self) -> String {
        match self {
            Medium::Slots(tier) => tier.probe_line(),
            Medium::Memory(_) => "in memory, for measuring: nothing survives a restart".into(),
            Medium::Null(_) => "null, for measuring: payloads are dropped".into(),
        }
    }

    /// Finds every block by its header; a medium that survives nothing holds none.
    pub fn scan(&self, on_found: impl FnMut(FoundImage)) {
        if let Medium::Slots(tier) = self {
            tier.scan(on_found);
        }
    }

    /// Ready for transfers.
    pub fn into_tier(self) -> Arc<dyn Tier> {
        match self {
            Medium::Slots(tier) => Arc::new(tier),
            Medium::Memory(tier) => Arc::new(tier),
            Medium::Null(tier) => Arc::new(tier),
        }
    }

    fn purges(&self) -> Purged {
        match self {
            Medium::Slots(tier) => Purged(Some(tier.purge_table())),
            Medium::Memory(_) | Medium::Null(_) => Purged(None),
        }
    }

    /// What the catalog must name to describe this medium; nothing does where nothing survives.
    pub fn id(&self) -> Option<[u8; 16]> {
        match self {
            Medium::Slots(tier) => Some(tier.file_id()),
            Medium::Memory(_) | Medium::Null(_) => None,
        }
    }
}

/// What was purged from a medium. Where nothing survives, nothing has to be remembered.
#[derive(Debug)]
pub struct Purged(Option<PurgeTable>);

impl Purged {
    /// What headers of this layout's images must say at least.
    pub fn generation(&self, layout: LayoutId) -> u64 {
        self.0.as_ref().map_or(0, |table| table.generation(layout))
    }

    fn purge(&self, layout: Option<LayoutId>) -> std::io::Result<u64> {
        self.0.as_ref().map_or(Ok(0), |table| table.purge(layout))
    }
}

/// Opens medium and catalog in the directory of `settings`. Blocks.
pub fn open(settings: &NvmeSettings, arena: Arc<Arena>) -> Result<Opened, StorageError> {
    let dir = settings.path.clone().unwrap_or_default();
    create_dir(&dir)?;
    let medium = open_medium(settings, slots_path(settings), arena)?;
    let catalog_dir = if medium.id().is_some() { CATALOG_DIR } else { PASSING_CATALOG_DIR };
    let (catalog, must_scan) = open_catalog(&dir.join(catalog_dir), medium.id())?;
    let purges = medium.purges();
    Ok(Opened { medium, catalog, purges, must_scan })
}

/// The file or device of the slots, whether or not it is used.
pub fn slots_path(settings: &NvmeSettings) -> PathBuf {
    settings.device.clone().unwrap_or_else(|| settings.path.clone().unwrap_or_default().join(DATA_FILE))
}

fn open_medium(settings: &NvmeSettings, path: PathBuf, arena: Arc<Arena>) -> Result<Medium, StorageError> {
    let capacity_bytes = settings.bytes.map_or(0, |size| size.0);
    let extent_bytes = settings.extent_bytes.map_or(0, |size| size.0);
    let max_inflight_blocks = settings.max_writes + settings.max_reads + CHECKS;
    let limits = TierLimits { capacity_bytes, extent_bytes, max_inflight_blocks };
    if settings.medium != MediumChoice::File {
        warn!(medium = ?settings.medium, "this storage is for measuring only: nothing in it survives a restart");
    }
    match settings.medium {
        MediumChoice::Memory => return Ok(Medium::Memory(MemoryTier::new(limits))),
        MediumChoice::Null => return Ok(Medium::Null(NullTier::new(limits))),
        MediumChoice::File => {}
    }
    let io = match settings.io {
        IoChoice::Auto => IoEngine::Auto,
        IoChoice::Uring => IoEngine::Uring,
        IoChoice::Posix => IoEngine::Posix,
    };
    Ok(Medium::Slots(NvmeTier::open(NvmeConfig { path, capacity_bytes, extent_bytes, max_inflight_blocks, queue_depth: 64, arena, io })?))
}

fn create_dir(dir: &Path) -> Result<(), StorageError> {
    let failed = |source| StorageError::Directory { path: dir.into(), uid: rustix::process::getuid().as_raw(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).map_err(|errno| failed(errno.into()))
}

/// The catalog, and whether it must be filled from a scan: it is a new one, or describes another one than `medium`.
fn open_catalog(dir: &Path, medium: Option<[u8; 16]>) -> Result<(Catalog, bool), StorageError> {
    match Catalog::open(dir).and_then(|catalog| usable(&catalog, medium).map(|described| (catalog, !described))) {
        Err(broken @ CatalogError::Corrupt { .. }) => Ok((replace_catalog(dir, &broken)?, true)),
        opened => Ok(opened?),
    }
}

/// Reads all of the catalog once, so that damage is found before anything is believed. True when it describes `medium`; else
/// it is empty now, and describes nothing until a scan has filled it.
fn usable(catalog: &Catalog, medium: Option<[u8; 16]>) -> Result<bool, CatalogError> {
    let described = catalog.data_file_id()?;
    catalog.scan(8192, drop)?;
    if described.is_some() && described == medium {
        return Ok(true);
    }
    if described.is_some() {
        warn!(dir = %catalog.path().display(), "the catalog describes another slot file: it is rebuilt from the headers of this one");
    }
    catalog.clear()?;
    Ok(false)
}

fn replace_catalog(dir: &Path, broken: &CatalogError) -> Result<Catalog, CatalogError> {
    let aside = Catalog::set_aside(dir)?;
    error!(%broken, aside = %aside.display(), "the catalog is set aside and rebuilt from the headers of the slot file");
    Catalog::open(dir)
}

impl Storage {
    /// Storage that is ready for transfers.
    pub fn new(tier: Arc<dyn Tier>, catalog: Arc<Catalog>, purges: Purged, detail: String) -> Result<Storage, StorageError> {
        let writer = CatalogWriter::start(catalog.clone(), MOST_CHANGES).map_err(StorageError::Thread)?;
        Ok(Storage { detail, open: RwLock::new(Some(Open { tier, writer, catalog, purges })), complaints: Complaints::default() })
    }

    /// What moves images; nothing once closed.
    pub fn tier(&self) -> Option<Arc<dyn Tier>> {
        self.with(|open| open.tier.clone())
    }

    /// The handle of a layout, kept. Blocks.
    pub fn layout_handle(&self, spec: &LayoutSpec) -> Result<LayoutHandle, String> {
        let opened = self.with(|open| (open.catalog.clone(), open.purges.generation(spec.id())));
        let (catalog, generation) = opened.ok_or("the daemon is stopping")?;
        crate::recovery::layout_handle(&catalog, spec, generation).map_err(|error| error.to_string())
    }

    /// What headers of this layout's blocks say until its next purge.
    pub fn generation(&self, layout: LayoutId) -> u64 {
        self.with(|open| open.purges.generation(layout)).unwrap_or(0)
    }

    /// Remembers a purge for good and returns its generation. Blocks. When it fails, nothing may be purged.
    pub fn remember_purge(&self, layout: Option<LayoutId>) -> Result<u64, String> {
        let remembered = self.with(|open| open.purges.purge(layout)).ok_or("the daemon is stopping")?;
        remembered.map_err(|error| format!("the purge cannot be remembered in {}: {error}; nothing was purged", self.detail))
    }

    /// Keeps `changes` in the background. When the catalog is far behind they are dropped: a miss after the next restart.
    pub fn record(&self, changes: Vec<CatalogChange>) {
        if let Some(Err(full)) = self.with(|open| open.writer.submit(changes)) {
            let changes = full.0.len();
            self.complaints.once_a_minute("catalog", || warn!(changes, "the catalog is behind: these changes are not remembered"));
        }
    }

    /// Finishes what was accepted and lets go of the files. Blocks for as long as the device takes.
    pub fn close(&self) {
        let open = self.open.write().expect("no panic while held").take();
        drop(open);
    }

    /// Changes of the catalog that were lost, ever.
    pub fn failed_changes(&self) -> u64 {
        self.with(|open| open.writer.failed_changes()).unwrap_or(0)
    }

    fn with<T>(&self, work: impl FnOnce(&Open) -> T) -> Option<T> {
        self.open.read().expect("no panic while held").as_ref().map(work)
    }
}

/// A write's outcome in the ledger's words. Trouble is told here, once a minute.
pub fn write_result(storage: &Storage, result: Result<(), TierError>) -> WriteResult {
    let Err(error) = result else { return WriteResult::Written };
    if matches!(error, TierError::Busy { .. }) {
        return WriteResult::Busy;
    }
    let full = matches!(error, TierError::Full { .. });
    storage.complaints.once_a_minute("write", || {
        let capacity_bytes = storage.tier().map_or(0, |tier| tier.limits().capacity_bytes);
        error!(%error, detail = storage.detail, capacity_bytes, full, "blocks are not written to storage for now");
    });
    WriteResult::Failed
}

/// An erase's outcome in the ledger's words. What could not be erased is known for purged by its generation.
pub fn erase_result(storage: &Storage, result: Result<(), TierError>) -> WriteResult {
    let Err(error) = result else { return WriteResult::Written };
    if matches!(error, TierError::Busy { .. }) {
        return WriteResult::Busy;
    }
    storage.complaints.once_a_minute("erase", || warn!(%error, "a purged image could not be overwritten"));
    WriteResult::Failed
}

/// A read's outcome in the ledger's words. Trouble is told here, once a minute.
pub fn read_result(storage: &Storage, result: Result<(), TierError>) -> ReadResult {
    let Err(error) = result else { return ReadResult::Read };
    match error {
        TierError::Busy { .. } => ReadResult::Busy,
        TierError::Corrupt { .. } => {
            storage.complaints.once_a_minute("corrupt", || warn!(%error, "a block on storage is not what it should be: forgotten"));
            ReadResult::Corrupt
        }
        TierError::Closed { .. } => ReadResult::Failed,
        TierError::Full { .. } | TierError::Io { .. } => {
            let detail = &storage.detail;
            let lost = matches!(&error, TierError::Io { source, .. } if is_lost(source));
            storage.complaints.once_a_minute("read", || error!(%error, %detail, lost, "storage cannot be read"));
            // While it counts as stored nobody could store it again: every load of it would be a miss.
            if lost { ReadResult::Corrupt } else { ReadResult::Failed }
        }
    }
}

/// The device or the filesystem says that these bytes are gone.
fn is_lost(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let lost = [Errno::IO, Errno::BADMSG, Errno::UCLEAN, Errno::ILSEQ, Errno::NODATA, Errno::REMOTEIO];
    Errno::from_io_error(error).is_some_and(|errno| lost.contains(&errno))
}

/// Keeps one trouble from filling the journal.
#[derive(Debug, Default)]
struct Complaints(Mutex<Vec<(&'static str, Instant)>>);

impl Complaints {
    fn once_a_minute(&self, about: &'static str, complain: impl FnOnce()) {
        let mut told = self.0.lock().expect("no panic while held");
        let now = Instant::now();
        match told.iter_mut().find(|(what, _)| *what == about) {
            Some((_, last)) if now - *last < COMPLAIN_EVERY => return,
            Some((_, last)) => *last = now,
            None => told.push((about, now)),
        }
        drop(told);
        complain();
    }
}
