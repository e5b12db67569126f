//! One life of the daemon: the real ledger, and everything its answers promise, checked at every step.
//!
//! * every request gets exactly one reply, in its own step;
//! * a block that a load waits for is settled exactly once, no later than its deadline, and the ledger asks to be woken for it;
//! * replaying the events gives the residency, at the daemon's death too, and so does a subscriber that loses some of them;
//! * [`Ledger::check`].

use crate::sim::catalog::Rows;
use crate::sim::coverage::{Coverage, Situation};
use crate::sim::dice::Dice;
use crate::sim::promises::Promises;
use crate::sim::subscriber::{Residency, Subscriber};
use kvd_block::{BlockKey, LayoutHandle, LeaseId, LoadGrant, NewBlock, RequestId, ResidencyEdge, SessionId, StoreGrant, Tick, TierKind};
use kvd_ledger::{Action, Input, Ledger, LedgerConfig, LedgerReply};
use std::collections::{BTreeMap, BTreeSet};

/// Steps between two comparisons of the events with the whole residency.
const COMPARE_EVERY: u64 = 8;

/// What a lease is worth, as the judge knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadFacts {
    /// Until then nothing may change under it, or it may be completed.
    pub expires: u64,
    /// Purges that its bytes must have seen, per layout counted by the world.
    pub purges: u64,
}

#[derive(Debug)]
struct Staged {
    session: SessionId,
    due: Tick,
    blocks: BTreeSet<u32>,
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    /// Which life this is.
    pub life: u64,
    /// Which arena it has.
    pub arena: usize,
    /// Engine of each session.
    pub engines: BTreeMap<SessionId, usize>,
    /// The next session's number: each life begins anew.
    pub next_session: u64,
    ledger: Ledger,
    config: LedgerConfig,
    events: Residency,
    published: u64,
    subscriber: Subscriber,
    /// Who was last granted a slot for a block.
    fillers: BTreeMap<BlockKey, SessionId>,
    staged: BTreeMap<LeaseId, Staged>,
    promises: Promises,
    steps: u64,
}

impl Daemon {
    /// A daemon whose ledger has its layouts and what it recovered.
    pub fn start(life: u64, arena: usize, ledger: Ledger, config: LedgerConfig) -> Daemon {
        ledger.check();
        let events = residency(&ledger);
        Daemon {
            life,
            arena,
            engines: BTreeMap::new(),
            next_session: 1,
            ledger,
            config,
            subscriber: Subscriber::new(events.clone()),
            events,
            published: 0,
            fillers: BTreeMap::new(),
            staged: BTreeMap::new(),
            promises: Promises::default(),
            steps: 0,
        }
    }

    /// The ledger, to look at.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// When a load prepared now with this wait ends by itself.
    pub fn load_expires(&self, now: u64, deadline_ms: u64) -> u64 {
        now + self.config.load_lease_ms.max(self.wait_ms(deadline_ms))
    }

    /// When a store prepared now is late.
    pub fn store_expires(&self, now: u64) -> u64 {
        now + self.config.store_lease_ms
    }

    fn wait_ms(&self, deadline_ms: u64) -> u64 {
        if deadline_ms == 0 { self.config.load_deadline_ms } else { deadline_ms }
    }

    /// Steps the ledger and holds it to its promises.
    pub fn step(&mut self, now: Tick, input: Input, dice: &mut Dice, coverage: &mut Coverage) -> Vec<Action> {
        let asked = request_of(&input);
        let due = match &input {
            Input::PrepareLoad { deadline_ms, .. } => now.after_ms(self.wait_ms(*deadline_ms)),
            _ => now,
        };
        let ends = match &input {
            Input::CompleteLoad { session, lease, .. } => Some((*session, Some(*lease))),
            Input::CloseSession { session } => Some((*session, None)),
            _ => None,
        };
        let stores = match &input {
            Input::PrepareStore { session, layout, blocks, .. } => Some((*session, *layout, blocks.clone())),
            _ => None,
        };
        let expires = match &input {
            Input::PrepareLoad { deadline_ms, .. } => Tick(self.load_expires(now.0, *deadline_ms)),
            _ => now,
        };
        let promised = self.promises.before(now, &input, &self.ledger, expires);
        let mut actions = Vec::new();
        self.ledger.step(now, input, &mut actions);
        self.promises.after(now, promised, &actions, &self.ledger);
        self.ledger.check();
        self.steps += 1;
        let replies: Vec<_> = actions.iter().filter_map(reply_of).collect();
        assert_eq!(replies, Vec::from_iter(asked), "every request gets exactly one reply");
        actions.iter().for_each(|action| self.follow(action, due, dice));
        self.sweep(dice, coverage);
        if let Some((session, layout, blocks)) = stores {
            self.note_fillers(session, layout, &blocks, &actions, coverage);
        }
        if let Some((session, lease)) = ends {
            self.staged.retain(|id, staged| staged.session != session || lease.is_some_and(|lease| lease != *id));
        }
        self.check_staged(now);
        let stuck = self.ledger.waiting_writes() > 0 && self.ledger.open_transfers() == 0 && self.ledger.next_deadline().is_none();
        assert!(!stuck, "writes or erases wait, and nothing will wake the ledger for them");
        if self.steps.is_multiple_of(COMPARE_EVERY) {
            self.compare();
        }
        actions
    }

    fn follow(&mut self, action: &Action, due: Tick, dice: &mut Dice) {
        if let Action::Publish(edge) = action {
            self.subscriber.follow(self.published, edge, !dice.chance(1));
            self.published += 1;
        }
        match action {
            Action::Publish(ResidencyEdge::Stored { key, tier, .. }) => {
                assert!(self.events.insert((*key, *tier)), "{key} came to {tier} twice")
            }
            Action::Publish(ResidencyEdge::Removed { key, tier, .. }) => {
                assert!(self.events.remove(&(*key, *tier)), "{key} left {tier} twice")
            }
            Action::Reply { session, reply: LedgerReply::LoadLease { lease, grants }, .. } => {
                let waits = |(at, grant): (usize, &LoadGrant)| (*grant == LoadGrant::Staging).then_some(at as u32);
                let blocks: BTreeSet<u32> = grants.iter().enumerate().filter_map(waits).collect();
                self.staged.insert(*lease, Staged { session: *session, due, blocks });
            }
            Action::Notify { lease, ready, missing, .. } => {
                let staged = self.staged.get_mut(lease).expect("notices are about open loads");
                for at in ready.iter().map(|(at, _)| at).chain(missing) {
                    assert!(staged.blocks.remove(at), "block {at} of lease {lease} was settled twice");
                }
            }
            _ => {}
        }
    }

    /// A snapshot goes on a little after every step.
    fn sweep(&mut self, dice: &mut Dice, coverage: &mut Coverage) {
        let most = dice.below(6) as usize;
        if let Some(meanwhile) = self.subscriber.sweep(&self.ledger, most, self.published) {
            coverage.met(Situation::SubscriberLostEvents);
            if meanwhile > 0 {
                coverage.met(Situation::SnapshotOverSteps);
            }
            assert_eq!(self.subscriber.believes(self.published), Some(&residency(&self.ledger)), "a snapshot is what is there at its end");
        }
    }

    fn note_fillers(&mut self, session: SessionId, layout: LayoutHandle, blocks: &[NewBlock], actions: &[Action], coverage: &mut Coverage) {
        let grants = actions.iter().find_map(|action| match action {
            Action::Reply { reply: LedgerReply::StoreLease { grants, .. }, .. } => Some(grants),
            _ => None,
        });
        let mut own = BTreeSet::new();
        for (block, grant) in blocks.iter().zip(grants.into_iter().flatten()) {
            let key = BlockKey { layout, hash: block.hash };
            match grant {
                StoreGrant::Write(_) => {
                    self.fillers.insert(key, session);
                    own.insert(key);
                }
                StoreGrant::Pending if own.contains(&key) => {}
                StoreGrant::Pending if self.fillers.get(&key) == Some(&session) => coverage.met(Situation::TwoRanksStoreOneBlock),
                StoreGrant::Pending if self.fillers.contains_key(&key) => coverage.met(Situation::TwoEnginesFillOneBlock),
                StoreGrant::Busy => coverage.met(Situation::StoreFoundNoRoom),
                StoreGrant::Pending | StoreGrant::Present => {}
            }
        }
    }

    fn check_staged(&mut self, now: Tick) {
        self.staged.retain(|_, staged| !staged.blocks.is_empty());
        let wake = self.ledger.next_deadline();
        for (lease, staged) in &self.staged {
            assert!(staged.due > now, "lease {lease} still waits for {:?} at its deadline", staged.blocks);
            assert!(wake.is_some_and(|wake| wake <= staged.due), "nobody wakes the ledger for the deadline of lease {lease}");
        }
    }

    /// Row for row, the catalog is what NVMe holds: too few cost blocks, too many are never deleted. Of what was purged and is still
    /// in use there are no rows.
    pub fn check_rows(&self, rows: &Rows) {
        let there: Rows = self.ledger.resident(TierKind::Nvme).map(|row| (row.key, row)).collect();
        let wrong: Vec<_> = rows.values().filter(|row| there.get(&row.key) != Some(row)).collect();
        assert!(wrong.is_empty(), "rows of blocks that are not on NVMe, or elsewhere: {wrong:?}");
        let missing: Vec<_> = there.keys().filter(|key| !rows.contains_key(key) && !self.promises.is_purged(key)).collect();
        assert!(missing.is_empty(), "blocks on NVMe without a row: {missing:?}");
    }

    /// Holds a life that ends in order to what is left of its promises.
    pub fn check_end(&self) {
        self.compare();
        self.promises.check_end();
    }

    /// Compares what the events say with what is there.
    pub fn compare(&self) {
        let there = residency(&self.ledger);
        assert_eq!(there, self.events, "replaying the events gives the residency");
        if let Some(believes) = self.subscriber.believes(self.published) {
            assert_eq!(*believes, there, "a subscriber that missed nothing, or took a snapshot, knows the residency");
        }
    }
}

fn residency(ledger: &Ledger) -> Residency {
    TierKind::ALL.into_iter().flat_map(|tier| ledger.resident(tier).map(move |row| (row.key, tier))).collect()
}

fn reply_of(action: &Action) -> Option<(SessionId, RequestId)> {
    if let Action::Reply { session, request, .. } = action { Some((*session, *request)) } else { None }
}

fn request_of(input: &Input) -> Option<(SessionId, RequestId)> {
    match input {
        Input::Lookup { session, request, .. }
        | Input::PrepareStore { session, request, .. }
        | Input::CompleteStore { session, request, .. }
        | Input::PrepareLoad { session, request, .. }
        | Input::CompleteLoad { session, request, .. }
        | Input::Touch { session, request, .. }
        | Input::Pin { session, request, .. } => Some((*session, *request)),
        _ => None,
    }
}
