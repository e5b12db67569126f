//! Where blocks are.

use crate::evict::Use;
use crate::input::LedgerReply;
use crate::machine::Ledger;
use crate::record::BlockIndex;
use kvd_block::{BlockState, LayoutHandle, SequenceHash, TierKind};

/// Keys found at a time before any is judged. Finding writes nothing, so the CPU waits for the memory of several at once.
const CHUNK_KEYS: usize = 32;

impl Ledger {
    pub(crate) fn lookup(&mut self, layout: LayoutHandle, keys: &[SequenceHash], until_miss: bool) -> LedgerReply {
        let mut states = Vec::with_capacity(keys.len());
        let mut found = Vec::with_capacity(CHUNK_KEYS);
        for at in 0..keys.len() {
            if at % CHUNK_KEYS == 0 {
                let chunk = &keys[at..keys.len().min(at + CHUNK_KEYS)];
                found.clear();
                found.extend(chunk.iter().map(|hash| self.find(layout, *hash)));
            }
            let index = found[at % CHUNK_KEYS];
            let state = index.map_or(BlockState::Miss, |index| self.state(index));
            self.count_lookup(state);
            if state == BlockState::Miss && until_miss {
                break;
            }
            if let Some(index) = index.filter(|_| state.is_hit()) {
                self.touch(index, Use::Asked);
                self.offer_again(index);
            }
            states.push(state as u8);
        }
        LedgerReply::Found(states)
    }

    pub(crate) fn touch_all(&mut self, layout: LayoutHandle, keys: &[SequenceHash]) -> LedgerReply {
        for hash in keys {
            if let Some(index) = self.find(layout, *hash) {
                self.touch(index, Use::Asked);
            }
        }
        LedgerReply::Done
    }

    pub(crate) fn state(&self, index: BlockIndex) -> BlockState {
        let record = &self.records[index];
        match record.resident.fastest() {
            _ if record.doomed || record.spoiled => BlockState::Miss,
            Some(tier) => BlockState::in_tier(tier),
            None if record.filling => BlockState::Pending,
            None => BlockState::Miss,
        }
    }

    fn count_lookup(&mut self, state: BlockState) {
        let counters = &mut self.counters;
        counters.lookup_blocks += 1;
        match state {
            BlockState::Miss => {}
            BlockState::Pending => counters.lookup_pending += 1,
            BlockState::Cpu => counters.lookup_cpu += 1,
            BlockState::Nvme => counters.lookup_nvme += 1,
        }
    }
}

const _: () = assert!(TierKind::ALL.len() == 2, "a new tier needs a state of its own");
