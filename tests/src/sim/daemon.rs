//! One life of the daemon: the real ledger, and everything its answers promise, checked at every step.
//!
//! * every request gets exactly one reply, in its own step;
//! * a block that a load waits for is settled exactly once, no later than its deadline, and the ledger asks to be woken for it;
//! * replaying the events gives the residency;
//! * [`Ledger::check`].

use kvd_block::{BlockKey, LeaseId, LoadGrant, RequestId, ResidencyEdge, SessionId, Tick, TierKind};
use kvd_ledger::{Action, Input, Ledger, LedgerConfig, LedgerReply};
use std::collections::{BTreeMap, BTreeSet};

/// Steps between two comparisons of the events with the whole residency.
const COMPARE_EVERY: u64 = 8;

/// What a load lease is worth, as the judge knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadFacts {
    /// Until then nothing may change under it.
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
    events: BTreeSet<(BlockKey, TierKind)>,
    staged: BTreeMap<LeaseId, Staged>,
    steps: u64,
}

impl Daemon {
    /// A daemon whose ledger has its layouts and what it recovered.
    pub fn start(life: u64, arena: usize, ledger: Ledger, config: LedgerConfig) -> Daemon {
        ledger.check();
        let events = residency(&ledger);
        Daemon { life, arena, engines: BTreeMap::new(), next_session: 1, ledger, config, events, staged: BTreeMap::new(), steps: 0 }
    }

    /// The ledger, to look at.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// When a load prepared now with this wait ends by itself.
    pub fn load_expires(&self, now: u64, deadline_ms: u64) -> u64 {
        now + self.config.load_lease_ms.max(self.wait_ms(deadline_ms))
    }

    fn wait_ms(&self, deadline_ms: u64) -> u64 {
        if deadline_ms == 0 { self.config.load_deadline_ms } else { deadline_ms }
    }

    /// Steps the ledger and holds it to its promises.
    pub fn step(&mut self, now: Tick, input: Input) -> Vec<Action> {
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
        let mut actions = Vec::new();
        self.ledger.step(now, input, &mut actions);
        self.ledger.check();
        self.steps += 1;
        let replies: Vec<_> = actions.iter().filter_map(reply_of).collect();
        assert_eq!(replies, Vec::from_iter(asked), "every request gets exactly one reply");
        actions.iter().for_each(|action| self.follow(action, due));
        if let Some((session, lease)) = ends {
            self.staged.retain(|id, staged| staged.session != session || lease.is_some_and(|lease| lease != *id));
        }
        self.check_staged(now);
        if self.steps.is_multiple_of(COMPARE_EVERY) {
            self.compare();
        }
        actions
    }

    fn follow(&mut self, action: &Action, due: Tick) {
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

    fn check_staged(&mut self, now: Tick) {
        self.staged.retain(|_, staged| !staged.blocks.is_empty());
        let wake = self.ledger.next_deadline();
        for (lease, staged) in &self.staged {
            assert!(staged.due > now, "lease {lease} still waits for {:?} at its deadline", staged.blocks);
            assert!(wake.is_some_and(|wake| wake <= staged.due), "nobody wakes the ledger for the deadline of lease {lease}");
        }
    }

    /// Compares what the events say with what is there.
    pub fn compare(&self) {
        assert_eq!(residency(&self.ledger), self.events, "replaying the events gives the residency");
    }
}

fn residency(ledger: &Ledger) -> BTreeSet<(BlockKey, TierKind)> {
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
