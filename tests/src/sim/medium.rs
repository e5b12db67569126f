//! The simulated NVMe: images move page by page, in any order, and every way in which that goes wrong.
//!
//! A write that its daemon did not live to see may land later, over a newer image. Pages that changed behind the back of the
//! daemon in charge are *wild*: only with wild or rotten pages may a read of a known image fail.

use crate::sim::bytes::{Page, Shape, is_image_of};
use crate::sim::coverage::{Coverage, Situation};
use crate::sim::dice::Dice;
use kvd_block::{BlockKey, LayoutHandle, OpId, SequenceHash, SlotIndex};
use kvd_ledger::{Input, ReadResult, Transfer, WriteResult};
use std::collections::{BTreeMap, VecDeque};

/// Pages that a device may hold in a volatile cache.
const VOLATILE_PAGES: usize = 24;

/// How the device behaves for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Nearly everything works.
    Well,
    /// Writes fail: no room.
    Full,
    /// Everything takes long.
    Stalled,
    /// Everything fails often.
    Flaky,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Good,
    Busy,
    /// Fails after this many pages.
    FailsAfter(u32),
    /// Ends after this many pages; a read of that kind is told to be corrupt.
    ShortAfter(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Read,
    Erase,
}

#[derive(Debug, Clone)]
struct Job {
    /// The life of the daemon that started it.
    life: u64,
    kind: Kind,
    transfer: Transfer,
    shape: Shape,
    full: bool,
    fate: Fate,
    moved: u32,
    first: u32,
    /// Images of a write whose daemon has died.
    orphan: Option<Vec<Page>>,
}

/// What a job needs next.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More time.
    Again(u64),
    /// Tell a daemon.
    Done {
        /// How late.
        late: u64,
        /// What.
        input: Input,
        /// How often.
        times: u64,
        /// Whom.
        life: u64,
        /// Only part of the image was moved, and the disk may have all of it.
        short: bool,
    },
    /// Nothing: it is over.
    Gone,
}

/// The device.
#[derive(Debug)]
pub struct Medium {
    pages: Vec<Page>,
    wild: Vec<bool>,
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
    /// Pages written last: a power cut may spoil them.
    recent: VecDeque<usize>,
    /// How it behaves.
    pub mood: Mood,
    /// What happened to it.
    pub coverage: Coverage,
}

impl Medium {
    /// A blank device.
    pub fn new(pages: usize) -> Medium {
        Medium {
            pages: vec![Page::Blank; pages],
            wild: vec![false; pages],
            jobs: BTreeMap::new(),
            next_job: 0,
            recent: VecDeque::new(),
            mood: Mood::Well,
            coverage: Coverage::default(),
        }
    }

    /// Starts a write; returns the job's name.
    pub fn write(&mut self, life: u64, transfer: Transfer, shape: Shape, dice: &mut Dice) -> u64 {
        self.start(life, Kind::Write, transfer, shape, dice)
    }

    /// Starts a read; returns the job's name.
    pub fn read(&mut self, life: u64, transfer: Transfer, shape: Shape, dice: &mut Dice) -> u64 {
        self.start(life, Kind::Read, transfer, shape, dice)
    }

    /// Starts to overwrite the header of an image; returns the job's name.
    pub fn erase(&mut self, life: u64, op: OpId, address: SlotIndex, dice: &mut Dice) -> u64 {
        let key = BlockKey { layout: LayoutHandle(0), hash: SequenceHash::ROOT };
        let transfer = Transfer { op, key, slot: SlotIndex(0), pages: 1, address };
        self.start(life, Kind::Erase, transfer, Shape { ranks: 0, stripe_pages: 0 }, dice)
    }

    /// True when an image is being written, read or erased, as asked.
    pub fn is_busy(&self) -> [bool; 3] {
        [Kind::Write, Kind::Read, Kind::Erase].map(|kind| self.jobs.values().any(|job| job.kind == kind && job.orphan.is_none()))
    }

    fn start(&mut self, life: u64, kind: Kind, transfer: Transfer, shape: Shape, dice: &mut Dice) -> u64 {
        let (busy, failing) = match (self.mood, kind) {
            (Mood::Well | Mood::Stalled, _) => (3, 2),
            (Mood::Full, Kind::Write) => (0, 100),
            (Mood::Full, Kind::Read | Kind::Erase) => (3, 2),
            (Mood::Flaky, _) => (20, 30),
        };
        let short = if kind == Kind::Read { failing.min(10) } else { 0 };
        let fate = match () {
            _ if dice.chance(busy) => Fate::Busy,
            _ if dice.chance(short) => Fate::ShortAfter(dice.below(u64::from(transfer.pages)) as u32),
            _ if dice.chance(failing) => Fate::FailsAfter(dice.below(u64::from(transfer.pages)) as u32),
            _ => Fate::Good,
        };
        self.next_job += 1;
        let first = dice.below(u64::from(transfer.pages)) as u32;
        let full = self.mood == Mood::Full;
        self.jobs.insert(self.next_job, Job { life, kind, transfer, shape, full, fate, moved: 0, first, orphan: None });
        self.next_job
    }

    /// What a job moves.
    pub fn transfer(&self, name: u64) -> Option<Transfer> {
        self.jobs.get(&name).map(|job| job.transfer)
    }

    /// Moves the next pages of a job. `arena` is that of the daemon in charge.
    pub fn advance(&mut self, name: u64, arena: &mut [Page], dice: &mut Dice) -> Progress {
        let Some(mut job) = self.jobs.remove(&name) else { return Progress::Gone };
        let last = match job.fate {
            Fate::Good => job.transfer.pages,
            Fate::Busy => 0,
            Fate::FailsAfter(pages) | Fate::ShortAfter(pages) => pages,
        };
        for _ in 0..dice.range(1, 3).min(u64::from(last - job.moved)) {
            self.move_page(&job, arena);
            job.moved += 1;
        }
        if job.moved < last {
            self.jobs.insert(name, job);
            return Progress::Again(self.pause(dice));
        }
        if job.orphan.is_some() {
            self.coverage.met(Situation::WriteOutlivedDaemon);
            return Progress::Gone;
        }
        let late = if dice.chance(10) { dice.range(5, 60) } else { 0 };
        let times = 1 + u64::from(dice.chance(5));
        let input = self.result(&job, arena);
        self.count(&job, &input, late, times);
        Progress::Done { late, input, times, life: job.life, short: matches!(job.fate, Fate::ShortAfter(_)) }
    }

    fn count(&mut self, job: &Job, input: &Input, late: u64, times: u64) {
        let met = match (input, job.fate) {
            (_, Fate::Busy) => Some(Situation::TierBusy),
            (_, Fate::ShortAfter(_)) => Some(Situation::ShortRead),
            (Input::ReadDone { result: ReadResult::Failed, .. }, _) => Some(Situation::FailedRead),
            (Input::ReadDone { result: ReadResult::Corrupt, .. }, _) => Some(Situation::CorruptRead),
            (Input::WriteDone { result: WriteResult::Failed, .. }, _) if job.full => Some(Situation::DiskFull),
            (Input::WriteDone { result: WriteResult::Failed, .. }, _) => Some(Situation::FailedWrite),
            (Input::EraseDone { result: WriteResult::Failed, .. }, _) => Some(Situation::FailedErase),
            _ => None,
        };
        let told_late = (late > 0).then_some(Situation::LateCompletion);
        let told_twice = (times > 1).then_some(Situation::DuplicateCompletion);
        [met, told_late, told_twice].into_iter().flatten().for_each(|situation| self.coverage.met(situation));
    }

    fn move_page(&mut self, job: &Job, arena: &mut [Page]) {
        let at = (job.first + job.moved) % job.transfer.pages;
        let (slot, address) = ((job.transfer.slot.0 + at) as usize, (job.transfer.address.0 + at) as usize);
        if job.kind != Kind::Read {
            self.recent.push_back(address);
            self.recent.drain(..self.recent.len().saturating_sub(VOLATILE_PAGES));
        }
        match (job.kind, &job.orphan) {
            (Kind::Write, None) => (self.pages[address], self.wild[address]) = (arena[slot].clone(), false),
            (Kind::Write, Some(image)) => (self.pages[address], self.wild[address]) = (image[at as usize].clone(), true),
            (Kind::Erase, orphan) => (self.pages[address], self.wild[address]) = (Page::Blank, orphan.is_some()),
            (Kind::Read, _) => arena[slot] = self.pages[address].clone(),
        }
    }

    fn result(&self, job: &Job, arena: &[Page]) -> Input {
        let op = job.transfer.op;
        let slot = job.transfer.slot.0 as usize;
        let image = &arena[slot..slot + job.transfer.pages as usize];
        let written = match job.fate {
            Fate::Good => WriteResult::Written,
            Fate::Busy => WriteResult::Busy,
            Fate::FailsAfter(_) | Fate::ShortAfter(_) => WriteResult::Failed,
        };
        match (job.kind, job.fate) {
            (Kind::Write, _) => Input::WriteDone { op, result: written },
            (Kind::Erase, _) => Input::EraseDone { op, result: written },
            (Kind::Read, Fate::Good) if is_image_of(image, job.transfer.key, job.shape) => Input::ReadDone { op, result: ReadResult::Read },
            (Kind::Read, Fate::Good | Fate::ShortAfter(_)) => Input::ReadDone { op, result: ReadResult::Corrupt },
            (Kind::Read, Fate::Busy) => Input::ReadDone { op, result: ReadResult::Busy },
            (Kind::Read, Fate::FailsAfter(_)) => Input::ReadDone { op, result: ReadResult::Failed },
        }
    }

    /// Milliseconds until a job moves on.
    pub fn pause(&self, dice: &mut Dice) -> u64 {
        if self.mood == Mood::Stalled { dice.range(20, 200) } else { dice.below(4) }
    }

    /// Spoils one page.
    pub fn rot(&mut self, dice: &mut Dice) {
        let at = dice.below(self.pages.len() as u64) as usize;
        self.pages[at] = Page::Noise(dice.bits());
    }

    /// The daemon died: reads end, writes stop where they are or go on without it. `power` also spoils pages just written.
    pub fn crash(&mut self, arena: &[Page], power: bool, dice: &mut Dice) {
        let under_way = [Situation::CrashWhileWriting, Situation::CrashWhileReading, Situation::EraseLostInCrash];
        under_way.into_iter().zip(self.is_busy()).filter(|(_, busy)| *busy).for_each(|(situation, _)| self.coverage.met(situation));
        for page in std::mem::take(&mut self.recent).into_iter().filter(|_| power) {
            if dice.chance(30) {
                self.pages[page] = Page::Noise(dice.bits());
            }
        }
        let jobs = std::mem::take(&mut self.jobs);
        for (name, mut job) in jobs.into_iter().filter(|(_, job)| job.kind != Kind::Read && !power) {
            if dice.chance(50) {
                let slot = job.transfer.slot.0 as usize;
                job.orphan.get_or_insert_with(|| arena[slot..slot + job.transfer.pages as usize].to_vec());
                self.jobs.insert(name, job);
            }
        }
    }

    /// Ends all I/O, as closing a device in order does. Nobody is told.
    pub fn end_all(&mut self, arena: &mut [Page], dice: &mut Dice) {
        while let Some(name) = self.jobs.keys().next().copied() {
            self.advance(name, arena, dice);
        }
    }

    /// Every header that can be found, with its address, lowest first, and its generation.
    pub fn scan(&self) -> Vec<(kvd_ledger::CatalogRow, u64)> {
        let header = |(at, page): (usize, &Page)| match page {
            Page::Header(header) => Some((kvd_ledger::CatalogRow { address: SlotIndex(at as u32), ..header.row }, header.generation)),
            _ => None,
        };
        self.pages.iter().enumerate().filter_map(header).collect()
    }

    /// True when the image at `address` is `key`.
    pub fn holds(&self, address: SlotIndex, key: BlockKey, shape: Shape) -> bool {
        is_image_of(self.image(address, shape), key, shape)
    }

    /// True when rot or somebody else may have changed the image at `address`.
    pub fn is_excused(&self, address: SlotIndex, shape: Shape) -> bool {
        let at = address.0 as usize;
        let wild = self.wild[at..at + shape.slot_pages() as usize].iter().any(|wild| *wild);
        wild || self.image(address, shape).iter().any(Page::is_noise)
    }

    fn image(&self, address: SlotIndex, shape: Shape) -> &[Page] {
        let at = address.0 as usize;
        &self.pages[at..at + shape.slot_pages() as usize]
    }
}
