//! The ranks of an engine copy between their memory and slots, a page at a time, with everything else going on meanwhile.
//!
//! A reader looks at the header first and at the checksum last, as the connector does.

use crate::sim::bytes::{CopyId, Header, Page, checksum};
use crate::sim::daemon::LoadFacts;
use crate::sim::engine::{Filled, State};
use crate::sim::node::{Event, Node};
use kvd_block::{BlockKey, Checksum, FilledBlock, LeaseId, LoadGrant, SlotIndex, StoreGrant};
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
            if let LoadGrant::Ready(slot) = grant {
                self.add_hands(engine, job, at, *slot, None);
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
            slots.push(match grant {
                StoreGrant::Write(slot) => Some(Filled { slot: *slot, copy: self.copies.make(BlockKey { layout, hash }, facts.purges) }),
                _ => None,
            });
        }
        if slots.iter().all(Option::is_none) {
            return self.end_job(engine, job);
        }
        state.arena = arena;
        state.state = State::Storing { lease, slots: slots.clone() };
        for (at, filled) in slots.into_iter().enumerate() {
            if let Some(filled) = filled {
                self.add_hands(engine, job, at, filled.slot, Some(filled.copy));
            }
        }
    }

    fn add_hands(&mut self, engine: usize, job: u64, block: usize, slot: SlotIndex, writes: Option<CopyId>) {
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
            Some(copy) => write_page(&mut hand, arena, copy, shape),
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
            let purges = self.copies.judge(&hand.pages, key, shape, hand.rank);
            if purges < facts.purges {
                assert!(self.recovered.get(&key).is_some_and(|seen| *seen >= facts.purges), "{key} was purged and served");
                self.outcome.resurrected += 1;
            }
            self.outcome.accepted += 1;
        } else {
            self.outcome.refused += 1;
            let excused = hand.saw_rot || state.orphan || self.agenda.now() >= facts.expires;
            assert!(excused, "{key} changed in slot {} under a valid lease", hand.slot);
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
        let corrupt = (0..blocks.len()).filter(|at| blocks[*at] == LoadBlock::Copied { ok: false }).map(|at| at as u32).collect();
        let lease = *lease;
        self.engines[engine].jobs.get_mut(&job).expect("a job in progress").state = State::Loaded;
        self.ask(engine, job, |session, request| Input::CompleteLoad { session, request, lease, corrupt });
    }

    fn finish_store(&mut self, engine: usize, job: u64) {
        let state = &self.engines[engine].jobs[&job];
        let State::Storing { lease, slots } = &state.state else { return };
        if !state.hands.is_empty() {
            return;
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
        self.ask(engine, job, |session, request| Input::CompleteStore { session, request, lease, filled });
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
