//! Not a tier: the ceiling of whatever measures tiers.
//!
//! It keeps headers and drops payloads, so a run against it costs everything that a run against a medium costs except the
//! medium. A read gives back the header that was written and leaves the payload as it happens to be, and calls that a success:
//! the one place in kvd where a success says nothing about the bytes. For measuring only.

use crate::completion::Completion;
use crate::error::TierError;
use crate::tier::{BlockName, ReadBlock, ReadOutcome, Tier, TierLimits, WriteBlock, WriteOutcome};
use kvd_block::image::{self, HeaderPage};
use kvd_block::{HEADER_BYTES, SlotIndex, TierKind};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

const TIER: TierKind = TierKind::Nvme;
/// Headers kept: 1 GiB of them. Further writes find the medium full.
const MOST_HEADERS: usize = 1 << 18;

/// Headers by address, and nothing else. Transfers are over when the call returns.
#[derive(Debug)]
pub struct NullTier {
    limits: TierLimits,
    headers: Mutex<HashMap<SlotIndex, Box<HeaderPage>>>,
}

impl NullTier {
    /// An empty one. At most 262,144 headers are kept, whatever the capacity.
    pub fn new(limits: TierLimits) -> NullTier {
        NullTier { limits, headers: Mutex::default() }
    }

    fn headers(&self) -> MutexGuard<'_, HashMap<SlotIndex, Box<HeaderPage>>> {
        self.headers.lock().expect("no code panics while it holds this lock")
    }

    fn admit(&self, nth: usize, address: SlotIndex, bytes: u64) -> Result<(), TierError> {
        if nth >= self.limits.max_inflight_blocks {
            return Err(TierError::Busy { tier: TIER });
        }
        self.limits.check(address, bytes).map_err(|source| TierError::Io { tier: TIER, address, source })
    }

    fn keep(&self, block: &WriteBlock) -> Result<(), TierError> {
        let mut headers = self.headers();
        if headers.len() >= MOST_HEADERS && !headers.contains_key(&block.address) {
            return Err(TierError::Full { tier: TIER, source: std::io::ErrorKind::StorageFull.into() });
        }
        headers.insert(block.address, Box::new(block.slot.read_header()));
        Ok(())
    }

    fn give(&self, block: &ReadBlock) -> Result<(), TierError> {
        let corrupt = |why: String| TierError::Corrupt { tier: TIER, name: block.name, address: block.address, why };
        let headers = self.headers();
        let page = headers.get(&block.address).ok_or_else(|| corrupt("nothing was written here".into()))?;
        let found = BlockName { layout: image::layout_id(page), hash: image::sequence_hash(page) };
        if found != block.name {
            return Err(corrupt(format!("holds {found}")));
        }
        block.slot.write_header(page);
        Ok(())
    }
}

impl Tier for NullTier {
    fn kind(&self) -> TierKind {
        TIER
    }

    fn limits(&self) -> TierLimits {
        self.limits
    }

    fn write(&self, batch: Vec<WriteBlock>) -> Completion<Vec<WriteOutcome>> {
        let write = |(nth, block): (usize, WriteBlock)| {
            let result = self.admit(nth, block.address, block.slot.bytes()).and_then(|()| self.keep(&block));
            WriteOutcome { slot: block.slot, result }
        };
        Completion::ready(batch.into_iter().enumerate().map(write).collect())
    }

    fn read(&self, batch: Vec<ReadBlock>) -> Completion<Vec<ReadOutcome>> {
        let read = |(nth, block): (usize, ReadBlock)| {
            let result = self.admit(nth, block.address, block.slot.bytes()).and_then(|()| self.give(&block));
            ReadOutcome { slot: block.slot, result }
        };
        Completion::ready(batch.into_iter().enumerate().map(read).collect())
    }

    fn erase(&self, addresses: Vec<SlotIndex>) -> Completion<Vec<Result<(), TierError>>> {
        let erase = |(nth, address): (usize, SlotIndex)| {
            self.admit(nth, address, HEADER_BYTES)?;
            self.headers().remove(&address);
            Ok(())
        };
        Completion::ready(addresses.into_iter().enumerate().map(erase).collect::<Vec<_>>())
    }
}

impl fmt::Display for NullTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null tier (keeps headers only)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{nth_address, sample_layout, seal};
    use kvd_shm::{Arena, HugePages, Slot};
    use std::sync::Arc;

    const LIMITS: TierLimits = TierLimits { capacity_bytes: 4 << 20, extent_bytes: 1 << 20, max_inflight_blocks: 8 };

    fn slot() -> Slot {
        let layout = sample_layout();
        Slot::new(Arc::new(Arena::create(layout.slot_bytes(), HugePages::Never).unwrap()), SlotIndex(0), layout.slot_bytes())
    }

    #[test]
    fn a_header_comes_back_and_its_payload_is_dropped() {
        let (tier, address) = (NullTier::new(LIMITS), nth_address(3, sample_layout().slot_pages(), LIMITS.extent_bytes));
        let written = slot();
        let (name, page) = (seal(&written, &sample_layout(), 1), written.read_header());
        assert!(tier.write(vec![WriteBlock { slot: written, address }]).wait().unwrap()[0].result.is_ok());
        let read = tier.read(vec![ReadBlock { slot: slot(), address, name }]).wait().unwrap().pop().unwrap();
        read.result.unwrap();
        assert!(read.slot.read_header() == page);
        assert_eq!(read.slot.read_at(HEADER_BYTES, 64), [0; 64], "nothing of the payload was kept");
    }

    #[test]
    fn another_name_and_an_erased_block_are_corrupt() {
        let (tier, address) = (NullTier::new(LIMITS), SlotIndex(1));
        let written = slot();
        let name = seal(&written, &sample_layout(), 1);
        tier.write(vec![WriteBlock { slot: written, address }]).wait().unwrap();
        let read = |name| tier.read(vec![ReadBlock { slot: slot(), address, name }]).wait().unwrap().pop().unwrap().result;
        let other = BlockName { hash: kvd_block::SequenceHash([9; 16]), ..name };
        assert!(matches!(read(other), Err(TierError::Corrupt { .. })));
        tier.erase(vec![address]).wait().unwrap();
        assert!(matches!(read(name), Err(TierError::Corrupt { .. })));
    }
}
