//! What the ledger promised to whom, kept by somebody who does not look into it.
//!
//! * what was purged is not found again until it is stored anew, and its image on NVMe is erased;
//! * an image that was reported to be rotten is handed to nobody any more, in either tier;
//! * a pinned block is not evicted from its last tier.

use kvd_block::{BlockKey, BlockState, LeaseId, LoadGrant, OpId, ResidencyEdge, SessionId, SlotIndex, Tick, TierKind};
use kvd_ledger::{Action, Input, Ledger, LedgerReply, ReadResult, WriteResult};
use std::collections::{BTreeMap, BTreeSet};

/// Open promises of one life of the daemon.
#[derive(Debug, Default)]
pub struct Promises {
    loads: BTreeMap<LeaseId, Load>,
    erases: BTreeMap<OpId, SlotIndex>,
    reads: BTreeMap<OpId, (BlockKey, SlotIndex)>,
    purged: BTreeSet<BlockKey>,
    rotten: BTreeSet<BlockKey>,
    pinned: BTreeMap<BlockKey, Tick>,
    to_erase: BTreeSet<SlotIndex>,
}

/// A load lease, as its engine knows it.
#[derive(Debug)]
struct Load {
    session: SessionId,
    expires: Tick,
    keys: Vec<BlockKey>,
}

/// What must be known of an input once it is gone.
#[derive(Debug)]
pub struct Asked {
    keys: Vec<BlockKey>,
    pins_until: Option<Tick>,
    /// Who asks for a load, and when its lease ends.
    load: Option<(SessionId, Tick)>,
    unreadable: Option<(BlockKey, SlotIndex)>,
    may_drop: bool,
}

impl Promises {
    /// Before a step. A load prepared by it expires at `expires`.
    pub fn before(&mut self, now: Tick, input: &Input, ledger: &Ledger, expires: Tick) -> Asked {
        let mut asked = Asked { keys: Vec::new(), pins_until: None, load: None, unreadable: None, may_drop: false };
        let name = |layout, keys: &[kvd_block::SequenceHash]| keys.iter().map(|hash| BlockKey { layout, hash: *hash }).collect();
        match input {
            Input::Lookup { layout, keys, .. } => asked.keys = name(*layout, keys),
            Input::PrepareLoad { session, layout, keys, .. } => (asked.keys, asked.load) = (name(*layout, keys), Some((*session, expires))),
            Input::Pin { layout, keys, ttl_ms, .. } => (asked.keys, asked.pins_until) = (name(*layout, keys), Some(now.after_ms(*ttl_ms))),
            Input::Purge { layout, .. } => self.purge(|key| layout.is_none_or(|layout| layout == key.layout), ledger),
            Input::FoundCorrupt { key, tier, address } => {
                asked.may_drop = true;
                if *tier == TierKind::Cpu && ledger.inspect(*key).is_some_and(|view| view.cpu == Some(*address)) {
                    self.rotten.insert(*key);
                }
            }
            Input::CompleteLoad { session, lease, corrupt, .. } => {
                asked.may_drop = true;
                self.complete(now, *session, *lease, corrupt, ledger);
            }
            Input::CloseSession { session } => self.loads.retain(|_, load| load.session != *session),
            Input::EraseDone { op, result } => {
                let address = self.erases.remove(op);
                self.to_erase.extend(address.filter(|_| *result == WriteResult::Busy));
            }
            Input::ReadDone { op, result } => {
                asked.may_drop = true;
                asked.unreadable = self.reads.remove(op).filter(|_| *result == ReadResult::Corrupt);
            }
            _ => {}
        }
        asked
    }

    fn purge(&mut self, matches: impl Fn(&BlockKey) -> bool, ledger: &Ledger) {
        for tier in TierKind::ALL {
            for row in ledger.resident(tier).filter(|row| matches(&row.key)) {
                self.purged.insert(row.key);
                if tier == TierKind::Nvme {
                    self.to_erase.insert(row.address);
                }
            }
        }
    }

    /// A load that is still open names blocks that did not match. What it holds is pinned, so it is still the image it was given.
    fn complete(&mut self, now: Tick, session: SessionId, lease: LeaseId, corrupt: &[u32], ledger: &Ledger) {
        if self.loads.get(&lease).is_none_or(|load| load.session != session || load.expires <= now) {
            return;
        }
        let Some(Load { keys, .. }) = self.loads.remove(&lease) else { return };
        let named = corrupt.iter().filter_map(|at| keys.get(*at as usize));
        self.rotten.extend(named.filter(|key| ledger.inspect(**key).is_some_and(|view| view.cpu.is_some())));
    }

    /// After the step.
    pub fn after(&mut self, now: Tick, asked: Asked, actions: &[Action], ledger: &Ledger) {
        let mut sealed = BTreeSet::new();
        for action in actions {
            match action {
                Action::Seal(block) => _ = sealed.insert(block.key),
                Action::Publish(edge) => {
                    if let ResidencyEdge::Stored { key, .. } = edge {
                        let anew = sealed.contains(key) || !self.purged.contains(key);
                        assert!(anew, "{key} was purged and came back without being stored");
                    }
                    self.follow(now, edge, &asked, ledger);
                }
                Action::Erase { op, address } => {
                    self.to_erase.remove(address);
                    self.erases.insert(*op, *address);
                }
                Action::Read(transfer) => _ = self.reads.insert(transfer.op, (transfer.key, transfer.address)),
                Action::Reply { reply: LedgerReply::Found(states), .. } => {
                    let found = states.iter().map(|state| BlockState::from_byte(*state).is_some_and(BlockState::is_hit));
                    asked.keys.iter().zip(found).filter(|(_, found)| *found).for_each(|(key, _)| self.refuse_lost(key));
                }
                Action::Reply { reply: LedgerReply::LoadLease { lease, grants }, .. } => {
                    let had = asked.keys.iter().zip(grants).filter(|(_, grant)| **grant != LoadGrant::Miss);
                    had.for_each(|(key, _)| self.refuse_lost(key));
                    let load = asked.load.map(|(session, expires)| Load { session, expires, keys: asked.keys.clone() });
                    self.loads.extend(load.map(|load| (*lease, load)));
                }
                Action::Reply { reply: LedgerReply::Pinned(count), .. } => self.pin(&asked, *count as usize, now),
                _ => {}
            }
        }
        if let Some((key, address)) = asked.unreadable.filter(|(key, _)| !self.purged.contains(key)) {
            let still = ledger.inspect(key).is_some_and(|view| view.nvme == Some(address));
            assert!(!still, "{key} could not be read from page {address} and is still said to be there");
        }
    }

    fn refuse_lost(&self, key: &BlockKey) {
        assert!(!self.purged.contains(key), "{key} was purged and is found");
        assert!(!self.rotten.contains(key), "{key} was reported to be rotten and is handed out");
    }

    /// Which of the blocks were pinned is known only when all of them were.
    fn pin(&mut self, asked: &Asked, count: usize, now: Tick) {
        let Some(until) = asked.pins_until else { return };
        let distinct = asked.keys.iter().collect::<BTreeSet<_>>().len();
        self.pinned.retain(|key, _| !asked.keys.contains(key));
        if until > now && count == asked.keys.len() && distinct == count {
            self.pinned.extend(asked.keys.iter().map(|key| (*key, until)));
        }
    }

    fn follow(&mut self, now: Tick, edge: &ResidencyEdge, asked: &Asked, ledger: &Ledger) {
        match edge {
            ResidencyEdge::Stored { key, tier, .. } => {
                self.purged.remove(key);
                if *tier == TierKind::Cpu {
                    self.rotten.remove(key);
                }
            }
            ResidencyEdge::Removed { key, tier, .. } => {
                let expected = asked.may_drop || self.purged.contains(key) || self.rotten.contains(key);
                if *tier == TierKind::Cpu {
                    self.rotten.remove(key);
                }
                if ledger.inspect(*key).is_none_or(|view| view.tiers.is_empty()) {
                    let pinned = self.pinned.remove(key).is_some_and(|until| until > now);
                    assert!(!pinned || expected, "{key} was pinned and is gone");
                }
            }
        }
    }

    /// True for a block that was purged and not stored since: it may still be there, as long as it is in use.
    pub fn is_purged(&self, key: &BlockKey) -> bool {
        self.purged.contains(key)
    }

    /// When everything is over.
    pub fn check_end(&self) {
        assert!(self.to_erase.is_empty(), "purged images were not erased: {:?}", self.to_erase);
    }
}
