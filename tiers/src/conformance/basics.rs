//! The contract of a tier, one promise at a time, on a target at rest.

use super::blocks::{layout_of, name_of, seal};
use super::stage::Stage;
use super::{Check, Group, Verdict, broken, promise};
use crate::error::TierError;
use crate::tier::{BlockName, ReadBlock, WriteBlock};
use kvd_block::{PAGE_BYTES, SequenceHash, SlotIndex};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Far longer than any healthy device needs.
const PATIENCE: Duration = Duration::from_secs(10);

const fn check(name: &'static str, promise: &'static str, try_it: fn(&Stage<'_>) -> Verdict) -> Check {
    Check { name, group: Group::Basics, promise, try_it }
}

pub(super) const CHECKS: &[Check] = &[
    check("empty-batch", "A request for nothing is answered.", empty_batch),
    check("never-written", "Space that was never written is not mistaken for a block.", never_written),
    check("same-bytes", "What is read is what was written, to the last byte.", the_same_bytes),
    check("other-name", "A read that asks for another block than the one there is refused.", other_name),
    check("overwrite", "After an overwrite only the newer block is there.", overwrite),
    check("erase", "An erased block cannot be read, and its neighbour can.", erase),
    check("bad-block-in-batch", "One bad block does not spoil the others of its batch.", bad_block_in_batch),
    check("bad-address", "A write outside the space for blocks is refused.", bad_address),
    check("unwatched-write", "A write that nobody waits for is done, and its memory is given back.", unwatched_write),
];

fn empty_batch(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let tier = trial.tier();
    let answers = [
        ("write", tier.write(Vec::new()).wait().map(|outcomes| outcomes.len())),
        ("read", tier.read(Vec::new()).wait().map(|outcomes| outcomes.len())),
        ("erase", tier.erase(Vec::new()).wait().map(|outcomes| outcomes.len())),
    ];
    for (what, answer) in answers {
        promise(answer == Some(0), || format!("a {what} of nothing was answered by {answer:?} outcomes"))?;
    }
    Ok(String::new())
}

fn never_written(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let name = BlockName { layout: trial.layout.id(), hash: SequenceHash([0x77; 16]) };
    trial.expect_corrupt(trial.room() - 1, name, "at an address that was never written")?;
    Ok(String::new())
}

fn the_same_bytes(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let block = trial.write(0)?;
    trial.expect(&block, "right after its write")?;
    let (slot, _) = trial.read(0, block.name)?;
    promise(slot.index() == trial.slot(0).index(), || "a read gave back other memory than it was given".into())?;
    Ok(String::new())
}

fn other_name(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let block = trial.write(1)?;
    let other_hash = BlockName { hash: SequenceHash([0x78; 16]), ..block.name };
    trial.expect_corrupt(1, other_hash, "for a block that is not there")?;
    let other_layout = BlockName { layout: layout_of(6001, 2).id(), ..block.name };
    trial.expect_corrupt(1, other_layout, "for the same block of another layout")?;
    trial.expect(&block, "after reads for other blocks")?;
    Ok(String::new())
}

fn overwrite(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let (older, newer) = (trial.write(2)?, trial.write(2)?);
    trial.expect_corrupt(2, older.name, "for the block that was overwritten")?;
    trial.expect(&newer, "after an overwrite")?;
    Ok(String::new())
}

fn erase(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let (erased, kept) = (trial.write(3)?, trial.write(4)?);
    let outcome = trial.tier().erase(vec![trial.address(3)]).wait();
    promise(matches!(outcome.as_deref(), Some([Ok(())])), || format!("an erase was answered by {outcome:?}"))?;
    trial.expect_corrupt(3, erased.name, "after its erase")?;
    trial.expect(&kept, "after the erase of its neighbour")?;
    Ok(String::new())
}

fn bad_block_in_batch(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let names = [trial.write(5)?.name, name_of(&trial.layout, trial.seed()), trial.write(7)?.name];
    trial.write(6)?;
    let block = |(nth, name)| ReadBlock { slot: trial.slot(nth), address: trial.address(nth), name };
    let asked = [(5, names[0]), (6, names[1]), (7, names[2])];
    let Some(outcomes) = trial.tier().read(asked.map(block).into()).wait() else { return broken("the batch was never answered") };
    let good: Vec<bool> = outcomes.iter().map(|outcome| outcome.result.is_ok()).collect();
    promise(good == [true, false, true], || format!("good, bad and good blocks were answered as {good:?}"))?;
    let slots: Vec<SlotIndex> = outcomes.iter().map(|outcome| outcome.slot.index()).collect();
    promise(slots == [5, 6, 7].map(|nth| trial.slot(nth).index()), || "outcomes came back with each other's memory".into())?;
    Ok(String::new())
}

fn bad_address(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let limits = trial.limits();
    let extent_pages = (limits.extent_bytes / PAGE_BYTES) as u32;
    let beyond = SlotIndex((limits.capacity_bytes / PAGE_BYTES) as u32 + 1);
    for address in [SlotIndex(0), SlotIndex(extent_pages), SlotIndex(extent_pages - 1), beyond] {
        let slot = trial.slot(0);
        seal(&slot, &trial.layout, trial.seed());
        promise(trial.write_slot(slot, address)?.is_err(), || format!("a write to page {address}, which is no slot, was taken"))?;
    }
    Ok(String::new())
}

fn unwatched_write(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let held = Arc::strong_count(trial.arena());
    let (slot, seed) = (trial.slot(8), trial.seed());
    let name = seal(&slot, &trial.layout, seed);
    drop(trial.tier().write(vec![WriteBlock { slot, address: trial.address(8) }]));
    let deadline = Instant::now() + PATIENCE;
    while Arc::strong_count(trial.arena()) > held {
        promise(Instant::now() < deadline, || format!("the memory of a write is still held after {} s", PATIENCE.as_secs()))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    match trial.read(8, name)?.1 {
        Ok(()) => Ok(String::new()),
        Err(error @ TierError::Corrupt { .. }) => broken(format!("a write that nobody waited for was not done: {error}")),
        Err(error) => broken(format!("the read after it failed: {error}")),
    }
}
