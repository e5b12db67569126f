//! What is answered when more is asked than fits: never a wait without end, never a lost request.

use super::blocks::{layout_of, sample_layout, seal};
use super::stage::{Stage, Trial, same_bytes};
use super::{Check, Group, Verdict, broken, promise};
use crate::error::TierError;
use crate::tier::{ReadBlock, WriteBlock};
use std::time::{Duration, Instant};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "too-many-at-once",
        group: Group::Limits,
        promise: "Of more blocks than the queue takes, the rest is answered as busy at once and the others are written.",
        try_it: too_many_at_once,
    },
    Check {
        name: "full-queue",
        group: Group::Limits,
        promise: "With the queue kept full by reads and writes every request is answered, and with the right bytes.",
        try_it: full_queue,
    },
];

fn too_many_at_once(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let most = trial.limits().max_inflight_blocks;
    let block = |nth: u32| {
        let slot = trial.slot(nth);
        seal(&slot, &trial.layout, trial.seed());
        WriteBlock { slot, address: trial.address(nth) }
    };
    let batch: Vec<WriteBlock> = (0..most as u32 + 3).map(block).collect();
    let Some(outcomes) = trial.tier().write(batch).wait() else { return broken("the batch was never answered") };
    let busy = outcomes.iter().filter(|outcome| matches!(outcome.result, Err(TierError::Busy { .. }))).count();
    let done = outcomes.iter().filter(|outcome| outcome.result.is_ok()).count();
    promise((done, busy) == (most, 3), || {
        format!("of {} blocks, with room for {most}, {done} were written and {busy} were busy", most + 3)
    })?;
    let after = trial.write(0)?;
    trial.expect(&after, "after the queue was full")?;
    Ok(format!("{most} blocks at once"))
}

/// Rounds of a batch as large as the queue.
const ROUNDS: u64 = 8;

fn full_queue(stage: &Stage<'_>) -> Verdict {
    let mut notes = Vec::new();
    for layout in [sample_layout(), layout_of(262_144, 4)] {
        let trial = stage.open_for(layout)?;
        let slot_bytes = trial.layout.slot_bytes();
        let fitting = [trial.limits().max_inflight_blocks as u64, u64::from(trial.room()), trial.arena().bytes() / slot_bytes];
        let most = fitting.into_iter().min().unwrap_or(0);
        if most == 0 {
            continue;
        }
        let mut longest = Duration::ZERO;
        for round in 0..ROUNDS {
            let started = Instant::now();
            let seeds: Vec<u64> = (0..most).map(|_| trial.seed()).collect();
            write_all(&trial, &seeds)?;
            read_all(&trial, &seeds, round)?;
            longest = longest.max(started.elapsed());
        }
        notes.push(format!("{} × {slot_bytes} bytes, longest round {:.1} ms", most * ROUNDS, longest.as_secs_f64() * 1e3));
    }
    Ok(notes.join("; "))
}

fn write_all(trial: &Trial<'_>, seeds: &[u64]) -> Result<(), super::Trouble> {
    let batch = seeds.iter().zip(0..).map(|(seed, nth)| {
        let slot = trial.slot(nth);
        seal(&slot, &trial.layout, *seed);
        WriteBlock { slot, address: trial.address(nth) }
    });
    let Some(outcomes) = trial.tier().write(batch.collect()).wait() else { return broken("a batch of writes was never answered") };
    match outcomes.into_iter().find_map(|outcome| outcome.result.err()) {
        Some(error) => broken(format!("a write that fits the queue failed: {error}")),
        None => Ok(()),
    }
}

fn read_all(trial: &Trial<'_>, seeds: &[u64], round: u64) -> Result<(), super::Trouble> {
    let empty = vec![0; trial.layout.payload_bytes() as usize];
    let batch = seeds.iter().zip(0..).map(|(seed, nth)| {
        let slot = trial.slot(nth);
        slot.write_at(kvd_block::HEADER_BYTES, &empty);
        ReadBlock { slot, address: trial.address(nth), name: super::blocks::name_of(&trial.layout, *seed) }
    });
    let Some(outcomes) = trial.tier().read(batch.collect()).wait() else { return broken("a batch of reads was never answered") };
    for (outcome, seed) in outcomes.into_iter().zip(seeds) {
        match outcome.result {
            Ok(()) => same_bytes(&outcome.slot, &trial.layout, *seed, &format!("in round {round} of a full queue"))?,
            Err(error) => return broken(format!("a block that was just written cannot be read: {error}")),
        }
    }
    Ok(())
}
