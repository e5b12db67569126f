//! A full filesystem: the space of the blocks was taken at once, so nothing that fills up later can hurt them.

use super::stage::Stage;
use super::{Check, Group, Trouble, Verdict, broken};
use crate::error::TierError;
use crate::nvme::OpenError;

pub(super) const CHECKS: &[Check] = &[Check {
    name: "full-disk",
    group: Group::Faults,
    promise: "On a full disk blocks are still read and written, or a write is refused as full; a second medium is refused and leaves nothing.",
    try_it: full_disk,
}];

fn full_disk(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let before = trial.write(0)?;
    let fill = stage.medium.fill().map_err(Trouble::CannotTry)?;
    trial.expect(&before, "while the disk is full")?;
    let (mut taken, mut refused) = (0, 0);
    for nth in 0..trial.room().min(64) {
        let (slot, seed) = (trial.slot(nth % super::SLOTS), trial.seed());
        super::blocks::seal(&slot, &trial.layout, seed);
        match trial.write_slot(slot, trial.address(nth))? {
            Ok(()) => taken += 1,
            Err(TierError::Full { .. }) => refused += 1,
            Err(error) => return broken(format!("a write to a full disk failed otherwise than as full: {error}")),
        }
    }
    match stage.medium.second() {
        None | Some(Err(OpenError::NoSpace { .. })) => {}
        Some(Err(error)) => return broken(format!("a second medium was refused otherwise than for want of space: {error}")),
        Some(Ok(())) => return broken("a second medium was made on a full disk"),
    }
    drop(fill);
    let after = trial.write(0)?;
    trial.expect(&after, "once there is space again")?;
    Ok(format!("{taken} writes taken, {refused} refused"))
}
