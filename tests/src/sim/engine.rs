//! A simulated engine: looks up a prompt, loads what is there, stores the rest. Sometimes it is slow, wrong, or dies.

use crate::sim::copying::{Hand, LoadBlock};
use crate::sim::coverage::Situation;
use crate::sim::daemon::LoadFacts;
use crate::sim::node::{Event, Node};
use crate::sim::setting::throw_prompt;
use kvd_block::{BlockState, LayoutHandle, LeaseId, NewBlock, RequestId, SequenceHash, SessionId, SlotIndex};
use kvd_ledger::{Input, LedgerReply};
use std::collections::BTreeMap;

/// What a daemon says to an engine.
#[derive(Debug)]
pub(super) enum Said {
    Reply { request: RequestId, reply: LedgerReply, facts: LoadFacts },
    Notice { lease: LeaseId, ready: Vec<(u32, SlotIndex)>, missing: Vec<u32> },
}

/// An engine and its TP ranks.
#[derive(Debug, Default)]
pub(super) struct Engine {
    /// The daemon's life and the session there.
    pub home: Option<(u64, SessionId)>,
    pub jobs: BTreeMap<u64, Job>,
    /// Counts connections, so that what was meant for an earlier one is known.
    life: u64,
    /// The job that waits for an answer; none when nobody minds it.
    asked: BTreeMap<RequestId, Option<u64>>,
    last_request: u64,
    /// When the last message in each direction arrives: a connection keeps the order.
    sent_until: u64,
    heard_until: u64,
}

/// One prompt on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub layout: LayoutHandle,
    pub blocks: Vec<NewBlock>,
    pub arena: usize,
    pub state: State,
    pub hands: BTreeMap<u64, Hand>,
    /// The daemon that gave the lease is gone: finish copying, tell nobody.
    pub orphan: bool,
    /// Belongs to another job, and is followed by none.
    pub twin: bool,
}

#[derive(Debug)]
pub(super) enum State {
    /// Waits for the answer to a request.
    Asking,
    Loading {
        lease: LeaseId,
        facts: LoadFacts,
        blocks: Vec<LoadBlock>,
    },
    /// Told the daemon that the load is over.
    Loaded,
    Storing {
        lease: LeaseId,
        facts: LoadFacts,
        slots: Vec<Option<Filled>>,
    },
}

/// A slot being filled, and with which copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filled {
    pub slot: SlotIndex,
    pub copy: super::bytes::CopyId,
}

impl Engine {
    /// True when it fills slots.
    pub fn is_storing(&self) -> bool {
        self.jobs.values().any(|job| matches!(job.state, State::Storing { .. }) && !job.hands.is_empty())
    }

    /// True when it copies out of slots.
    pub fn is_loading(&self) -> bool {
        self.jobs.values().any(|job| matches!(job.state, State::Loading { .. }) && !job.hands.is_empty())
    }

    fn is_waiting(&self) -> bool {
        let waits = |state: &State| matches!(state, State::Loading { blocks, .. } if blocks.contains(&LoadBlock::Waiting));
        self.jobs.values().any(|job| waits(&job.state))
    }
}

impl Job {
    pub fn keys(&self) -> Vec<SequenceHash> {
        self.blocks.iter().map(|block| block.hash).collect()
    }
}

impl Node<'_> {
    pub(super) fn connect(&mut self, engine: usize) {
        let Some(daemon) = &mut self.daemon else { return };
        if self.engines[engine].home.is_some() {
            return;
        }
        let session = SessionId(daemon.next_session);
        daemon.next_session += 1;
        daemon.engines.insert(session, engine);
        let home = Some((daemon.life, session));
        let engine_state = &mut self.engines[engine];
        engine_state.home = home;
        engine_state.life += 1;
        let life = engine_state.life;
        self.tell(Input::OpenSession { session });
        for _ in 0..self.setting.lanes {
            let pause = self.dice.below(20);
            self.agenda.after(pause, Event::Wake { engine, life });
        }
    }

    /// Begins a job.
    pub(super) fn wake(&mut self, engine: usize, life: u64) {
        if self.closing || self.engines[engine].life != life || self.engines[engine].home.is_none() {
            return;
        }
        let mut blocks = throw_prompt(&mut self.dice);
        if self.dice.chance(3) {
            let twice = blocks[0].clone();
            blocks.push(twice);
        }
        if self.dice.chance(4) {
            self.tangle(&mut blocks);
        }
        let layouts = self.setting.shapes.len() as u64 + u64::from(self.dice.chance(1));
        let layout = LayoutHandle(self.dice.below(layouts) as u16);
        let keys: Vec<SequenceHash> = blocks.iter().map(|block| block.hash).collect();
        self.next_job += 1;
        let job = self.next_job;
        self.engines[engine]
            .jobs
            .insert(job, Job { layout, blocks, arena: 0, state: State::Asking, hands: BTreeMap::new(), orphan: false, twin: false });
        let until_miss = self.dice.chance(80);
        let ttl_ms = self.dice.below(3) * 60;
        match self.dice.below(20) {
            0 => self.ask(engine, job, |session, request| Input::Touch { session, request, layout, keys }),
            1 => self.ask(engine, job, |session, request| Input::Pin { session, request, layout, keys, ttl_ms }),
            2 => self.ask_load(engine, job, keys.len()),
            3 => self.ask_store(engine, job),
            _ => self.ask(engine, job, |session, request| Input::Lookup { session, request, layout, keys, until_miss }),
        }
    }

    /// A broken engine: parents in a circle, positions that make no sense.
    fn tangle(&mut self, blocks: &mut [NewBlock]) {
        self.met(Situation::ParentsInACircle);
        let count = blocks.len() as u64;
        for _ in 0..self.dice.range(1, 3) {
            let (child, parent) = (self.dice.below(count) as usize, self.dice.below(count) as usize);
            blocks[child].parent = blocks[parent].hash;
            if self.dice.chance(50) {
                blocks[child].position = self.dice.below(count + 2) as u32;
            }
        }
    }

    /// Sends a request for a job.
    pub(super) fn ask(&mut self, engine: usize, job: u64, input: impl FnOnce(SessionId, RequestId) -> Input) {
        self.send(engine, Some(job), input);
    }

    /// Sends a request; nobody minds the answer when there is no job.
    pub(super) fn send(&mut self, engine: usize, job: Option<u64>, input: impl FnOnce(SessionId, RequestId) -> Input) {
        let latency = if self.dice.chance(2) { self.dice.range(20, 200) } else { self.dice.below(3) };
        if latency >= 20 {
            self.met(Situation::RequestLate);
        }
        let state = &mut self.engines[engine];
        let Some((life, session)) = state.home else { return };
        state.last_request += 1;
        let request = RequestId(state.last_request);
        state.asked.insert(request, job);
        state.sent_until = state.sent_until.max(self.agenda.now() + latency);
        self.agenda.at(state.sent_until, Event::ToDaemon { life, input: input(session, request) });
    }

    /// Sends an answer to the engine of `session`.
    pub(super) fn say(&mut self, session: SessionId, said: Said) {
        let Some(daemon) = &self.daemon else { return };
        let Some(engine) = daemon.engines.get(&session).copied() else { return };
        let latency = self.dice.below(3);
        let state = &mut self.engines[engine];
        if state.home != Some((daemon.life, session)) {
            return;
        }
        state.heard_until = state.heard_until.max(self.agenda.now() + latency);
        self.agenda.at(state.heard_until, Event::ToEngine { life: state.life, engine, said });
    }

    pub(super) fn hear(&mut self, life: u64, engine: usize, said: Said) {
        if self.engines[engine].life != life || self.engines[engine].home.is_none() {
            return;
        }
        match said {
            Said::Reply { request, reply, facts } => {
                let job = self.engines[engine].asked.remove(&request).expect("a reply answers a request");
                if let Some(job) = job {
                    self.answered(engine, job, reply, facts);
                }
            }
            Said::Notice { lease, ready, missing } => self.noticed(engine, lease, ready, missing),
        }
    }

    fn answered(&mut self, engine: usize, job: u64, reply: LedgerReply, facts: LoadFacts) {
        match reply {
            LedgerReply::Found(states) => {
                let hits = states.iter().take_while(|state| BlockState::from_byte(**state).is_some_and(BlockState::is_hit)).count();
                if hits > 0 { self.ask_load(engine, job, hits) } else { self.ask_store(engine, job) }
            }
            LedgerReply::LoadLease { lease, grants } => self.begin_load(engine, job, lease, grants, facts),
            LedgerReply::StoreLease { lease, grants } => self.begin_store(engine, job, lease, grants, facts),
            LedgerReply::Done if matches!(self.engines[engine].jobs[&job].state, State::Loaded) => self.ask_store(engine, job),
            LedgerReply::Done => self.end_job(engine, job),
            LedgerReply::Pinned(blocks) => self.end_after(engine, job, (blocks > 0).then_some(Situation::Pinned)),
            LedgerReply::Busy(_) => self.end_after(engine, job, Some(Situation::RequestBusy)),
            LedgerReply::Invalid(_) => self.end_after(engine, job, Some(Situation::RequestInvalid)),
        }
    }

    fn end_after(&mut self, engine: usize, job: u64, met: Option<Situation>) {
        met.into_iter().for_each(|situation| self.met(situation));
        self.end_job(engine, job);
    }

    fn ask_load(&mut self, engine: usize, job: u64, blocks: usize) {
        let state = &self.engines[engine].jobs[&job];
        let (layout, mut keys) = (state.layout, state.keys());
        keys.truncate(blocks);
        // Zero is the default; the longest exceed any lease, the shortest any read.
        let deadline_ms = [0, 1, 10, 50, 200].get(self.dice.below(5) as usize).copied().unwrap_or(0);
        self.ask(engine, job, |session, request| Input::PrepareLoad { session, request, layout, keys, deadline_ms });
    }

    pub(super) fn ask_store(&mut self, engine: usize, job: u64) {
        let state = self.engines[engine].jobs.get_mut(&job).expect("a job in progress");
        state.state = State::Asking;
        let (layout, blocks) = (state.layout, state.blocks.clone());
        if self.dice.chance(6) {
            self.ask_store_twice(engine, layout, blocks.clone());
        }
        self.ask(engine, job, |session, request| Input::PrepareStore { session, request, layout, blocks });
    }

    /// Another rank of the same engine does not know that the first asks.
    fn ask_store_twice(&mut self, engine: usize, layout: LayoutHandle, blocks: Vec<NewBlock>) {
        self.next_job += 1;
        let twin = self.next_job;
        let job = Job { layout, blocks: blocks.clone(), arena: 0, state: State::Asking, hands: BTreeMap::new(), orphan: false, twin: true };
        self.engines[engine].jobs.insert(twin, job);
        self.ask(engine, twin, |session, request| Input::PrepareStore { session, request, layout, blocks });
    }

    /// Forgets a job and begins another one some time later.
    pub(super) fn end_job(&mut self, engine: usize, job: u64) {
        let alone = self.engines[engine].jobs.remove(&job).is_none_or(|job| job.orphan || job.twin);
        if !alone {
            let (pause, life) = (self.dice.below(15), self.engines[engine].life);
            self.agenda.after(pause, Event::Wake { engine, life });
        }
    }

    /// The engine's process is gone.
    pub(super) fn kill_engine(&mut self, engine: usize) {
        let state = &mut self.engines[engine];
        let Some((life, session)) = state.home.take() else { return };
        let met = [
            (state.is_storing(), Situation::EngineDiedStoring),
            (state.is_loading(), Situation::EngineDiedLoading),
            (state.is_waiting(), Situation::EngineDiedWaiting),
        ];
        met.into_iter().filter(|(met, _)| *met).for_each(|(_, situation)| self.outcome.coverage.met(situation));
        state.jobs.clear();
        state.asked.clear();
        let at = state.sent_until.max(self.agenda.now()) + self.dice.below(30);
        self.agenda.at(at, Event::ToDaemon { life, input: Input::CloseSession { session } });
        let back = self.dice.range(20, 100);
        self.agenda.after(back, Event::Connect { engine });
    }

    /// The daemon is gone: loads go on copying, everything else is given up.
    pub(super) fn lose_daemon(&mut self, engine: usize) {
        let state = &mut self.engines[engine];
        state.home = None;
        state.asked.clear();
        state.jobs.retain(|_, job| matches!(job.state, State::Loading { .. }) && !job.hands.is_empty());
        for job in state.jobs.values_mut() {
            job.orphan = true;
            if let State::Loading { blocks, .. } = &mut job.state {
                blocks.iter_mut().filter(|block| **block == LoadBlock::Waiting).for_each(|block| *block = LoadBlock::Missing);
            }
        }
        let back = self.dice.range(1, 60);
        self.agenda.after(back, Event::Connect { engine });
    }
}
