//! What is there after the medium was closed and opened again.

use super::stage::{Stage, Written};
use super::{Check, Group, Trouble, Verdict, broken, promise};
use std::collections::HashSet;

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "reopen",
        group: Group::Durability,
        promise: "After a close and an open every acknowledged block is there, and no overwritten or erased one.",
        try_it: reopen,
    },
    Check {
        name: "find-by-headers",
        group: Group::Durability,
        promise: "With the catalog lost, a pass over the headers finds every block that is there and no other.",
        try_it: find_by_headers,
    },
];

const BLOCKS: u32 = 48;

/// Blocks that are there, and blocks that were overwritten or erased.
fn written(stage: &Stage<'_>) -> Result<(Vec<Written>, Vec<Written>), Trouble> {
    if !stage.medium.keeps_blocks() {
        return Err(Trouble::CannotTry("this target keeps nothing when it is closed".into()));
    }
    let trial = stage.open()?;
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    for nth in 0..BLOCKS.min(trial.room()) {
        let block = trial.write(nth)?;
        match nth % 4 {
            1 => {
                gone.push(block);
                there.push(trial.write(nth)?);
            }
            2 => {
                let erased = trial.tier().erase(vec![trial.address(nth)]).wait();
                promise(matches!(erased.as_deref(), Some([Ok(())])), || format!("an erase was answered by {erased:?}"))?;
                gone.push(block);
            }
            _ => there.push(block),
        }
    }
    Ok((there, gone))
}

fn reopen(stage: &Stage<'_>) -> Verdict {
    let (there, gone) = written(stage)?;
    for time in 1..=2 {
        let trial = stage.open()?;
        there.iter().try_for_each(|block| trial.expect(block, &format!("after it was closed and opened {time} times")))?;
        gone.iter().try_for_each(|block| trial.expect_corrupt(block.nth, block.name, "for a block that was gone before the close"))?;
    }
    Ok(format!("{} blocks", there.len()))
}

fn find_by_headers(stage: &Stage<'_>) -> Verdict {
    let (there, gone) = written(stage)?;
    let found = match stage.medium.scan() {
        None => return Err(Trouble::CannotTry("this target has no headers to look for".into())),
        Some(Err(why)) => return broken(format!("the pass failed: {why}")),
        Some(Ok(found)) => found,
    };
    let found: HashSet<_> = found.into_iter().map(|image| image.header.hash).collect();
    let missing = there.iter().filter(|block| !found.contains(&block.name.hash)).count();
    promise(missing == 0, || format!("{missing} of {} blocks were not found", there.len()))?;
    let risen = gone.iter().filter(|block| found.contains(&block.name.hash)).count();
    promise(risen == 0, || format!("{risen} overwritten or erased blocks were found"))?;
    Ok(format!("{} blocks", there.len()))
}
