//! What a check works on: a medium, an arena, and one opened tier at a time.

use super::blocks::{name_of, nth_address, payload, sample_layout, seal};
use super::writer::{Event, WriterPlan};
use super::{FlipBit, Trouble, broken, promise};
use crate::error::TierError;
use crate::nvme::{FoundImage, OpenError};
use crate::tier::{BlockName, ReadBlock, Tier, TierLimits, WriteBlock};
use kvd_block::{HEADER_BYTES, LayoutSpec, PAGE_BYTES, SlotIndex};
use kvd_shm::{Arena, Slot};
use std::any::Any;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The medium under test, and what can be done to it besides using it. What a medium cannot do it leaves at the default, and
/// the checks that need it are skipped.
pub trait Medium: Send + Sync {
    /// Opens a tier on it. What was written before is still there, if [`Medium::keeps_blocks`]. One is open at a time.
    fn open(&self) -> Result<Opened<'_>, String>;

    /// Whether blocks outlive the tier that wrote them.
    fn keeps_blocks(&self) -> bool {
        false
    }

    /// The bytes of the medium, behind the tier's back.
    fn raw(&self) -> Option<&dyn Raw> {
        None
    }

    /// Flips the lowest bit of the byte at `offset` of the image at `address`; `None` where nothing can.
    fn flip_bit(&self, address: SlotIndex, offset: u64) -> Option<io::Result<()>> {
        let raw = self.raw()?;
        let mut byte = [0];
        Some(raw.read(address, offset, &mut byte).and_then(|()| raw.write(address, offset, &[byte[0] ^ 1])))
    }

    /// Every block that is found by headers alone, while no tier is open; `None` where that is not done.
    fn scan(&self) -> Option<Result<Vec<FoundImage>, String>> {
        None
    }

    /// Runs [`super::writer::run`] in another process, kills that process in the middle of it, and gives what it told before.
    fn kill_writer(&self, _plan: &WriterPlan) -> Result<Killed, String> {
        Err("this target cannot be opened by another process".into())
    }

    /// Takes all the free space that the medium's blocks could still grow into, for as long as the answer lives.
    fn fill(&self) -> Result<Box<dyn Any>, String> {
        Err("this target has no free space to run out of".into())
    }

    /// Makes a second medium of the same size beside the first; it is gone again afterwards.
    fn second(&self) -> Option<Result<(), OpenError>> {
        None
    }
}

/// Bytes of a medium behind the tier's back. Offsets count from the start of the image at an address.
pub trait Raw {
    /// Fills `bytes`.
    fn read(&self, address: SlotIndex, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Writes `bytes`, so that the next read of the tier sees them.
    fn write(&self, address: SlotIndex, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Lets the medium end in the middle of the image at `address`; `None` where a medium cannot get shorter.
    fn cut(&self, address: SlotIndex) -> Option<io::Result<()>>;
}

/// What a writer that was killed had told.
#[derive(Debug, Clone, Default)]
pub struct Killed {
    /// In order.
    pub events: Vec<Event>,
}

/// An open tier.
#[derive(Debug)]
pub enum Opened<'a> {
    /// One that stays open.
    Given(&'a dyn Tier),
    /// One that is closed when this is dropped.
    Own(Box<dyn Tier>),
}

impl Opened<'_> {
    /// The tier.
    pub fn tier(&self) -> &dyn Tier {
        match self {
            Opened::Given(tier) => *tier,
            Opened::Own(tier) => &**tier,
        }
    }
}

/// A tier that somebody else opened.
pub(super) struct Given<'a> {
    pub tier: &'a dyn Tier,
    pub flip_bit: Option<FlipBit<'a>>,
}

impl Medium for Given<'_> {
    fn open(&self) -> Result<Opened<'_>, String> {
        Ok(Opened::Given(self.tier))
    }

    fn flip_bit(&self, address: SlotIndex, offset: u64) -> Option<io::Result<()>> {
        self.flip_bit.map(|flip_bit| {
            flip_bit(address, offset);
            Ok(())
        })
    }
}

/// What every check is given.
pub struct Stage<'a> {
    /// Where.
    pub medium: &'a dyn Medium,
    /// Memory for images.
    pub arena: Arc<Arena>,
    seeds: AtomicU64,
}

impl std::fmt::Debug for Stage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stage")
    }
}

impl<'a> Stage<'a> {
    /// A stage over `medium`. `arena` has room for [`super::ARENA_BYTES`], or less when wide blocks need not be tried.
    pub fn new(medium: &'a dyn Medium, arena: Arc<Arena>) -> Stage<'a> {
        // No block of an earlier run may be taken for one of this run.
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let start = since.map_or(0, |since| since.as_micros() as u64) << 12;
        Stage { medium, arena, seeds: AtomicU64::new(start) }
    }

    /// A seed that no other block has.
    pub(crate) fn seed(&self) -> u64 {
        self.seeds.fetch_add(1, Ordering::Relaxed)
    }

    /// Opens the tier.
    pub(crate) fn open(&self) -> Result<Trial<'_>, Trouble> {
        self.open_for(sample_layout())
    }

    /// Opens the tier for blocks of `layout`.
    pub(crate) fn open_for(&self, layout: LayoutSpec) -> Result<Trial<'_>, Trouble> {
        match self.medium.open() {
            Ok(opened) => Ok(Trial { opened, stage: self, layout }),
            Err(why) => broken(format!("the target cannot be opened: {why}")),
        }
    }

    /// The bytes of the medium, or why not.
    pub(crate) fn raw(&self) -> Result<&dyn Raw, Trouble> {
        self.medium.raw().ok_or_else(|| Trouble::CannotTry("the bytes of this target cannot be reached past the tier".into()))
    }
}

/// An open tier in the hands of a check.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    opened: Opened<'a>,
    stage: &'a Stage<'a>,
    /// What its blocks look like.
    pub layout: LayoutSpec,
}

/// A block that was written and acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub nth: u32,
    pub seed: u64,
    pub name: BlockName,
}

impl Trial<'_> {
    pub fn tier(&self) -> &dyn Tier {
        self.opened.tier()
    }

    pub fn limits(&self) -> TierLimits {
        self.tier().limits()
    }

    pub fn arena(&self) -> &Arc<Arena> {
        &self.stage.arena
    }

    pub fn seed(&self) -> u64 {
        self.stage.seed()
    }

    /// The `nth` slot of the arena for blocks of `layout`.
    pub fn slot_of(&self, layout: &LayoutSpec, nth: u32) -> Slot {
        Slot::new(self.stage.arena.clone(), SlotIndex(nth * layout.slot_pages()), layout.slot_bytes())
    }

    pub fn slot(&self, nth: u32) -> Slot {
        self.slot_of(&self.layout, nth)
    }

    pub fn address(&self, nth: u32) -> SlotIndex {
        nth_address(nth, self.layout.slot_pages(), self.limits().extent_bytes)
    }

    /// How many blocks the medium holds.
    pub fn room(&self) -> u32 {
        let limits = self.limits();
        let per_extent = (limits.extent_bytes / PAGE_BYTES - 1) / u64::from(self.layout.slot_pages());
        (per_extent * (limits.capacity_bytes / limits.extent_bytes)) as u32
    }

    /// First slot of the `nth` extent.
    pub fn extent_address(&self, nth: u64) -> SlotIndex {
        SlotIndex((nth * (self.limits().extent_bytes / PAGE_BYTES)) as u32 + 1)
    }

    /// Writes the image in `slot`.
    pub fn write_slot(&self, slot: Slot, address: SlotIndex) -> Result<Result<(), TierError>, Trouble> {
        let outcomes = self.tier().write(vec![WriteBlock { slot, address }]).wait();
        match outcomes.map(|mut outcomes| (outcomes.len(), outcomes.pop())) {
            Some((1, Some(outcome))) => Ok(outcome.result),
            Some((count, _)) => broken(format!("a write of one block was answered by {count} outcomes")),
            None => broken("a write was never answered: the tier gave it up"),
        }
    }

    /// Reads into `slot`, which is filled with something else first.
    pub fn read_slot(&self, slot: Slot, address: SlotIndex, name: BlockName) -> Result<(Slot, Result<(), TierError>), Trouble> {
        slot.write_at(0, &vec![0xEE; slot.bytes() as usize]);
        let outcomes = self.tier().read(vec![ReadBlock { slot, address, name }]).wait();
        match outcomes.map(|mut outcomes| (outcomes.len(), outcomes.pop())) {
            Some((1, Some(outcome))) => Ok((outcome.slot, outcome.result)),
            Some((count, _)) => broken(format!("a read of one block was answered by {count} outcomes")),
            None => broken("a read was never answered: the tier gave it up"),
        }
    }

    /// Writes a new block to the `nth` address and expects success.
    pub fn write(&self, nth: u32) -> Result<Written, Trouble> {
        let (slot, seed) = (self.slot(nth % super::SLOTS), self.seed());
        let name = seal(&slot, &self.layout, seed);
        match self.write_slot(slot, self.address(nth))? {
            Ok(()) => Ok(Written { nth, seed, name }),
            Err(error) => broken(format!("a write to an idle target failed: {error}")),
        }
    }

    /// Reads what `name` is said to be at the `nth` address.
    pub fn read(&self, nth: u32, name: BlockName) -> Result<(Slot, Result<(), TierError>), Trouble> {
        self.read_slot(self.slot(nth % super::SLOTS), self.address(nth), name)
    }

    /// The block is there, to the last byte.
    pub fn expect(&self, block: &Written, when: &str) -> Result<(), Trouble> {
        match self.read(block.nth, block.name)? {
            (slot, Ok(())) => same_bytes(&slot, &self.layout, block.seed, when),
            (_, Err(error)) => broken(format!("{when}, a block that was acknowledged cannot be read: {error}")),
        }
    }

    /// The block is not there any more, and the tier says so.
    pub fn expect_corrupt(&self, nth: u32, name: BlockName, when: &str) -> Result<(), Trouble> {
        match self.read(nth, name)?.1 {
            Err(TierError::Corrupt { .. }) => Ok(()),
            Err(error) => broken(format!("{when}, the read failed otherwise than as corrupt: {error}")),
            Ok(()) => broken(format!("{when}, the read was called a success")),
        }
    }

    /// The block is there to the last byte, or the tier says that it is not. True when it is.
    pub fn right_or_corrupt(&self, block: &Written, when: &str) -> Result<bool, Trouble> {
        match self.read(block.nth, block.name)? {
            (slot, Ok(())) => same_bytes(&slot, &self.layout, block.seed, when).map(|()| true),
            (_, Err(TierError::Corrupt { .. })) => Ok(false),
            (_, Err(error)) => broken(format!("{when}, the read failed otherwise than as corrupt: {error}")),
        }
    }
}

/// What was read is what was written. The tier's own verdict is not believed here.
pub(crate) fn same_bytes(slot: &Slot, layout: &LayoutSpec, seed: u64, when: &str) -> Result<(), Trouble> {
    let (expected, found) = (payload(layout, seed), slot.read_at(HEADER_BYTES, layout.payload_bytes() as usize));
    if let Some(at) = (expected != found).then(|| expected.iter().zip(&found).position(|(a, b)| a != b).unwrap_or(0)) {
        return broken(format!(
            "{when}, WRONG BYTES were called a success: byte {at} of the payload is {:#04x} and was written as {:#04x}",
            found[at], expected[at]
        ));
    }
    let page = slot.read_header();
    let found = BlockName { layout: kvd_block::image::layout_id(&page), hash: kvd_block::image::sequence_hash(&page) };
    promise(found == name_of(layout, seed), || format!("{when}, the header of ANOTHER BLOCK was called a success: {found}"))
}
