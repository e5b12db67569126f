//! Many threads at once, judged by what each of them knows it wrote.

use super::blocks::{mixed, name_of, seal};
use super::stage::{Stage, Trial, same_bytes};
use super::{Check, Group, Trouble, Verdict, broken, promise};
use crate::error::TierError;
use crate::tier::{ReadBlock, WriteBlock};
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "many-writers",
        group: Group::Concurrency,
        promise: "Under random reads, writes and erases by many threads each block is what its last writer made it.",
        try_it: many_writers,
    },
    Check {
        name: "same-place",
        group: Group::Concurrency,
        promise: "Two writers and a reader at one place at once leave one of the blocks, or none, and never a mixture.",
        try_it: same_place,
    },
];

const THREADS: u32 = 4;
/// Blocks of one request.
const BATCH: u32 = 4;
const STEPS: u64 = 250;

fn many_writers(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let places = trial.room().min(192) / THREADS;
    let (busy, moved) = (AtomicU64::new(0), AtomicU64::new(0));
    let results: Vec<Result<(), Trouble>> = std::thread::scope(|scope| {
        let run = |thread| {
            let mut oracle = Oracle { trial: &trial, thread, places: vec![Place::default(); places as usize], busy: &busy, moved: &moved };
            scope.spawn(move || oracle.run())
        };
        let threads: Vec<_> = (0..THREADS).map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| broken("a thread of the check panicked"))).collect()
    });
    results.into_iter().collect::<Result<Vec<()>, _>>()?;
    Ok(format!("{} transfers, {} busy", moved.into_inner(), busy.into_inner()))
}

/// What was written last, if anything, and whether it is still there or was erased.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    seed: Option<u64>,
    there: bool,
}

/// What one thread knows of the places that only it writes: every fourth of the medium, so that neighbours belong to others.
struct Oracle<'a> {
    trial: &'a Trial<'a>,
    thread: u32,
    places: Vec<Place>,
    busy: &'a AtomicU64,
    moved: &'a AtomicU64,
}

impl Oracle<'_> {
    fn run(&mut self) -> Result<(), Trouble> {
        for step in 0..STEPS {
            let random = mixed(u64::from(self.thread) + 1, step);
            let first = (random >> 8) as usize % self.places.len();
            let count = (1 + (random >> 40) as usize % BATCH as usize).min(self.places.len() - first);
            match random % 8 {
                0..4 => self.write(first..first + count)?,
                4..7 => self.read(first..first + count)?,
                _ => self.erase(first)?,
            }
        }
        let count = self.places.len();
        (0..count).try_for_each(|place| self.read(place..place + 1))
    }

    fn nth(&self, place: usize) -> u32 {
        place as u32 * THREADS + self.thread
    }

    /// Each thread has its own memory.
    fn slot(&self, of_batch: usize) -> kvd_shm::Slot {
        self.trial.slot(self.thread * BATCH + of_batch as u32)
    }

    fn write(&mut self, places: std::ops::Range<usize>) -> Result<(), Trouble> {
        let seeds: Vec<u64> = places.clone().map(|_| self.trial.seed()).collect();
        let block = |(at, place): (usize, usize)| {
            let slot = self.slot(at);
            seal(&slot, &self.trial.layout, seeds[at]);
            WriteBlock { slot, address: self.trial.address(self.nth(place)) }
        };
        let batch = places.clone().enumerate().map(block).collect();
        let Some(outcomes) = self.trial.tier().write(batch).wait() else { return broken("a batch of writes was never answered") };
        for ((outcome, place), seed) in outcomes.into_iter().zip(places).zip(seeds) {
            match outcome.result {
                Ok(()) => self.places[place] = Place { seed: Some(seed), there: true },
                // Busy means that nothing was done: the block before must still be there.
                Err(TierError::Busy { .. }) => self.count_busy(),
                Err(error) => return broken(format!("a write failed: {error}")),
            }
        }
        Ok(())
    }

    fn read(&self, places: std::ops::Range<usize>) -> Result<(), Trouble> {
        // An erased block is asked for by its old name: it must not come back.
        let wanted = |place: usize| self.places[place].seed.unwrap_or(u64::MAX);
        let block = |(at, place): (usize, usize)| ReadBlock {
            slot: self.slot(at),
            address: self.trial.address(self.nth(place)),
            name: name_of(&self.trial.layout, wanted(place)),
        };
        let batch = places.clone().enumerate().map(block).collect();
        let Some(outcomes) = self.trial.tier().read(batch).wait() else { return broken("a batch of reads was never answered") };
        for (outcome, place) in outcomes.into_iter().zip(places) {
            let Place { there, .. } = self.places[place];
            match outcome.result {
                Ok(()) if there => same_bytes(&outcome.slot, &self.trial.layout, wanted(place), "under load")?,
                Ok(()) => return broken("under load, a block that was erased was given out"),
                Err(TierError::Busy { .. }) => self.count_busy(),
                Err(TierError::Corrupt { .. }) if !there => {}
                Err(error) if there => return broken(format!("under load, an acknowledged block cannot be read: {error}")),
                Err(error) => return broken(format!("under load, the read of an erased place failed otherwise: {error}")),
            }
        }
        self.moved.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn erase(&mut self, place: usize) -> Result<(), Trouble> {
        let outcome = self.trial.tier().erase(vec![self.trial.address(self.nth(place))]).wait();
        match outcome.as_deref() {
            Some([Ok(())]) => self.places[place].there = false,
            Some([Err(TierError::Busy { .. })]) => self.count_busy(),
            other => return broken(format!("an erase was answered by {other:?}")),
        }
        Ok(())
    }

    fn count_busy(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }
}

/// Rounds of two writers at one place.
const RACES: u32 = 40;

fn same_place(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let mut mixtures = 0;
    for race in 0..RACES {
        let nth = race % trial.room().min(8);
        let seeds = [trial.seed(), trial.seed()];
        let names = seeds.map(|seed| name_of(&trial.layout, seed));
        let batch = seeds.iter().zip(0..).map(|(seed, slot)| {
            let slot = trial.slot(slot);
            seal(&slot, &trial.layout, *seed);
            WriteBlock { slot, address: trial.address(nth) }
        });
        let writing = trial.tier().write(batch.collect());
        let (slot, result) = trial.read_slot(trial.slot(2), trial.address(nth), names[0])?;
        if result.is_ok() {
            same_bytes(&slot, &trial.layout, seeds[0], "while it is overwritten")?;
        }
        promise(writing.wait().is_some(), || "two writes at one place were never answered".into())?;
        let mut there = 0;
        for (seed, name) in seeds.into_iter().zip(names) {
            let (slot, result) = trial.read_slot(trial.slot(2), trial.address(nth), name)?;
            if result.is_ok() {
                same_bytes(&slot, &trial.layout, seed, "after two writes at one place")?;
                there += 1;
            }
        }
        promise(there < 2, || "two blocks were given out from one place".into())?;
        mixtures += u32::from(there == 0);
    }
    Ok(format!("{RACES} races, {mixtures} found out as mixtures"))
}
