//! The contract of a tier as a suite of named checks: whatever implements [`Tier`] must pass [`run`], and a storage vendor runs
//! the same checks, and more, against a medium.
//!
//! A check never panics and never stops the suite: it gives a [`Verdict`]. The checks write over whatever the medium holds.
//! A check that needs something the medium does not offer says so and is skipped; it never passes for that reason.

mod basics;
mod blocks;
mod concurrency;
mod crash;
mod data;
mod durability;
mod faults;
mod full;
mod limits;
mod stage;
pub mod writer;

pub use blocks::{nth_address, sample_layout, seal};
pub use stage::{Killed, Medium, Opened, Raw, Stage};
pub use writer::{Event, WriterPlan};

use crate::tier::Tier;
use kvd_block::SlotIndex;
use kvd_shm::Arena;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Slots of the arena and of the tier that the basic checks use, besides one for each block that the tier allows in flight.
pub const SLOTS: u32 = 16;
/// Bytes of arena that every check has room in, with [`WIDEST_PAYLOAD_BYTES`].
pub const ARENA_BYTES: u64 = 96 << 20;
/// Largest payload that the checks of data write.
pub const WIDEST_PAYLOAD_BYTES: u64 = 16 << 20;

/// Flips a bit of the byte at an offset inside the image at an address of the medium, behind the tier's back.
pub type FlipBit<'a> = &'a (dyn Fn(SlotIndex, u64) + Sync);

/// What a check belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// The contract, one promise at a time.
    Basics,
    /// What is answered when more is asked than fits.
    Limits,
    /// Many at once.
    Concurrency,
    /// What is in the blocks, and how large they are.
    Data,
    /// What is there after the medium was closed.
    Durability,
    /// What is there after the writer was killed.
    Crash,
    /// What is made of a medium that fails.
    Faults,
}

impl Group {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Group::Basics => "basics",
            Group::Limits => "limits",
            Group::Concurrency => "concurrency",
            Group::Data => "data",
            Group::Durability => "durability",
            Group::Crash => "crash",
            Group::Faults => "faults",
        }
    }
}

/// One promise, and how it is tried.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its name, unique in the suite.
    pub name: &'static str,
    /// What it belongs to.
    pub group: Group,
    /// What is promised, in words of storage.
    pub promise: &'static str,
    pub(crate) try_it: fn(&Stage<'_>) -> Verdict,
}

/// What a check without a failure may add, such as the longest answer; often empty.
pub type Verdict = Result<String, Trouble>;

/// Why a check has not passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The promise was broken: what was expected and what was found.
    Broken(String),
    /// The check could not be made here: why.
    CannotTry(String),
}

/// What became of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The promise was kept; with a remark, which may be empty.
    Passed {
        /// A measured value, or nothing.
        note: String,
    },
    /// The promise was broken.
    Failed {
        /// What was expected and what was found.
        why: String,
    },
    /// Not tried.
    Skipped {
        /// What is missing.
        why: String,
    },
}

/// A check that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub name: &'static str,
    /// What it promises.
    pub promise: &'static str,
    /// What became of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// Every check, in the order in which they are best made: the simplest first, those that damage the medium last.
pub fn checks() -> Vec<Check> {
    [basics::CHECKS, limits::CHECKS, data::CHECKS, concurrency::CHECKS, durability::CHECKS, crash::CHECKS, faults::CHECKS, full::CHECKS]
        .concat()
}

impl Check {
    /// Makes the check on this thread. A target that never answers holds it for ever: whoever must not be held uses a thread.
    pub fn run(&self, stage: &Stage<'_>) -> Finding {
        let started = Instant::now();
        let outcome = match (self.try_it)(stage) {
            Ok(note) => Outcome::Passed { note },
            Err(Trouble::Broken(why)) => Outcome::Failed { why },
            Err(Trouble::CannotTry(why)) => Outcome::Skipped { why },
        };
        Finding { name: self.name, promise: self.promise, outcome, took: started.elapsed() }
    }
}

/// A broken promise.
pub(crate) fn broken<T>(why: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Broken(why.into()))
}

/// Refuses with `why` unless `kept`.
pub(crate) fn promise(kept: bool, why: impl FnOnce() -> String) -> Result<(), Trouble> {
    if kept { Ok(()) } else { Err(Trouble::Broken(why())) }
}

/// Makes every check of basics, limits and concurrency on a tier, and the check of flipped bits where `flip_bit` can.
///
/// For tests of tiers. `arena` must have room for `limits().max_inflight_blocks +` [`SLOTS`] slots of [`sample_layout`], and
/// the tier for as many.
///
/// # Panics
/// At the first broken promise, naming it.
pub fn run(tier: &dyn Tier, arena: &Arc<Arena>, flip_bit: Option<FlipBit<'_>>) {
    let medium = stage::Given { tier, flip_bit };
    let stage = Stage::new(&medium, arena.clone());
    for check in checks() {
        if let Outcome::Failed { why } = check.run(&stage).outcome {
            panic!("{}: {} {why}", check.name, check.promise);
        }
    }
}
