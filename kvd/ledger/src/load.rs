//! From the arena into an engine's memory, by way of a read from NVMe where needed.

use crate::evict::Use;
use crate::input::{Action, LedgerReply, ReadResult, Transfer};
use crate::lease::{LeaseKind, LoadBlock};
use crate::machine::{Ledger, Op};
use crate::record::BlockIndex;
use kvd_block::{LayoutHandle, LeaseId, LoadGrant, OpId, SequenceHash, SessionId, SlotIndex, TierKind};
use std::collections::BTreeMap;

impl Ledger {
    /// Pins what is in the arena and queues reads for the rest. Reads start after the reply, so that nothing this very request
    /// needs is evicted for it.
    pub(crate) fn prepare_load(
        &mut self,
        session: SessionId,
        layout: LayoutHandle,
        keys: &[SequenceHash],
        deadline_ms: u64,
    ) -> LedgerReply {
        let blocks: Vec<LoadBlock> = keys.iter().map(|hash| self.hold_for_load(layout, *hash)).collect();
        let grants = blocks.iter().map(|block| self.load_grant(*block)).collect();
        self.counters.load_missed += blocks.iter().filter(|block| **block == LoadBlock::Missing).count() as u64;
        if blocks.iter().all(|block| *block == LoadBlock::Missing) {
            return LedgerReply::LoadLease { lease: self.next_lease_id(), grants };
        }
        let wait_ms = if deadline_ms == 0 { self.config.load_deadline_ms } else { deadline_ms };
        let expires = self.now.after_ms(self.config.load_lease_ms.max(wait_ms));
        let stages = blocks.iter().any(|block| matches!(block, LoadBlock::Staging(_)));
        let due = if stages { self.now.after_ms(wait_ms) } else { expires };
        let lease = self.open_lease(session, due, expires, LeaseKind::Load(blocks.clone()));
        for (at, block) in blocks.iter().enumerate() {
            if let LoadBlock::Staging(index) = block {
                self.waiters.entry(*index).or_default().push((lease, at as u32));
            }
        }
        LedgerReply::LoadLease { lease, grants }
    }

    fn hold_for_load(&mut self, layout: LayoutHandle, hash: SequenceHash) -> LoadBlock {
        let lost = |index: &BlockIndex| self.records[*index].doomed || self.records[*index].spoiled;
        let Some(index) = self.find(layout, hash).filter(|index| !lost(index)) else { return LoadBlock::Missing };
        if self.records[index].resident.contains(TierKind::Cpu) {
            self.counters.loaded_cpu += 1;
            self.pin_slot(index, 1);
            return LoadBlock::Ready(index);
        }
        if !self.records[index].resident.contains(TierKind::Nvme) {
            return LoadBlock::Missing;
        }
        if !self.records[index].staging {
            if self.read_backlog.len() >= self.config.max_read_backlog {
                return LoadBlock::Missing;
            }
            self.records[index].staging = true;
            self.relist(index);
            self.read_backlog.push_back(self.records[index].key);
        }
        LoadBlock::Staging(index)
    }

    fn load_grant(&self, block: LoadBlock) -> LoadGrant {
        match block {
            LoadBlock::Ready(index) => LoadGrant::Ready(self.records[index].slot(TierKind::Cpu)),
            LoadBlock::Staging(_) => LoadGrant::Staging,
            LoadBlock::Missing => LoadGrant::Miss,
        }
    }

    fn pin_slot(&mut self, index: BlockIndex, pins: u32) {
        self.records[index].pins += pins;
        self.touch(index, Use::Served);
        self.relist(index);
    }

    /// Starts queued reads as far as limits and slots allow.
    pub(crate) fn start_reads(&mut self, actions: &mut Vec<Action>) {
        let mut settled = Vec::new();
        while self.reads < self.config.max_reads {
            let Some(key) = self.read_backlog.pop_front() else { break };
            let Some(index) = self.records.find(key) else { continue };
            let pages = self.slot_pages(index);
            let wanted = self.waiters.contains_key(&index) && self.records[index].resident.contains(TierKind::Nvme);
            match wanted.then(|| self.obtain_slot(TierKind::Cpu, index, actions)).flatten() {
                Some(slot) => self.start_read(index, slot, pages, actions),
                None => settled.push((index, None)),
            }
        }
        for (index, slot) in settled {
            self.records[index].staging = false;
            self.settle(index, slot, actions);
            self.after_use(index, actions);
        }
    }

    fn start_read(&mut self, index: BlockIndex, slot: SlotIndex, pages: u32, actions: &mut Vec<Action>) {
        let op = self.open_op(Op::Read(index));
        self.reads += 1;
        let record = &mut self.records[index];
        record.reading = true;
        record.slots[TierKind::Cpu as usize] = slot;
        actions.push(Action::Read(Transfer { op, key: record.key, slot, pages, address: record.slot(TierKind::Nvme) }));
    }

    pub(crate) fn read_done(&mut self, op: OpId, result: ReadResult, actions: &mut Vec<Action>) {
        let Some(Op::Read(index)) = self.ops.get(&op).copied() else { return };
        self.ops.remove(&op);
        self.reads -= 1;
        let pages = self.slot_pages(index);
        let record = &mut self.records[index];
        (record.reading, record.staging) = (false, false);
        let slot = record.slot(TierKind::Cpu);
        if result == ReadResult::Read && !record.doomed {
            self.gain(index, TierKind::Cpu, actions);
            self.settle(index, Some(slot), actions);
        } else {
            self.tier(TierKind::Cpu).expect("there is always an arena").space.give_back(slot, pages);
            self.settle(index, None, actions);
            match result {
                ReadResult::Corrupt => {
                    self.counters.corrupt += 1;
                    // A purged one is erased when its last use ends.
                    if !self.records[index].doomed {
                        self.lose(index, TierKind::Nvme, actions);
                    }
                }
                ReadResult::Failed => self.counters.read_failed += 1,
                ReadResult::Read | ReadResult::Busy => {}
            }
        }
        self.after_use(index, actions);
        self.start_reads(actions);
    }

    /// Tells everyone who waits for a block that it is in `slot`, or that it cannot be had.
    fn settle(&mut self, index: BlockIndex, slot: Option<SlotIndex>, actions: &mut Vec<Action>) {
        let waiting = self.waiters.remove(&index).unwrap_or_default();
        let mut notices: BTreeMap<LeaseId, Vec<u32>> = BTreeMap::new();
        for (lease, at) in waiting {
            let Some(LeaseKind::Load(blocks)) = self.leases.get_mut(&lease).map(|lease| &mut lease.kind) else { continue };
            blocks[at as usize] = if slot.is_some() { LoadBlock::Ready(index) } else { LoadBlock::Missing };
            notices.entry(lease).or_default().push(at);
            if slot.is_some() {
                self.counters.loaded_nvme += 1;
                self.pin_slot(index, 1);
            } else {
                self.counters.load_missed += 1;
            }
        }
        for (lease, blocks) in notices {
            let session = self.leases[&lease].session;
            let (ready, missing) = match slot {
                Some(slot) => (blocks.into_iter().map(|at| (at, slot)).collect(), Vec::new()),
                None => (Vec::new(), blocks),
            };
            actions.push(Action::Notify { session, lease, ready, missing });
        }
    }

    /// The deadline of a load passed: what is still being read is a miss for it. The read goes on for others.
    pub(crate) fn give_up_staging(&mut self, id: LeaseId, actions: &mut Vec<Action>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let session = lease.session;
        let LeaseKind::Load(blocks) = &mut lease.kind else { return };
        let mut missing = Vec::new();
        for (at, block) in blocks.iter_mut().enumerate() {
            if let LoadBlock::Staging(index) = *block {
                *block = LoadBlock::Missing;
                missing.push((at as u32, index));
            }
        }
        missing.iter().for_each(|(_, index)| self.stop_waiting(*index, id));
        self.counters.load_missed += missing.len() as u64;
        self.counters.load_late += missing.len() as u64;
        let missing: Vec<u32> = missing.into_iter().map(|(at, _)| at).collect();
        if !missing.is_empty() {
            actions.push(Action::Notify { session, lease: id, ready: Vec::new(), missing });
        }
    }

    fn stop_waiting(&mut self, index: BlockIndex, id: LeaseId) {
        if let Some(waiting) = self.waiters.get_mut(&index) {
            waiting.retain(|(lease, _)| *lease != id);
            if waiting.is_empty() {
                self.waiters.remove(&index);
            }
        }
    }

    pub(crate) fn complete_load(&mut self, session: SessionId, lease: LeaseId, corrupt: &[u32], actions: &mut Vec<Action>) {
        if !self.leases.get(&lease).is_some_and(|lease| matches!(lease.kind, LeaseKind::Load(_))) {
            return;
        }
        let Some(LeaseKind::Load(blocks)) = self.take_lease(session, lease) else { return };
        let bad: Vec<BlockIndex> = corrupt
            .iter()
            .filter_map(|at| match blocks.get(*at as usize) {
                Some(LoadBlock::Ready(index)) => Some(*index),
                _ => None,
            })
            .collect();
        self.unpin_load(lease, &blocks);
        bad.into_iter().for_each(|index| self.spoil(index));
        self.end_use_of(&blocks, actions);
    }

    /// Ends what a load held, without a verdict on the bytes.
    pub(crate) fn release_load(&mut self, lease: LeaseId, blocks: &[LoadBlock], actions: &mut Vec<Action>) {
        self.unpin_load(lease, blocks);
        self.end_use_of(blocks, actions);
    }

    fn unpin_load(&mut self, lease: LeaseId, blocks: &[LoadBlock]) {
        for block in blocks {
            match *block {
                LoadBlock::Ready(index) => {
                    self.records[index].pins -= 1;
                    self.relist(index);
                }
                LoadBlock::Staging(index) => self.stop_waiting(index, lease),
                LoadBlock::Missing => {}
            }
        }
    }

    fn end_use_of(&mut self, blocks: &[LoadBlock], actions: &mut Vec<Action>) {
        for block in blocks {
            if let LoadBlock::Ready(index) = *block
                && self.records.get(index).is_some()
            {
                self.after_use(index, actions);
            }
        }
    }

    pub(crate) fn open_op(&mut self, op: Op) -> OpId {
        self.last_op += 1;
        self.ops.insert(OpId(self.last_op), op);
        OpId(self.last_op)
    }
}
