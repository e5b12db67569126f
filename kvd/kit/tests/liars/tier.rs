//! Tiers that break the contract themselves: what a success says is not so.

use kvd_block::{SlotIndex, TierKind};
use kvd_shm::Slot;
use kvd_tiers::conformance::{Medium, Opened};
use kvd_tiers::{Completion, MemoryTier, NullTier, ReadBlock, ReadOutcome, Tier, TierError, TierLimits, WriteBlock, WriteOutcome};
use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

const LIMITS: TierLimits = TierLimits { capacity_bytes: 16 << 20, extent_bytes: 4 << 20, max_inflight_blocks: 16 };

/// What is wrong with the tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadTier {
    FlipsReads,
    ShortReads,
    KeepsHeadersOnly,
    GivesTheFirstBlock,
    NeverAnswers,
    GivesUp,
}

/// A medium of which every tier is of that kind.
#[derive(Debug)]
pub struct Tiers(Liar);

impl Tiers {
    pub fn new(lie: BadTier) -> Tiers {
        let inner: Box<dyn Tier> = match lie {
            BadTier::KeepsHeadersOnly => Box::new(NullTier::new(LIMITS)),
            _ => Box::new(MemoryTier::new(LIMITS)),
        };
        Tiers(Liar { inner, lie, firsts: Mutex::default() })
    }
}

impl Medium for Tiers {
    fn open(&self) -> Result<Opened<'_>, String> {
        Ok(Opened::Given(&self.0))
    }
}

#[derive(Debug)]
struct Liar {
    inner: Box<dyn Tier>,
    lie: BadTier,
    /// The first image that was written to each place.
    firsts: Mutex<HashMap<SlotIndex, Vec<u8>>>,
}

impl Liar {
    fn spoil(&self, outcome: ReadOutcome, first: Option<Vec<u8>>) -> ReadOutcome {
        let slot = outcome.slot;
        match (self.lie, outcome.result) {
            (BadTier::FlipsReads, Ok(())) => {
                let byte = slot.read_at(4096, 1)[0];
                slot.write_at(4096, &[byte ^ 1]);
                ReadOutcome { slot, result: Ok(()) }
            }
            (BadTier::ShortReads, Ok(())) => {
                blank_end(&slot);
                ReadOutcome { slot, result: Ok(()) }
            }
            (BadTier::GivesTheFirstBlock, _) if first.is_some() => {
                let bytes = first.unwrap_or_default();
                slot.write_at(0, &bytes[..bytes.len().min(slot.bytes() as usize)]);
                ReadOutcome { slot, result: Ok(()) }
            }
            (_, result) => ReadOutcome { slot, result },
        }
    }
}

/// What a read that ended early leaves of the payload.
fn blank_end(slot: &Slot) {
    let half = (slot.bytes() - 4096) / 2;
    slot.write_at(4096, &vec![0; half as usize]);
}

impl Tier for Liar {
    fn kind(&self) -> TierKind {
        self.inner.kind()
    }

    fn limits(&self) -> TierLimits {
        self.inner.limits()
    }

    fn write(&self, batch: Vec<WriteBlock>) -> Completion<Vec<WriteOutcome>> {
        let mut firsts = self.firsts.lock().unwrap();
        for block in &batch {
            firsts.entry(block.address).or_insert_with(|| block.slot.read_at(0, block.slot.bytes() as usize));
        }
        drop(firsts);
        self.inner.write(batch)
    }

    fn read(&self, batch: Vec<ReadBlock>) -> Completion<Vec<ReadOutcome>> {
        match self.lie {
            BadTier::NeverAnswers if !batch.is_empty() => return Completion::wrapped(std::future::pending()),
            BadTier::GivesUp if !batch.is_empty() => return Completion::wrapped(std::future::ready(None)),
            _ => {}
        }
        let firsts: Vec<Option<Vec<u8>>> = {
            let kept = self.firsts.lock().unwrap();
            batch.iter().map(|block| kept.get(&block.address).cloned()).collect()
        };
        let outcomes = self.inner.read(batch).wait().unwrap();
        Completion::ready(outcomes.into_iter().zip(firsts).map(|(outcome, first)| self.spoil(outcome, first)).collect())
    }

    fn erase(&self, addresses: Vec<SlotIndex>) -> Completion<Vec<Result<(), TierError>>> {
        self.inner.erase(addresses)
    }
}

impl fmt::Display for Liar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lying {}", self.inner)
    }
}
