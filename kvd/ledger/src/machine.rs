//! The state, and which part of the machine takes which input.

use crate::admission::Gate;
use crate::config::LedgerConfig;
use crate::counters::Counters;
use crate::erase::Erases;
use crate::evict::density::Density;
use crate::evict::lists::EvictionLists;
use crate::evict::policy::{Eviction, Policy};
use crate::input::{Action, Input, LedgerReply};
use crate::lease::Lease;
use crate::pin::Pins;
use crate::record::{BlockIndex, Records, STAMP_BITS};
use crate::space::{SlotSpace, SpaceConfig};
use kvd_block::{BlockKey, LayoutHandle, LeaseId, OpId, RequestId, SequenceHash, SessionId, SlotIndex, Tick, TierKind};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// What a layout means to the ledger.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayoutFacts {
    pub slot_pages: u32,
    pub ranks: u16,
    pub generation: u64,
    /// Blocks that can be read from each tier.
    pub blocks: [u64; 2],
}

/// One medium.
#[derive(Debug)]
pub(crate) struct TierState {
    pub space: SlotSpace,
    pub lists: EvictionLists,
    pub policy: Policy,
    pub blocks: u64,
    /// It had no free slot once: from then on it holds as much as it can.
    pub was_full: bool,
}

/// A transfer under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Write(BlockIndex),
    Read(BlockIndex),
    Erase { address: SlotIndex, pages: u32 },
}

/// The machine. See the crate's description.
#[derive(Debug)]
pub struct Ledger {
    pub(crate) config: LedgerConfig,
    pub(crate) now: Tick,
    pub(crate) layouts: BTreeMap<LayoutHandle, LayoutFacts>,
    pub(crate) records: Records,
    pub(crate) tiers: [Option<TierState>; 2],
    /// Open sessions and their leases.
    pub(crate) sessions: BTreeMap<SessionId, BTreeSet<LeaseId>>,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) deadlines: BTreeSet<(Tick, LeaseId)>,
    /// Load leases that wait for a block to be read, with the block's index in each.
    pub(crate) waiters: HashMap<BlockIndex, Vec<(LeaseId, u32)>>,
    pub(crate) ops: BTreeMap<OpId, Op>,
    pub(crate) writes: usize,
    pub(crate) reads: usize,
    pub(crate) write_backlog: VecDeque<BlockKey>,
    pub(crate) read_backlog: VecDeque<BlockKey>,
    pub(crate) writes_paused_until: Option<Tick>,
    pub(crate) erases: Erases,
    /// Blocks of which a row was refused, while rows come.
    pub(crate) refused: BTreeSet<BlockKey>,
    pub(crate) pinned: Pins,
    pub(crate) retained: Pins,
    /// What eviction has learnt; only when a tier's policy uses it.
    pub(crate) density: Option<Box<Density>>,
    /// A tier's policy keeps more of a use than its time.
    pub(crate) orders_uses: bool,
    pub(crate) gate: Gate,
    /// Where the search for a parent to evict stopped last.
    pub(crate) parents_hand: usize,
    pub(crate) draining: bool,
    pub(crate) stamp: u64,
    pub(crate) last_lease: u64,
    pub(crate) last_op: u64,
    pub(crate) counters: Counters,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(config: LedgerConfig) -> Ledger {
        let tier = |space: SpaceConfig, eviction: Eviction| TierState {
            space: SlotSpace::new(space),
            lists: EvictionLists::default(),
            policy: Policy::new(eviction),
            blocks: 0,
            was_full: false,
        };
        let learns = config.arena_eviction == Eviction::Density || (config.nvme.is_some() && config.nvme_eviction == Eviction::Density);
        Ledger {
            tiers: [Some(tier(config.arena, config.arena_eviction)), config.nvme.map(|space| tier(space, config.nvme_eviction))],
            density: learns.then(Box::default),
            orders_uses: [config.arena_eviction, config.nvme_eviction].iter().any(|eviction| eviction.orders_uses()),
            gate: Gate::new(&config),
            config,
            now: Tick::default(),
            layouts: BTreeMap::new(),
            records: Records::default(),
            sessions: BTreeMap::new(),
            leases: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            waiters: HashMap::new(),
            ops: BTreeMap::new(),
            writes: 0,
            reads: 0,
            write_backlog: VecDeque::new(),
            read_backlog: VecDeque::new(),
            writes_paused_until: None,
            erases: Erases::default(),
            refused: BTreeSet::new(),
            pinned: Pins::default(),
            retained: Pins::default(),
            parents_hand: 0,
            draining: false,
            stamp: 0,
            last_lease: 0,
            last_op: 0,
            counters: Counters::default(),
        }
    }

    /// Applies `input` as of `now` and appends what must happen next, in order, to `actions`.
    pub fn step(&mut self, now: Tick, input: Input, actions: &mut Vec<Action>) {
        self.now = self.now.max(now);
        self.end_overdue(actions);
        match input {
            Input::Tick => {}
            Input::DefineLayout { layout, slot_pages, ranks, generation } => {
                self.layouts.entry(layout).or_insert(LayoutFacts { slot_pages, ranks, generation, blocks: [0; 2] });
            }
            Input::OpenSession { session } => {
                self.refused = BTreeSet::new();
                self.sessions.entry(session).or_default();
            }
            Input::CloseSession { session } => self.close_session(session, actions),
            Input::Lookup { session, request, layout, keys, until_miss } => {
                let reply = self.checked(session, layout, keys.len()).map(|_| self.lookup(layout, &keys, until_miss));
                self.reply(session, request, reply, actions);
            }
            Input::PrepareStore { session, request, layout, blocks } => {
                let reply = self.may_lease(session, layout, blocks.len()).map(|_| self.prepare_store(session, layout, blocks, actions));
                self.reply(session, request, reply, actions);
            }
            Input::CompleteStore { session, request, lease, filled } => {
                self.complete_store(session, lease, filled, actions);
                self.reply(session, request, Ok(LedgerReply::Done), actions);
            }
            Input::PrepareLoad { session, request, layout, keys, deadline_ms } => {
                let reply = self.may_lease(session, layout, keys.len()).map(|_| self.prepare_load(session, layout, &keys, deadline_ms));
                self.reply(session, request, reply, actions);
                self.start_reads(actions);
            }
            Input::CompleteLoad { session, request, lease, corrupt } => {
                self.complete_load(session, lease, &corrupt, actions);
                self.reply(session, request, Ok(LedgerReply::Done), actions);
            }
            Input::Touch { session, request, layout, keys } => {
                let reply = self.checked(session, layout, keys.len()).map(|_| self.touch_all(layout, &keys));
                self.reply(session, request, reply, actions);
            }
            Input::Pin { session, request, layout, keys, ttl_ms } => {
                let reply = self.checked(session, layout, keys.len()).map(|_| self.pin(layout, &keys, ttl_ms));
                self.reply(session, request, reply, actions);
            }
            Input::Retain { session, request, layout, keys, priority, ttl_ms } => {
                let reply = self.checked(session, layout, keys.len()).map(|_| self.retain(layout, &keys, priority, ttl_ms));
                self.reply(session, request, reply, actions);
            }
            Input::WriteDone { op, result } => self.write_done(op, result, actions),
            Input::ReadDone { op, result } => self.read_done(op, result, actions),
            Input::EraseDone { op, result } => self.erase_done(op, result),
            Input::Recovered { tier, rows } => self.recover(tier, rows, actions),
            Input::FoundCorrupt { key, tier, address } => self.found_corrupt(key, tier, address, actions),
            Input::Purge { layout, generation } => self.purge(layout, generation, actions),
            Input::Drain(draining) => self.draining = draining,
        }
        self.start_erases(actions);
        self.start_writes(actions);
    }

    /// Earliest tick at which [`Input::Tick`] is needed.
    pub fn next_deadline(&self) -> Option<Tick> {
        let lease = self.deadlines.first().map(|(tick, _)| *tick);
        let pause = self.writes_paused_until.filter(|_| !self.write_backlog.is_empty());
        let pin = self.pinned.first_end();
        [lease, pause, pin, self.retained.first_end(), self.erases.next_deadline()].into_iter().flatten().min()
    }

    /// Totals of everything done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn reply(&mut self, session: SessionId, request: RequestId, reply: Result<LedgerReply, LedgerReply>, actions: &mut Vec<Action>) {
        let reply = reply.unwrap_or_else(|refusal| refusal);
        actions.push(Action::Reply { session, request, reply });
    }

    /// Refuses requests that name what does not exist or ask for too much.
    fn checked(&self, session: SessionId, layout: LayoutHandle, blocks: usize) -> Result<LayoutFacts, LedgerReply> {
        if !self.sessions.contains_key(&session) {
            return Err(LedgerReply::Invalid(format!("session {session} is not open")));
        }
        let most = self.config.max_blocks_per_request;
        if blocks > most {
            return Err(LedgerReply::Invalid(format!("{blocks} blocks in one request, at most {most} are allowed")));
        }
        self.layouts.get(&layout).copied().ok_or_else(|| LedgerReply::Invalid(format!("layout {layout} is not defined")))
    }

    /// As [`Ledger::checked`], and refuses new leases while draining or when the session has too many.
    fn may_lease(&self, session: SessionId, layout: LayoutHandle, blocks: usize) -> Result<LayoutFacts, LedgerReply> {
        let facts = self.checked(session, layout, blocks)?;
        if self.draining {
            return Err(LedgerReply::Busy("the daemon is draining"));
        }
        if self.sessions[&session].len() >= self.config.max_leases_per_session {
            return Err(LedgerReply::Busy("the session has too many open leases"));
        }
        Ok(facts)
    }

    /// A stamp newer than all before; its upper bits are the time.
    pub(crate) fn next_stamp(&mut self) -> u64 {
        self.stamp = (self.stamp + 1).max(self.now.0 << STAMP_BITS);
        self.stamp
    }

    pub(crate) fn slot_pages(&self, index: BlockIndex) -> u32 {
        self.layouts[&self.records[index].key.layout].slot_pages
    }

    pub(crate) fn tier(&mut self, tier: TierKind) -> Option<&mut TierState> {
        self.tiers[tier as usize].as_mut()
    }

    pub(crate) fn find(&self, layout: LayoutHandle, hash: SequenceHash) -> Option<BlockIndex> {
        self.records.find(BlockKey { layout, hash })
    }
}
