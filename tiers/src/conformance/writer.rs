//! A writer that is killed: what it does, and the words in which it tells of it before.
//!
//! It runs in a process of its own, tells of every write before it starts it and after it was acknowledged, and goes on until
//! somebody kills it.

use super::blocks::{layout_of, mixed, nth_address, seal};
use crate::tier::{Tier, WriteBlock};
use kvd_block::{LayoutSpec, SlotIndex};
use kvd_shm::{Arena, Slot};
use std::io::{self, Write};
use std::sync::Arc;

/// Blocks in one request.
const BATCH: u32 = 8;

/// Blocks of 128 KiB: large enough that a kill finds some of them half on their way.
pub(super) fn layout() -> LayoutSpec {
    layout_of(65_536, 2)
}

/// What the writer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterPlan {
    /// Seed of its first block; the following ones count up.
    pub first_seed: u64,
    /// Places that it writes over and over.
    pub places: u32,
    /// Acknowledged blocks after which it is killed.
    pub kill_after: u32,
}

/// One line of the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A write of the block of `seed` to the `nth` place begins.
    Start {
        /// Where.
        nth: u32,
        /// What.
        seed: u64,
    },
    /// It was acknowledged.
    Acknowledged {
        /// Where.
        nth: u32,
        /// What.
        seed: u64,
    },
}

impl Event {
    /// As a line, without its end.
    pub fn line(&self) -> String {
        match self {
            Event::Start { nth, seed } => format!("start {nth} {seed}"),
            Event::Acknowledged { nth, seed } => format!("done {nth} {seed}"),
        }
    }

    /// Reads a line. `None` for one that was cut off.
    pub fn parse(line: &str) -> Option<Event> {
        let mut words = line.strip_suffix('.')?.split(' ');
        let (what, nth, seed) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        match what {
            "start" => Some(Event::Start { nth, seed }),
            "done" => Some(Event::Acknowledged { nth, seed }),
            _ => None,
        }
    }
}

/// Writes until it is killed, or until nobody listens any more.
pub fn run(tier: &dyn Tier, arena: &Arc<Arena>, plan: &WriterPlan, mut told: impl Write) -> io::Result<()> {
    let layout = layout();
    let mut seed = plan.first_seed;
    let mut tell = |event: Event| writeln!(told, "{}.", event.line()).and_then(|()| told.flush());
    loop {
        // Random places: a batch never holds one twice.
        let first = (mixed(plan.first_seed, seed) % u64::from(plan.places)) as u32;
        let places: Vec<(u32, u64)> = (0..BATCH.min(plan.places)).map(|at| ((first + at) % plan.places, seed + u64::from(at))).collect();
        seed += places.len() as u64;
        let mut batch = Vec::new();
        for (at, (nth, seed)) in places.iter().enumerate() {
            let slot = Slot::new(arena.clone(), SlotIndex(at as u32 * layout.slot_pages()), layout.slot_bytes());
            seal(&slot, &layout, *seed);
            batch.push(WriteBlock { slot, address: nth_address(*nth, layout.slot_pages(), tier.limits().extent_bytes) });
            tell(Event::Start { nth: *nth, seed: *seed })?;
        }
        let outcomes = tier.write(batch).wait().ok_or_else(|| io::Error::other("the tier gave a batch up"))?;
        for (outcome, (nth, seed)) in outcomes.into_iter().zip(places) {
            outcome.result.map_err(io::Error::other)?;
            tell(Event::Acknowledged { nth, seed })?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_and_a_cut_one_does_not() {
        let event = Event::Acknowledged { nth: 7, seed: 1234 };
        assert_eq!(Event::parse(&format!("{}.", event.line())), Some(event));
        assert_eq!(Event::parse("done 7 12"), None);
        assert_eq!(Event::parse("dine 7 12."), None);
    }
}
