//! Making purged images unreadable, one page each, before their slots are used again.
//!
//! A slot stays taken until its erase is answered. Were it given to another block at once, the erase could land after that block's
//! image. Erases share the places of writes, so a purge of a million blocks never overfills the tier's queue; their backlog needs no
//! limit of its own, because every entry holds a slot.

use crate::input::{Action, WriteResult};
use crate::machine::{Ledger, Op};
use crate::record::BlockIndex;
use kvd_block::{OpId, SlotIndex, Tick, TierKind};
use std::collections::VecDeque;

/// Pause after the tier said that its queue is full.
const BUSY_PAUSE_MS: u64 = 5;

/// Slots that hold images to be erased.
#[derive(Debug, Default)]
pub(crate) struct Erases {
    /// Waiting: address and pages.
    pub backlog: VecDeque<(SlotIndex, u32)>,
    /// Under way.
    pub running: usize,
    paused_until: Option<Tick>,
}

impl Erases {
    pub fn next_deadline(&self) -> Option<Tick> {
        self.paused_until.filter(|_| !self.backlog.is_empty())
    }
}

impl Ledger {
    /// The block was purged, and its row with it: it can no longer be read from NVMe, and its slot is free once the image is erased.
    pub(crate) fn erase_image(&mut self, index: BlockIndex, actions: &mut Vec<Action>) {
        let slot = self.forget(index, TierKind::Nvme, actions);
        self.erase_later(slot);
    }

    /// A write that ended well after its block was purged: nobody ever hears of the image.
    pub(crate) fn erase_written(&mut self, index: BlockIndex) {
        self.erase_later((self.records[index].slot(TierKind::Nvme), self.slot_pages(index)));
    }

    fn erase_later(&mut self, slot: (SlotIndex, u32)) {
        self.tier(TierKind::Nvme).expect("an image had a tier").space.set_owner(slot.0, slot.1, None);
        self.erases.backlog.push_back(slot);
    }

    /// Starts queued erases as far as limits allow.
    pub(crate) fn start_erases(&mut self, actions: &mut Vec<Action>) {
        if self.erases.paused_until.is_some_and(|until| self.now < until) {
            return;
        }
        self.erases.paused_until = None;
        while self.writes + self.erases.running < self.config.max_writes {
            let Some((address, pages)) = self.erases.backlog.pop_front() else { break };
            let op = self.open_op(Op::Erase { address, pages });
            self.erases.running += 1;
            actions.push(Action::Erase { op, address });
        }
    }

    pub(crate) fn erase_done(&mut self, op: OpId, result: WriteResult) {
        let Some(Op::Erase { address, pages }) = self.ops.get(&op).copied() else { return };
        self.ops.remove(&op);
        self.erases.running -= 1;
        if result == WriteResult::Busy {
            self.erases.backlog.push_back((address, pages));
            self.erases.paused_until = Some(self.now.after_ms(BUSY_PAUSE_MS));
            return;
        }
        match result {
            WriteResult::Written => self.counters.erased += 1,
            _ => self.counters.erase_failed += 1,
        }
        self.tier(TierKind::Nvme).expect("an erase had a tier").space.give_back(address, pages);
    }
}
