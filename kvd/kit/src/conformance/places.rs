//! The target as the checks see it: opened and closed at will, reached past the tier, written by another process.

use super::child::{Orders, Running, config};
use super::fill::Fill;
use super::prepare::Sizes;
use super::raw::RawFile;
use kvd_block::SlotIndex;
use kvd_shm::Arena;
use kvd_tiers::conformance::{Killed, Medium, Opened, Raw, WriterPlan};
use kvd_tiers::nvme::{FoundImage, wipe};
use kvd_tiers::{MemoryTier, NvmeTier, OpenError, TierLimits};
use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A target that is ready for the checks. Dropping it removes what was written, and nothing else.
#[derive(Debug)]
pub struct Place {
    kind: Kind,
    sizes: Sizes,
    arena: Arc<Arena>,
    writer: Running,
    program: PathBuf,
    cleaned: AtomicBool,
}

#[derive(Debug)]
enum Kind {
    /// A folder of our own inside the directory that was given.
    Folder {
        folder: PathBuf,
        raw: RawFile,
    },
    Device {
        raw: RawFile,
    },
    Memory(MemoryTier),
}

impl Place {
    /// A folder that was just made for this run.
    pub(super) fn folder(folder: PathBuf, sizes: Sizes, arena: Arc<Arena>, program: PathBuf) -> Place {
        let raw = RawFile { path: folder.join("slots"), can_be_cut: true };
        Place::new(Kind::Folder { folder, raw }, sizes, arena, program)
    }

    /// A device that holds nothing, or nothing that is needed.
    pub(super) fn device(path: PathBuf, sizes: Sizes, arena: Arc<Arena>, program: PathBuf) -> Place {
        Place::new(Kind::Device { raw: RawFile { path, can_be_cut: false } }, sizes, arena, program)
    }

    /// Memory of this process.
    pub(super) fn memory(sizes: Sizes, arena: Arc<Arena>) -> Place {
        let limits = TierLimits { capacity_bytes: sizes.capacity_bytes, extent_bytes: sizes.extent_bytes, max_inflight_blocks: 32 };
        Place::new(Kind::Memory(MemoryTier::new(limits)), sizes, arena, PathBuf::new())
    }

    fn new(kind: Kind, sizes: Sizes, arena: Arc<Arena>, program: PathBuf) -> Place {
        Place { kind, sizes, arena, writer: Running::default(), program, cleaned: AtomicBool::new(false) }
    }

    /// Bytes of blocks that are used.
    pub fn bytes(&self) -> u64 {
        self.sizes.capacity_bytes
    }

    /// Memory for the images of the checks.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// The file or device of the slots; nothing for memory.
    pub fn slots(&self) -> Option<&Path> {
        self.raw_file().map(|raw| raw.path.as_path())
    }

    /// Which way blocks take to this target. Opens it.
    pub fn probe_line(&self) -> Result<String, OpenError> {
        match self.slots() {
            Some(path) => NvmeTier::open(self.config(path)).map(|tier| tier.probe_line()),
            None => Ok("copies in memory".into()),
        }
    }

    /// Removes what the checks wrote, once; dropping the place does it too. A check that still runs finds its medium gone.
    /// Blocks for as long as the target takes.
    pub fn clean(&self) -> Result<(), String> {
        self.writer.kill();
        if self.cleaned.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        match &self.kind {
            // A check that was given up may make a file in the middle of it.
            Kind::Folder { folder, .. } => std::fs::remove_dir_all(folder)
                .or_else(|_| std::fs::remove_dir_all(folder))
                .map_err(|error| format!("{}: {error}", folder.display())),
            Kind::Device { raw } => {
                let used_bytes = kvd_tiers::nvme::DATA_START + self.sizes.capacity_bytes;
                wipe(&raw.path, used_bytes).map_err(|error| error.to_string())
            }
            Kind::Memory(_) => Ok(()),
        }
    }

    fn raw_file(&self) -> Option<&RawFile> {
        match &self.kind {
            Kind::Folder { raw, .. } | Kind::Device { raw } => Some(raw),
            Kind::Memory(_) => None,
        }
    }

    fn config(&self, path: &Path) -> kvd_tiers::NvmeConfig {
        config(path, self.sizes.capacity_bytes, self.sizes.extent_bytes, self.arena.clone())
    }
}

impl Medium for Place {
    fn open(&self) -> Result<Opened<'_>, String> {
        match (&self.kind, self.slots()) {
            (Kind::Memory(tier), _) => Ok(Opened::Given(tier)),
            (_, Some(path)) => NvmeTier::open(self.config(path)).map(|tier| Opened::Own(Box::new(tier))).map_err(|error| error.to_string()),
            (_, None) => Err("there is no medium".into()),
        }
    }

    fn keeps_blocks(&self) -> bool {
        self.slots().is_some()
    }

    fn raw(&self) -> Option<&dyn Raw> {
        self.raw_file().map(|raw| raw as &dyn Raw)
    }

    fn flip_bit(&self, address: SlotIndex, offset: u64) -> Option<io::Result<()>> {
        if let Kind::Memory(tier) = &self.kind {
            tier.flip_bit(address, offset);
            return Some(Ok(()));
        }
        let raw = self.raw()?;
        let mut byte = [0];
        Some(raw.read(address, offset, &mut byte).and_then(|()| raw.write(address, offset, &[byte[0] ^ 1])))
    }

    fn scan(&self) -> Option<Result<Vec<FoundImage>, String>> {
        let path = self.slots()?;
        let mut found = Vec::new();
        let scanned = NvmeTier::open(self.config(path)).map(|tier| tier.scan(|image| found.push(image)));
        Some(scanned.map(|()| found).map_err(|error| error.to_string()))
    }

    fn kill_writer(&self, plan: &WriterPlan) -> Result<Killed, String> {
        let path = self.slots().ok_or("memory of one process cannot be written by another")?.to_owned();
        let Sizes { capacity_bytes, extent_bytes, .. } = self.sizes;
        let orders = Orders { path, capacity_bytes, extent_bytes, first_seed: plan.first_seed, places: plan.places };
        self.writer.kill_in_the_middle(&self.program, &orders, plan.kill_after)
    }

    fn fill(&self) -> Result<Box<dyn Any>, String> {
        match &self.kind {
            Kind::Folder { folder, .. } => Fill::take(folder, self.sizes.scratch_bytes).map(|fill| Box::new(fill) as Box<dyn Any>),
            Kind::Device { .. } => Err("a whole device has no free space beside its blocks".into()),
            Kind::Memory(_) => Err("memory has no disk to fill".into()),
        }
    }

    fn second(&self) -> Option<Result<(), OpenError>> {
        let Kind::Folder { folder, .. } = &self.kind else { return None };
        let path = folder.join("second");
        let opened = NvmeTier::open(self.config(&path)).map(drop);
        let _ = std::fs::remove_file(path);
        Some(opened)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(why) = self.clean() {
            eprintln!("kvd: what the checks wrote could not be removed: {why}");
        }
    }
}
