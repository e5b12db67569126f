//! What is there after the process that wrote was killed in the middle of it.
//!
//! The kernel keeps running, so this is the crash of a daemon and not of a machine: a loss of power must be tried with a plug.

use super::blocks::name_of;
use super::stage::{Stage, Trial, Written};
use super::writer::{self, Event, WriterPlan};
use super::{Check, Group, Trouble, Verdict, broken, promise};
use std::collections::BTreeMap;

pub(super) const CHECKS: &[Check] = &[Check {
    name: "killed-writer",
    group: Group::Crash,
    promise: "After kill -9 in the middle of writes every acknowledged block is right, every other one right or known as corrupt.",
    try_it: killed_writer,
}];

const ROUNDS: u32 = 5;

/// What the writer told of one place.
#[derive(Debug, Default, Clone, Copy)]
struct Place {
    acknowledged: Option<u64>,
    started: Option<u64>,
}

fn killed_writer(stage: &Stage<'_>) -> Verdict {
    if !stage.medium.keeps_blocks() {
        return Err(Trouble::CannotTry("this target keeps nothing when it is closed".into()));
    }
    let room = stage.open_for(writer::layout())?.room();
    let (mut blocks, mut under_way, mut torn) = (0, 0, 0);
    for round in 0..ROUNDS {
        let first_seed = (0..4096).map(|_| stage.seed()).next_back().unwrap_or(0);
        let plan = WriterPlan { first_seed: first_seed << 1, places: room.min(48), kill_after: 20 + 37 * round };
        let killed = stage.medium.kill_writer(&plan).map_err(Trouble::CannotTry)?;
        let mut places: BTreeMap<u32, Place> = BTreeMap::new();
        for event in killed.events {
            match event {
                Event::Start { nth, seed } => places.entry(nth).or_default().started = Some(seed),
                Event::Acknowledged { nth, seed } => places.entry(nth).or_default().acknowledged = Some(seed),
            }
        }
        promise(places.values().any(|place| place.acknowledged.is_some()), || "the writer acknowledged nothing before its end".into())?;
        let trial = stage.open_for(writer::layout())?;
        for (nth, place) in places {
            blocks += 1;
            under_way += u32::from(place.acknowledged != place.started);
            torn += u32::from(!judge(&trial, nth, place)?);
        }
    }
    Ok(format!("{ROUNDS} kills, {blocks} blocks, {under_way} under way when it happened, {torn} of them corrupt"))
}

/// True when a whole block is there.
fn judge(trial: &Trial<'_>, nth: u32, place: Place) -> Result<bool, Trouble> {
    let block = |seed| Written { nth, seed, name: name_of(&trial.layout, seed) };
    match place {
        Place { acknowledged: Some(done), started: Some(started) } if done == started => {
            trial.expect(&block(done), "after its writer was killed").map(|()| true)
        }
        Place { acknowledged, started } => {
            let mut there = 0;
            for seed in [acknowledged, started].into_iter().flatten() {
                there += u32::from(trial.right_or_corrupt(&block(seed), "after its writer was killed")?);
            }
            if there > 1 { broken("two blocks were given out from one place") } else { Ok(there == 1) }
        }
    }
}
