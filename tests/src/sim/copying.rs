//! The ranks of an engine copy between their memory and slots, a page at a time, with everything else going on meanwhile.
//!
//! A reader looks at the header first and at the checksum last, as the connector does.

use crate::sim::bytes::{CopyId, Header, Origin, Page, checksum};
use crate::sim::coverage::Situation;
use crate::sim::daemon::LoadFacts;
use crate::sim::engine::{Filled, Job, State};
use crate::sim::node::{Event, Node};
use kvd_block::{BlockKey, Checksum, FilledBlock, LeaseId, LoadGrant, RequestId, SessionId, SlotIndex, StoreGrant};
use kvd_ledger::Input;
use std::rc::Rc;

/// One rank at one slot.
#[derive(Debug)]
pub(super) struct Hand {
    /// Which block of the job.
    block: usize,
    rank: u16,
    slot: SlotIndex,
    /// The copy to write; none for a reader.
    writes: Option<CopyId>,
    header: Option<Rc<Header>>,
    pages: Vec<Page>,
    saw_rot: bool,
    slow: bool,
}

/// One block of a load, as the engine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoadBlock {
    Waiting,
    Copied { ok: bool },
    Missing,
}

impl Node<'_> {
    pub(super) fn begin_load(&mut self, engine: usize, job: u64, lease: LeaseId, grants: Vec<LoadGrant>, facts: LoadFacts) {
        if grants.iter().all(|grant| *grant == LoadGrant::Miss) {
            return self.ask_store(engine, job);
        }
        let block = |grant: &LoadGrant| match grant {
            LoadGrant::Ready(_) => LoadBlock::Copied { ok: true },
            LoadGrant::Staging => LoadBlock::Waiting,
            LoadGrant::Miss => LoadBlock::Missing,
        };
        let arena = self.daemon.as_ref().map_or(0, |daemon| daemon.arena);
        let state = self.engines[engine].jobs.get_mut(&job).expect("a job in progress");
        state.arena = arena;
        state.state = State::Loading { lease, facts, blocks: grants.iter().map(block).collect() };
        for (at, grant) in grants.iter().enumerate() {
            match grant {
                LoadGrant::Ready(slot) => self.add_hands(engine, job, at, *slot, None),
                LoadGrant::Staging => self.note_shared_read(engine, job, at),
                LoadGrant::Miss => {}
            }
        }
        if grants.contains(&LoadGrant::Staging) && self.dice.chance(10) {
            let patience = self.dice.below(20);
            self.agenda.after(patience, Event::GiveUp { engine, job });
        }
        self.finish_load(engine, job);
    }

    pub(super) fn noticed(&mut self, engine: usize, of: LeaseId, ready: Vec<(u32, SlotIndex)>, missing: Vec<u32>) {
        let is_it = |state: &State| matches!(state, State::Loading { lease, .. } if *lease == of);
        let job = self.engines[engine].jobs.iter().find(|(_, job)| is_it(&job.state) && !job.orphan).map(|(job, _)| *job);
        let Some(job) = job else { return };
        let Some(State::Loading { blocks, .. }) = self.engines[engine].jobs.get_mut(&job).map(|job| &mut job.state) else { return };
        let mut slots = Vec::new();
        for (at, slot) in ready {
            if std::mem::replace(&mut blocks[at as usize], LoadBlock::Copied { ok: true }) == LoadBlock::Waiting {
                slots.push((at, slot));
            }
        }
        missing.iter().for_each(|at| blocks[*at as usize] = LoadBlock::Missing);
        slots.into_iter().for_each(|(at, slot)| self.add_hands(engine, job, at as usize, slot, None));
        self.finish_load(engine, job);
    }

    /// The engine does not want to wait any longer for what is not there yet.
    pub(super) fn give_up(&mut self, engine: usize, job: u64) {
        let Some(state) = self.engines[engine].jobs.get_mut(&job) else { return };
        let State::Loading { blocks, .. } = &mut state.state else { return };
        if state.hands.is_empty() {
            let waiting = blocks.iter_mut().filter(|block| **block == LoadBlock::Waiting);
            if waiting.map(|block| *block = LoadBlock::Missing).count() > 0 {
                self.met(Situation::GaveUpWaiting);
                self.finish_load(engine, job);
            }
        }
    }

    pub(super) fn begin_store(&mut self, engine: usize, job: u64, lease: LeaseId, grants: Vec<StoreGrant>, facts: LoadFacts) {
        let arena = self.daemon.as_ref().map_or(0, |daemon| daemon.arena);
        let state = self.engines[engine].jobs.get_mut(&job).expect("a job in progress");
        let (layout, keys) = (state.layout, state.keys());
        let mut slots = Vec::new();
        for (grant, hash) in grants.iter().zip(keys) {
            let origin = Origin { key: BlockKey { layout, hash }, engine, purges: facts.purges };
            slots.push(match grant {
                StoreGrant::Write(slot) => Some(Filled { slot: *slot, copy: self.copies.make(origin) }),
                _ => None,
            });
        }
        if slots.iter().all(Option::is_none) {
            return self.end_job(engine, job);
        }
        state.arena = arena;
        state.state = State::Storing { lease, facts, slots: slots.clone() };
        for (at, filled) in slots.into_iter().enumerate() {
            if let Some(filled) = filled {
                self.add_hands(engine, job, at, filled.slot, Some(filled.copy));
            }
        }
    }

    fn note_shared_read(&mut self, engine: usize, job: u64, at: usize) {
        let (layout, hash) = (self.engines[engine].jobs[&job].layout, self.engines[engine].jobs[&job].blocks[at].hash);
        let waits = |other: &Job| match &other.state {
            State::Loading { blocks, .. } if other.layout == layout => {
                other.blocks.iter().zip(blocks).any(|(block, state)| block.hash == hash && *state == LoadBlock::Waiting)
            }
            _ => false,
        };
        let mut others = self.engines.iter().flat_map(|engine| &engine.jobs).filter(|(name, _)| **name != job);
        if others.any(|(_, other)| waits(other)) {
            self.met(Situation::OneReadForTwoLoads);
        }
    }

    fn add_hands(&mut self, engine: usize, job: u64, block: usize, slot: SlotIndex, writes: Option<CopyId>) {
        let reads_too = |other: &Job| !other.orphan && other.hands.values().any(|hand| hand.writes.is_none() && hand.slot == slot);
        let mut others = self.engines.iter().enumerate().filter(|(at, _)| *at != engine).flat_map(|(_, other)| other.jobs.values());
        if writes.is_none() && others.any(reads_too) {
            self.met(Situation::TwoLoadsOfOneBlock);
        }
        let layout = self.engines[engine].jobs[&job].layout;
        for rank in 0..self.setting.shape(layout).ranks {
            self.next_job += 1;
            let (name, slow) = (self.next_job, self.dice.chance(3));
            let hand = Hand { block, rank, slot, writes, header: None, pages: Vec::new(), saw_rot: false, slow };
            self.engines[engine].jobs.get_mut(&job).expect("a job in progress").hands.insert(name, hand);
            let pause = self.dice.below(3);
            self.agenda.after(pause, Event::Copy { engine, job, hand: name });
        }
    }

    /// One rank copies its next page.
    pub(super) fn copy(&mut self, engine: usize, job: u64, name: u64) {
        let Some(state) = self.engines[engine].jobs.get_mut(&job) else { return };
        let Some(mut hand) = state.hands.remove(&name) else { return };
        let shape = self.setting.shape(state.layout);
        let arena = &mut self.arenas[state.arena];
        let key = BlockKey { layout: state.layout, hash: state.blocks[hand.block].hash };
        let done = match hand.writes {
            Some(copy) => {
                if state.hands.values().any(|other| other.block == hand.block) {
                    self.outcome.coverage.met(Situation::RanksFillOneSlotTogether);
                }
                write_page(&mut hand, arena, copy, shape)
            }
            None => read_page(&mut hand, arena, key, shape),
        };
        if !done {
            let pause = if hand.slow { self.dice.range(30, 120) } else { self.dice.below(3) };
            state.hands.insert(name, hand);
            return self.agenda.after(pause, Event::Copy { engine, job, hand: name });
        }
        if hand.writes.is_some() {
            self.finish_store(engine, job);
        } else {
            self.judge(engine, job, hand);
            self.finish_load(engine, job);
        }
    }

    /// The reader decides by checksum; then the judge decides whether it was right.
    fn judge(&mut self, engine: usize, job: u64, hand: Hand) {
        let state = self.engines[engine].jobs.get_mut(&job).expect("a job in progress");
        let key = BlockKey { layout: state.layout, hash: state.blocks[hand.block].hash };
        let shape = self.setting.shape(state.layout);
        let State::Loading { facts, blocks, .. } = &mut state.state else { unreachable!("a reader belongs to a load") };
        let accepts = hand.header.is_some_and(|header| header.stripes[usize::from(hand.rank)] == checksum(&hand.pages));
        if accepts {
            let origin = self.copies.judge(&hand.pages, key, shape, hand.rank);
            assert!(origin.purges >= facts.purges, "{key} was purged and served");
            if origin.engine != engine {
                self.outcome.coverage.met(Situation::SharedPrefix);
            }
            self.outcome.accepted += 1;
        } else {
            self.outcome.refused += 1;
            let excused = hand.saw_rot || state.orphan || self.agenda.now() >= facts.expires;
            assert!(excused, "{key} changed in slot {} under a valid lease", hand.slot);
            let met = if hand.saw_rot { Situation::ReaderFoundRot } else { Situation::StaleReaderRefused };
            self.outcome.coverage.met(met);
            blocks[hand.block] = LoadBlock::Copied { ok: false };
        }
    }

    fn finish_load(&mut self, engine: usize, job: u64) {
        let state = &self.engines[engine].jobs[&job];
        let State::Loading { lease, blocks, .. } = &state.state else { return };
        if !state.hands.is_empty() || blocks.contains(&LoadBlock::Waiting) {
            return;
        }
        if state.orphan {
            return self.end_job(engine, job);
        }
        let corrupt: Vec<u32> = (0..blocks.len()).filter(|at| blocks[*at] == LoadBlock::Copied { ok: false }).map(|at| at as u32).collect();
        let lease = *lease;
        self.engines[engine].jobs.get_mut(&job).expect("a job in progress").state = State::Loaded;
        self.note_sharing(engine, job, &corrupt);
        let again = corrupt.clone();
        self.ask(engine, job, |session, request| Input::CompleteLoad { session, request, lease, corrupt });
        self.say_again(engine, lease, |session, request, lease| Input::CompleteLoad { session, request, lease, corrupt: again });
    }

    fn finish_store(&mut self, engine: usize, job: u64) {
        let state = &self.engines[engine].jobs[&job];
        let State::Storing { lease, facts, slots } = &state.state else { return };
        if !state.hands.is_empty() {
            return;
        }
        if self.agenda.now() >= facts.expires {
            self.outcome.coverage.met(Situation::StoreCompletedLate);
        }
        let (lease, shape, arena) = (*lease, self.setting.shape(state.layout), &self.arenas[state.arena]);
        let mut filled = Vec::new();
        for (at, Filled { slot, copy }) in slots.iter().enumerate().filter_map(|(at, slot)| slot.map(|slot| (at, slot))) {
            let mut stripes: Vec<Checksum> = Vec::new();
            for rank in 0..shape.ranks {
                let wanted: Vec<Page> = shape.stripe(rank).map(|part| Page::Data { copy, part: part as u32 }).collect();
                for (page, part) in wanted.iter().zip(shape.stripe(rank)) {
                    let found = &arena[slot.0 as usize + part];
                    assert!(found == page || found.is_noise(), "someone wrote into slot {slot} while it was being filled: {found:?}");
                }
                stripes.push(checksum(&wanted));
            }
            // A rank may have failed, or the engine may talk nonsense.
            match self.dice.below(40) {
                0 => continue,
                1 => stripes.truncate(usize::from(shape.ranks) - 1),
                2 => filled.push(FilledBlock { index: 1000, stripes: stripes.clone() }),
                _ => {}
            }
            filled.push(FilledBlock { index: at as u32, stripes });
        }
        let again = filled.clone();
        self.ask(engine, job, |session, request| Input::CompleteStore { session, request, lease, filled });
        self.say_again(engine, lease, |session, request, lease| Input::CompleteStore { session, request, lease, filled: again });
    }

    /// What else a broken engine says: the same again, or the same about a lease that is not its own.
    fn say_again(&mut self, engine: usize, lease: LeaseId, input: impl FnOnce(SessionId, RequestId, LeaseId) -> Input) {
        let (met, lease) = match self.dice.below(40) {
            0 | 1 => (Situation::RequestTwice, lease),
            2 => (Situation::RequestNonsense, self.foreign_lease(engine, lease)),
            _ => return,
        };
        self.met(met);
        self.send(engine, None, |session, request| input(session, request, lease));
    }

    /// A lease of another engine, if there is one, or one that does not exist.
    fn foreign_lease(&self, engine: usize, own: LeaseId) -> LeaseId {
        let others = self.engines.iter().enumerate().filter(|(at, _)| *at != engine).flat_map(|(_, other)| other.jobs.values());
        let lease = |job: &Job| match job.state {
            State::Loading { lease, .. } | State::Storing { lease, .. } if !job.orphan => Some(lease),
            _ => None,
        };
        others.filter_map(lease).next().unwrap_or(LeaseId(u64::MAX - own.0))
    }

    /// Notes whether another engine reads what this one found to be corrupt.
    fn note_sharing(&mut self, engine: usize, job: u64, corrupt: &[u32]) {
        let own = &self.engines[engine].jobs[&job];
        let bad: Vec<BlockKey> = corrupt.iter().map(|at| BlockKey { layout: own.layout, hash: own.blocks[*at as usize].hash }).collect();
        let reads = |other: &Job, key: &BlockKey| {
            let is_it = |hand: &Hand| hand.writes.is_none() && other.blocks[hand.block].hash == key.hash;
            other.layout == key.layout && !other.orphan && other.hands.values().any(is_it)
        };
        let others = self.engines.iter().enumerate().filter(|(at, _)| *at != engine).flat_map(|(_, other)| other.jobs.values());
        if others.into_iter().any(|other| bad.iter().any(|key| reads(other, key))) {
            self.met(Situation::RotUnderOtherReaders);
        }
    }
}

fn write_page(hand: &mut Hand, arena: &mut [Page], copy: CopyId, shape: super::bytes::Shape) -> bool {
    let part = shape.stripe(hand.rank).start + hand.pages.len();
    let page = Page::Data { copy, part: part as u32 };
    arena[hand.slot.0 as usize + part] = page.clone();
    hand.pages.push(page);
    hand.pages.len() == shape.stripe_pages as usize
}

fn read_page(hand: &mut Hand, arena: &[Page], key: BlockKey, shape: super::bytes::Shape) -> bool {
    if hand.header.is_none() {
        let page = &arena[hand.slot.0 as usize];
        hand.saw_rot |= page.is_noise();
        match page {
            Page::Header(header) if header.row.key == key => hand.header = Some(header.clone()),
            _ => return true,
        }
        return false;
    }
    let part = shape.stripe(hand.rank).start + hand.pages.len();
    let page = &arena[hand.slot.0 as usize + part];
    hand.saw_rot |= page.is_noise();
    hand.pages.push(page.clone());
    hand.pages.len() == shape.stripe_pages as usize
}
