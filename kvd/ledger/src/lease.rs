//! Leases: what a session holds, and how it ends.
//!
//! A load lease ends by itself after a while: its reader verifies what it copies, so losing the pins can cost it a miss at most. A
//! store lease that takes too long only loses its blocks; its slots stay taken until it is completed or the engine is gone,
//! because a slot that a straggler may still write to must not be given to another block.

use crate::input::Action;
use crate::machine::Ledger;
use crate::record::BlockIndex;
use kvd_block::{LeaseId, SessionId, SlotIndex, Tick, TierKind};

#[derive(Debug)]
pub(crate) struct Lease {
    pub session: SessionId,
    /// Its entry in the list of deadlines, if it has one.
    pub deadline: Option<Tick>,
    /// When it ends by itself (load) or loses its blocks (store).
    pub expires: Tick,
    pub kind: LeaseKind,
}

#[derive(Debug)]
pub(crate) enum LeaseKind {
    Store(Vec<StoreBlock>),
    Load(Vec<LoadBlock>),
}

/// One block of a store lease.
#[derive(Debug)]
pub(crate) enum StoreBlock {
    /// Present, pending or busy: no slot was granted, or it is settled.
    None,
    /// Being filled.
    Filling { index: BlockIndex, tokens: Vec<u8> },
    /// Took too long; only the slot is left.
    Late { slot: SlotIndex, pages: u32 },
}

/// One block of a load lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadBlock {
    /// In the arena, pinned.
    Ready(BlockIndex),
    /// Waiting to be read.
    Staging(BlockIndex),
    /// Not to be had.
    Missing,
}

impl Ledger {
    /// Registers a lease that is due at `deadline`.
    pub(crate) fn open_lease(&mut self, session: SessionId, deadline: Tick, expires: Tick, kind: LeaseKind) -> LeaseId {
        let id = self.next_lease_id();
        self.leases.insert(id, Lease { session, deadline: None, expires, kind });
        self.set_deadline(id, Some(deadline));
        self.sessions.get_mut(&session).expect("the session was checked").insert(id);
        id
    }

    /// Slots under store leases that are still open: a straggler may be copying into them.
    pub fn slots_being_filled(&self) -> Vec<SlotIndex> {
        let mut slots = Vec::new();
        for lease in self.leases.values() {
            let LeaseKind::Store(blocks) = &lease.kind else { continue };
            slots.extend(blocks.iter().filter_map(|block| match block {
                StoreBlock::None => None,
                StoreBlock::Filling { index, .. } => Some(self.records[*index].slot(TierKind::Cpu)),
                StoreBlock::Late { slot, .. } => Some(*slot),
            }));
        }
        slots
    }

    pub(crate) fn next_lease_id(&mut self) -> LeaseId {
        self.last_lease += 1;
        LeaseId(self.last_lease)
    }

    pub(crate) fn set_deadline(&mut self, id: LeaseId, deadline: Option<Tick>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if let Some(old) = lease.deadline.take() {
            self.deadlines.remove(&(old, id));
        }
        if let Some(new) = deadline {
            lease.deadline = Some(new);
            self.deadlines.insert((new, id));
        }
    }

    /// Takes a lease out of the tables, if it is this session's.
    pub(crate) fn take_lease(&mut self, session: SessionId, id: LeaseId) -> Option<LeaseKind> {
        if self.leases.get(&id)?.session != session {
            return None;
        }
        self.set_deadline(id, None);
        if let Some(leases) = self.sessions.get_mut(&session) {
            leases.remove(&id);
        }
        self.leases.remove(&id).map(|lease| lease.kind)
    }

    /// Ends every lease of a session, and the session.
    pub(crate) fn close_session(&mut self, session: SessionId, actions: &mut Vec<Action>) {
        let leases = self.sessions.get(&session).cloned().unwrap_or_default();
        for id in leases {
            match self.take_lease(session, id) {
                Some(LeaseKind::Store(blocks)) => blocks.into_iter().for_each(|block| self.abandon(block)),
                Some(LeaseKind::Load(blocks)) => self.release_load(id, &blocks, actions),
                None => {}
            }
        }
        self.sessions.remove(&session);
    }

    /// Everything whose time is over by now.
    pub(crate) fn end_overdue(&mut self, actions: &mut Vec<Action>) {
        while let Some((_, id)) = self.deadlines.first().copied().filter(|(tick, _)| *tick <= self.now) {
            let lease = &self.leases[&id];
            let (session, expires) = (lease.session, lease.expires);
            match lease.kind {
                LeaseKind::Load(_) if self.now < expires => {
                    self.set_deadline(id, Some(expires));
                    self.give_up_staging(id, actions);
                }
                LeaseKind::Load(_) => {
                    self.counters.leases_expired += 1;
                    // The wait may be as long as the lease, and time may have jumped over both.
                    self.give_up_staging(id, actions);
                    if let Some(LeaseKind::Load(blocks)) = self.take_lease(session, id) {
                        self.release_load(id, &blocks, actions);
                    }
                }
                LeaseKind::Store(_) => {
                    self.counters.leases_expired += 1;
                    self.set_deadline(id, None);
                    self.detach_store(id);
                }
            }
        }
        self.end_overdue_pins();
        self.end_overdue_priorities();
    }
}
