//! From the arena to NVMe, behind the engine's back.

use crate::input::{Action, Transfer, WriteResult};
use crate::machine::{Ledger, Op};
use crate::record::BlockIndex;
use kvd_block::{OpId, PAGE_BYTES, TierKind};

/// Pause after the tier said that its queue is full.
const BUSY_PAUSE_MS: u64 = 5;

impl Ledger {
    /// Queues a block that is in the arena for writing, where it may yet be refused. A full backlog costs the copy on NVMe, nothing else.
    pub(crate) fn offload_later(&mut self, index: BlockIndex) {
        if self.config.nvme.is_none() || self.records[index].backlogged {
            return;
        }
        if self.write_backlog.len() >= self.config.max_write_backlog {
            self.counters.offload_skipped += 1;
            return;
        }
        self.set_backlogged(index, true);
        self.write_backlog.push_back(self.records[index].key);
    }

    /// Eviction from the arena looks at this.
    fn set_backlogged(&mut self, index: BlockIndex, backlogged: bool) {
        self.unlist(index);
        self.records[index].backlogged = backlogged;
        self.relist(index);
    }

    /// Starts queued writes as far as limits allow.
    pub(crate) fn start_writes(&mut self, actions: &mut Vec<Action>) {
        if self.writes_paused_until.is_some_and(|until| self.now < until) {
            return;
        }
        self.writes_paused_until = None;
        while self.writes + self.erases.running < self.config.max_writes {
            let Some(key) = self.write_backlog.pop_front() else { break };
            let Some(index) = self.records.find(key) else { continue };
            self.set_backlogged(index, false);
            let record = &self.records[index];
            let wanted = record.resident.contains(TierKind::Cpu) && !record.resident.contains(TierKind::Nvme);
            if !wanted || record.writing || record.doomed {
                continue;
            }
            self.start_write(index, actions);
        }
    }

    fn start_write(&mut self, index: BlockIndex, actions: &mut Vec<Action>) {
        let pages = self.slot_pages(index);
        let bytes = u64::from(pages) * PAGE_BYTES;
        if self.refuses_write(index) {
            self.counters.offload_refused += 1;
            return;
        }
        if self.gate.budget.as_mut().is_some_and(|budget| !budget.allows(self.now, bytes)) {
            self.counters.offload_over_budget += 1;
            return;
        }
        let Some(address) = self.obtain_slot(TierKind::Nvme, index, actions) else {
            self.counters.offload_skipped += 1;
            return;
        };
        if let Some(budget) = &mut self.gate.budget {
            budget.take(bytes);
        }
        let op = self.open_op(Op::Write(index));
        self.writes += 1;
        let record = &mut self.records[index];
        record.writing = true;
        record.slots[TierKind::Nvme as usize] = address;
        actions.push(Action::Write(Transfer { op, key: record.key, slot: record.slot(TierKind::Cpu), pages, address }));
        self.relist(index);
    }

    pub(crate) fn write_done(&mut self, op: OpId, result: WriteResult, actions: &mut Vec<Action>) {
        let Some(Op::Write(index)) = self.ops.get(&op).copied() else { return };
        self.ops.remove(&op);
        self.writes -= 1;
        self.records[index].writing = false;
        if result == WriteResult::Written {
            self.counters.written += 1;
            if self.records[index].doomed { self.erase_written(index) } else { self.gain(index, TierKind::Nvme, actions) }
        } else {
            self.undo_write(index, result);
        }
        self.relist(index);
        self.after_use(index, actions);
    }

    fn undo_write(&mut self, index: BlockIndex, result: WriteResult) {
        let (pages, address) = (self.slot_pages(index), self.records[index].slot(TierKind::Nvme));
        self.tier(TierKind::Nvme).expect("a write had a tier").space.give_back(address, pages);
        let pause_ms = if result == WriteResult::Busy { BUSY_PAUSE_MS } else { self.config.write_pause_ms };
        self.writes_paused_until = Some(self.now.after_ms(pause_ms));
        match result {
            WriteResult::Busy => self.offload_later(index),
            _ => self.counters.write_failed += 1,
        }
    }
}
