//! A tier that fails on purpose, the same way for the same seed.
//!
//! For tests of whatever stands above a tier. A faulty outcome is always one that the contract allows: slots come back, the
//! payload of a failed read is damaged, and no wrong byte is ever called a success.

use crate::completion::Completion;
use crate::error::TierError;
use crate::tier::{BlockName, ReadBlock, ReadOutcome, Tier, TierLimits, WriteBlock, WriteOutcome};
use futures::channel::oneshot;
use kvd_block::{SlotIndex, TierKind};
use kvd_shm::Slot;
use std::fmt;
use std::io;
use std::sync::Mutex;

/// How often what goes wrong, in thousandths of all blocks (stalls: of all batches).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultPlan {
    /// The same seed and the same calls give the same faults.
    pub seed: u64,
    /// Reads, writes and erases that the device fails.
    pub fail: u32,
    /// Reads that find a flipped bit.
    pub corrupt: u32,
    /// Reads and writes that the device cuts short.
    pub short: u32,
    /// Writes that find the medium full.
    pub full: u32,
    /// Batches that answer only after [`Faulty::release_stalled`].
    pub stall: u32,
}

/// A tier with faults.
#[derive(Debug)]
pub struct Faulty<T> {
    inner: T,
    plan: FaultPlan,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: u64,
    stalled: Vec<oneshot::Sender<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Fail,
    Corrupt,
    Short,
    Full,
}

impl<T: Tier> Faulty<T> {
    /// Wraps `inner`.
    pub fn new(inner: T, plan: FaultPlan) -> Faulty<T> {
        Faulty { inner, plan, state: Mutex::new(State { random: plan.seed, stalled: Vec::new() }) }
    }

    /// The tier inside.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// Lets the batches go on that are stalled now.
    pub fn release_stalled(&self) {
        let stalled = std::mem::take(&mut self.state.lock().expect("no code panics while it holds this lock").stalled);
        // A batch whose completion was dropped needs no release.
        stalled.into_iter().for_each(|gate| {
            let _ = gate.send(());
        });
    }

    /// One draw per thing that can happen, so that a plan with one rate changed keeps its other faults.
    fn faults(&self, blocks: usize, possible: &[Fault]) -> Vec<Option<Fault>> {
        let mut state = self.state.lock().expect("no code panics while it holds this lock");
        let mut draw = |rate: u32| next(&mut state.random) % 1000 < u64::from(rate);
        let rates = [
            (Fault::Fail, self.plan.fail),
            (Fault::Corrupt, self.plan.corrupt),
            (Fault::Short, self.plan.short),
            (Fault::Full, self.plan.full),
        ];
        let mut fault = || {
            let drawn = rates.map(|(fault, rate)| draw(rate).then_some(fault));
            drawn.into_iter().flatten().find(|fault| possible.contains(fault))
        };
        (0..blocks).map(|_| fault()).collect()
    }

    /// A gate that the batch must wait for; open already unless the plan stalls it.
    fn gate(&self) -> oneshot::Receiver<()> {
        let (open, gate) = oneshot::channel();
        let mut state = self.state.lock().expect("no code panics while it holds this lock");
        if next(&mut state.random) % 1000 < u64::from(self.plan.stall) {
            state.stalled.push(open);
        }
        gate
    }

    /// Applies `spoil` to each outcome that has a fault, once the inner tier and the gate let it.
    fn spoiled<O: Send + 'static>(
        &self,
        inner: Completion<Vec<O>>,
        faults: Vec<Option<Fault>>,
        spoil: impl Fn(usize, O, Fault) -> O + Send + 'static,
    ) -> Completion<Vec<O>> {
        let gate = self.gate();
        Completion::wrapped(async move {
            let outcomes = inner.await?;
            let _ = gate.await;
            let spoil = |(at, (outcome, fault)): (usize, (O, Option<Fault>))| match fault {
                Some(fault) => spoil(at, outcome, fault),
                None => outcome,
            };
            Some(outcomes.into_iter().zip(faults).enumerate().map(spoil).collect())
        })
    }
}

impl<T: Tier> Tier for Faulty<T> {
    fn kind(&self) -> TierKind {
        self.inner.kind()
    }

    fn limits(&self) -> TierLimits {
        self.inner.limits()
    }

    fn write(&self, batch: Vec<WriteBlock>) -> Completion<Vec<WriteOutcome>> {
        let faults = self.faults(batch.len(), &[Fault::Fail, Fault::Short, Fault::Full]);
        let addresses: Vec<SlotIndex> = batch.iter().map(|block| block.address).collect();
        let tier = self.kind();
        self.spoiled(self.inner.write(batch), faults, move |at, outcome, fault| {
            let result = outcome.result.and_then(|()| Err(error(tier, addresses[at], None, fault)));
            WriteOutcome { result, ..outcome }
        })
    }

    fn read(&self, batch: Vec<ReadBlock>) -> Completion<Vec<ReadOutcome>> {
        let faults = self.faults(batch.len(), &[Fault::Fail, Fault::Corrupt, Fault::Short]);
        let asked: Vec<(SlotIndex, BlockName)> = batch.iter().map(|block| (block.address, block.name)).collect();
        let tier = self.kind();
        self.spoiled(self.inner.read(batch), faults, move |at, outcome, fault| {
            damage(&outcome.slot);
            let (address, name) = asked[at];
            let result = outcome.result.and_then(|()| Err(error(tier, address, Some(name), fault)));
            ReadOutcome { result, ..outcome }
        })
    }

    fn erase(&self, addresses: Vec<SlotIndex>) -> Completion<Vec<Result<(), TierError>>> {
        let faults = self.faults(addresses.len(), &[Fault::Fail]);
        let tier = self.kind();
        let asked = addresses.clone();
        self.spoiled(self.inner.erase(addresses), faults, move |at, outcome: Result<(), TierError>, fault| {
            outcome.and_then(|()| Err(error(tier, asked[at], None, fault)))
        })
    }
}

/// Whoever uses the slot of a failed read must notice.
fn damage(slot: &Slot) {
    let mut byte = slot.read_at(slot.bytes() / 2, 1);
    byte[0] ^= 0x10;
    slot.write_at(slot.bytes() / 2, &byte);
}

fn error(tier: TierKind, address: SlotIndex, name: Option<BlockName>, fault: Fault) -> TierError {
    let corrupt = |why: &str| match name {
        Some(name) => TierError::Corrupt { tier, name, address, why: why.into() },
        None => TierError::Io { tier, address, source: io::ErrorKind::WriteZero.into() },
    };
    match fault {
        Fault::Fail => TierError::Io { tier, address, source: io::Error::from_raw_os_error(libc::EIO) },
        Fault::Full => TierError::Full { tier, source: io::Error::from_raw_os_error(libc::ENOSPC) },
        Fault::Corrupt => corrupt("a planned flipped bit"),
        Fault::Short => corrupt("a planned short read"),
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl<T: Tier> fmt::Display for Faulty<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}
