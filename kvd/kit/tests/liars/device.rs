//! A real slot file on a real filesystem, whose bytes are changed behind the tier's back once a write was acknowledged.

use kvd_block::{PAGE_BYTES, SlotIndex, TierKind};
use kvd_shm::{Arena, HugePages};
use kvd_tiers::conformance::{Medium, Opened, Raw};
use kvd_tiers::nvme::{DATA_START, FoundImage};
use kvd_tiers::{
    Completion, IoEngine, NvmeConfig, NvmeTier, ReadBlock, ReadOutcome, Tier, TierError, TierLimits, WriteBlock, WriteOutcome,
};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

const EXTENT_BYTES: u64 = 4 << 20;
const EXTENTS: u64 = 4;

/// What is wrong with the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadDevice {
    Honest,
    DropsWrites,
    DropsInBatches,
    FlipsBits,
    WritesHalf,
    Misplaces,
    UndoesErases,
    ForgetsAtClose,
}

/// A medium on that device.
#[derive(Debug)]
pub struct Device {
    folder: TempDir,
    lie: BadDevice,
    raw: Slots,
}

impl Device {
    pub fn new(lie: BadDevice) -> Device {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let raw = Slots(folder.path().join("slots"));
        Device { folder, lie, raw }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("slots")
    }

    fn tier(&self) -> Result<NvmeTier, String> {
        let arena = Arc::new(Arena::create(PAGE_BYTES, HugePages::Never).unwrap());
        let config = NvmeConfig {
            path: self.path(),
            capacity_bytes: EXTENTS * EXTENT_BYTES,
            extent_bytes: EXTENT_BYTES,
            max_inflight_blocks: 16,
            queue_depth: 16,
            arena,
            io: IoEngine::Posix,
        };
        if self.lie == BadDevice::ForgetsAtClose && self.path().exists() {
            open(&self.path()).write_all_at(&vec![0; (EXTENTS * EXTENT_BYTES) as usize], DATA_START).unwrap();
        }
        NvmeTier::open(config).map_err(|error| error.to_string())
    }
}

impl Medium for Device {
    fn open(&self) -> Result<Opened<'_>, String> {
        let tier = self.tier()?;
        Ok(Opened::Own(Box::new(Lying { tier, lie: self.lie, path: self.path() })))
    }

    fn keeps_blocks(&self) -> bool {
        true
    }

    fn raw(&self) -> Option<&dyn Raw> {
        Some(&self.raw)
    }

    fn scan(&self) -> Option<Result<Vec<FoundImage>, String>> {
        let mut found = Vec::new();
        Some(self.tier().map(|tier| tier.scan(|image| found.push(image))).map(|()| found))
    }
}

#[derive(Debug)]
struct Slots(PathBuf);

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

impl Raw for Slots {
    fn read(&self, address: SlotIndex, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        open(&self.0).read_exact_at(bytes, DATA_START + address.offset_bytes() + offset)
    }

    fn write(&self, address: SlotIndex, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = open(&self.0);
        file.write_all_at(bytes, DATA_START + address.offset_bytes() + offset)?;
        file.sync_data()
    }

    fn cut(&self, address: SlotIndex) -> Option<io::Result<()>> {
        Some(open(&self.0).set_len(DATA_START + address.offset_bytes() + 100))
    }
}

/// The real tier, over storage that acknowledges and then does something else.
#[derive(Debug)]
struct Lying {
    tier: NvmeTier,
    lie: BadDevice,
    path: PathBuf,
}

/// A place of the medium and what was there before the write.
struct Before {
    address: SlotIndex,
    bytes: Vec<u8>,
}

impl Lying {
    fn before(&self, places: impl Iterator<Item = (SlotIndex, u64)>) -> Vec<Before> {
        let file = open(&self.path);
        let before = |(address, length): (SlotIndex, u64)| {
            let mut bytes = vec![0; length as usize];
            // What does not exist will be refused by the tier.
            let _ = file.read_exact_at(&mut bytes, DATA_START + address.offset_bytes());
            Before { address, bytes }
        };
        places.map(before).collect()
    }
}

/// What the bad device makes of an acknowledged write.
fn spoil(lie: BadDevice, path: &Path, before: &Before, blocks: usize) {
    let file = open(path);
    let start = DATA_START + before.address.offset_bytes();
    let length = before.bytes.len();
    let mut now = vec![0; length];
    file.read_exact_at(&mut now, start).unwrap();
    let put = |bytes: &[u8], at: u64| file.write_all_at(bytes, at).and_then(|()| file.sync_data()).unwrap();
    match lie {
        BadDevice::DropsWrites => put(&before.bytes, start),
        BadDevice::DropsInBatches if blocks > 1 => put(&before.bytes, start),
        BadDevice::FlipsBits => put(&[now[4096] ^ 8], start + 4096),
        BadDevice::WritesHalf => put(&before.bytes[length / 2..], start + length as u64 / 2),
        BadDevice::Misplaces => {
            put(&before.bytes, start);
            let last = DATA_START + EXTENTS * EXTENT_BYTES - length as u64;
            put(&now, (start + length as u64).min(last));
        }
        _ => {}
    }
}

impl Tier for Lying {
    fn kind(&self) -> TierKind {
        self.tier.kind()
    }

    fn limits(&self) -> TierLimits {
        self.tier.limits()
    }

    fn write(&self, batch: Vec<WriteBlock>) -> Completion<Vec<WriteOutcome>> {
        let before = self.before(batch.iter().map(|block| (block.address, block.slot.bytes())));
        let (writing, lie, path) = (self.tier.write(batch), self.lie, self.path.clone());
        Completion::wrapped(async move {
            let outcomes = writing.await?;
            let written = outcomes.iter().zip(&before).filter(|(outcome, _)| outcome.result.is_ok());
            written.for_each(|(_, place)| spoil(lie, &path, place, before.len()));
            Some(outcomes)
        })
    }

    fn read(&self, batch: Vec<ReadBlock>) -> Completion<Vec<ReadOutcome>> {
        self.tier.read(batch)
    }

    fn erase(&self, addresses: Vec<SlotIndex>) -> Completion<Vec<Result<(), TierError>>> {
        let before = self.before(addresses.iter().map(|address| (*address, PAGE_BYTES)));
        let (erasing, lie, path) = (self.tier.erase(addresses), self.lie, self.path.clone());
        Completion::wrapped(async move {
            let outcomes = erasing.await?;
            if lie == BadDevice::UndoesErases {
                before.iter().for_each(|place| spoil(BadDevice::DropsWrites, &path, place, 1));
            }
            Some(outcomes)
        })
    }
}

impl fmt::Display for Lying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lying {}", self.tier)
    }
}
