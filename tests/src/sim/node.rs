//! The node: everything that exists in a run, and its loop.

use crate::sim::agenda::Agenda;
use crate::sim::bytes::{Copies, Header, Page};
use crate::sim::catalog::{Catalog, Change};
use crate::sim::coverage::{Coverage, Situation};
use crate::sim::daemon::{Daemon, LoadFacts};
use crate::sim::dice::{Dice, mix};
use crate::sim::engine::{Engine, Said};
use crate::sim::medium::{Medium, Progress};
use crate::sim::setting::Setting;
use crate::sim::setting::layout_id;
use kvd_block::{BlockKey, LayoutHandle, Purges, SlotIndex, Tick, TierKind};
use kvd_ledger::{Action, Counters, Input, ReadResult, Transfer};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

/// Steps of the ledger after which no new work and no new fault comes.
const WORK_STEPS: u64 = 500;
/// Events after which a run is said to hang.
const MOST_EVENTS: u64 = 400_000;

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Steps of the ledger, over all lives of the daemon.
    pub steps: u64,
    /// A digest of every action, in order.
    pub digest: u64,
    /// Blocks that engines accepted.
    pub accepted: u64,
    /// Blocks that engines refused because their bytes did not match.
    pub refused: u64,
    /// Blocks that engines stored.
    pub stored: u64,
    /// Deaths of the daemon.
    pub crashes: u64,
    /// Arenas handed over.
    pub hand_overs: u64,
    /// What was met.
    pub coverage: Coverage,
}

/// Everything that can happen.
#[derive(Debug)]
pub(super) enum Event {
    Connect { engine: usize },
    Wake { engine: usize, life: u64 },
    ToDaemon { life: u64, input: Input },
    ToEngine { life: u64, engine: usize, said: Said },
    Copy { engine: usize, job: u64, hand: u64 },
    GiveUp { engine: usize, job: u64 },
    Io { job: u64 },
    Tick { life: u64 },
    Fault,
    Calm,
    Undrain { life: u64 },
    HandOver { life: u64, until: u64 },
    Restart,
}

/// One line of a run's story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line<'a> {
    /// The ledger was told this.
    Input(&'a Input),
    /// It wanted that.
    Action(&'a Action),
    /// The daemon's life of this number began, with this many blocks.
    Life(u64, usize),
}

/// The node.
pub(super) struct Node<'w> {
    pub dice: Dice,
    pub setting: Setting,
    pub agenda: Agenda<Event>,
    pub daemon: Option<Daemon>,
    pub lives: u64,
    pub arenas: Vec<Vec<Page>>,
    pub medium: Medium,
    pub catalog: Catalog,
    pub engines: Vec<Engine>,
    pub copies: Copies,
    /// Purges so far, per layout: the judge's own count.
    pub purges: Vec<u64>,
    /// What the disk remembers of purges.
    pub purged: Purges,
    /// Actions until the daemon dies, if it is to.
    pub dies_after: Option<u64>,
    /// Images that a restart after a crash believed in.
    pub doubtful: BTreeSet<(BlockKey, SlotIndex)>,
    pub next_job: u64,
    pub closing: bool,
    pub tick_at: u64,
    pub outcome: Outcome,
    pub watch: &'w mut dyn FnMut(u64, Line<'_>),
}

/// Runs a seed. Panics when anything is wrong.
pub fn run(seed: u64) -> Outcome {
    run_watched(seed, &mut |_, _| {})
}

/// As [`run`], and tells `watch` everything as it happens, with its time.
pub fn run_watched(seed: u64, watch: &mut dyn FnMut(u64, Line<'_>)) -> Outcome {
    Node::new(seed, watch).run()
}

impl<'w> Node<'w> {
    fn new(seed: u64, watch: &'w mut dyn FnMut(u64, Line<'_>)) -> Node<'w> {
        let mut dice = Dice::new(seed);
        let setting = Setting::throw(&mut dice);
        Node {
            medium: Medium::new(setting.medium_pages()),
            engines: (0..setting.engines).map(|_| Engine::default()).collect(),
            purges: vec![0; setting.shapes.len()],
            setting,
            dice,
            agenda: Agenda::default(),
            daemon: None,
            lives: 0,
            arenas: Vec::new(),
            catalog: Catalog::default(),
            copies: Copies::default(),
            purged: Purges::default(),
            dies_after: None,
            doubtful: BTreeSet::new(),
            next_job: 0,
            closing: false,
            tick_at: u64::MAX,
            outcome: Outcome::default(),
            watch,
        }
    }

    fn run(mut self) -> Outcome {
        self.agenda.after(0, Event::Restart);
        self.agenda.after(20, Event::Fault);
        let mut events = 0;
        while let Some(event) = self.agenda.advance() {
            events += 1;
            assert!(events < MOST_EVENTS, "the run does not end");
            if !self.closing && self.outcome.steps >= WORK_STEPS {
                self.close();
            }
            self.handle(event);
        }
        self.check_nobody_waits();
        self.end_sessions();
        while let Some(event) = self.agenda.advance() {
            self.handle(event);
        }
        self.check_nothing_is_left();
        self.outcome.coverage += self.medium.coverage;
        self.outcome
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connect { engine } => self.connect(engine),
            Event::Wake { engine, life } => self.wake(engine, life),
            Event::ToDaemon { life, input } => self.tell_life(life, input),
            Event::ToEngine { life, engine, said } => self.hear(life, engine, said),
            Event::Copy { engine, job, hand } => self.copy(engine, job, hand),
            Event::GiveUp { engine, job } => self.give_up(engine, job),
            Event::Io { job } => self.advance(job),
            Event::Tick { life } => {
                if self.is_alive(life) {
                    self.tick_at = u64::MAX;
                    self.tell(Input::Tick);
                }
            }
            Event::Fault => self.fault(),
            Event::Calm => self.medium.mood = super::medium::Mood::Well,
            Event::Undrain { life } => self.tell_life(life, Input::Drain(false)),
            Event::HandOver { life, until } => self.try_hand_over(life, until),
            Event::Restart => self.restart(),
        }
    }

    /// No new work and no new faults: what was begun must end by itself.
    fn close(&mut self) {
        self.closing = true;
        self.dies_after = None;
        self.medium.mood = super::medium::Mood::Well;
        self.tell(Input::Drain(false));
    }

    pub fn is_alive(&self, life: u64) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| daemon.life == life)
    }

    pub fn tell_life(&mut self, life: u64, input: Input) {
        if self.is_alive(life) {
            self.tell(input);
        } else if matches!(input, Input::WriteDone { .. } | Input::ReadDone { .. } | Input::EraseDone { .. }) {
            self.met(Situation::CompletionAfterDeath);
        }
    }

    pub fn met(&mut self, situation: Situation) {
        self.outcome.coverage.met(situation);
    }

    /// Steps the daemon, if there is one, and does what it wants.
    pub fn tell(&mut self, input: Input) {
        let now = self.agenda.now();
        let facts = self.facts(&input);
        let Some(daemon) = &mut self.daemon else { return };
        (self.watch)(now, Line::Input(&input));
        let before = *daemon.ledger().counters();
        let actions = daemon.step(Tick(now), input, &mut self.dice, &mut self.outcome.coverage);
        let after = *daemon.ledger().counters();
        self.outcome.steps += 1;
        self.note(&before, &after);
        self.perform(actions, facts);
        self.plan_tick();
    }

    /// What the ledger's counters say about a step.
    fn note(&mut self, before: &Counters, after: &Counters) {
        if after.evicted_cpu + after.evicted_nvme > before.evicted_cpu + before.evicted_nvme && self.engines.iter().any(Engine::is_loading)
        {
            self.met(Situation::EvictedWhileAnotherLoads);
        }
        if after.leases_expired > before.leases_expired {
            self.met(Situation::LeaseExpired);
        }
        if after.load_late > before.load_late && self.medium.mood == super::medium::Mood::Stalled {
            self.met(Situation::Stall);
        }
    }

    fn plan_tick(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        let (Some(Tick(wanted)), life) = (daemon.ledger().next_deadline(), daemon.life) else { return };
        if wanted < self.tick_at {
            self.tick_at = wanted;
            let late = if self.dice.chance(3) { self.dice.below(100) } else { self.dice.below(2) };
            self.agenda.at(wanted + late, Event::Tick { life });
        }
    }

    /// What a lease given for `input` is worth.
    fn facts(&self, input: &Input) -> LoadFacts {
        let (layout, deadline_ms) = match input {
            Input::PrepareLoad { layout, deadline_ms, .. } => (layout, *deadline_ms),
            Input::PrepareStore { layout, .. } => (layout, 0),
            _ => return LoadFacts { expires: 0, purges: 0 },
        };
        let now = self.agenda.now();
        let expires = self.daemon.as_ref().map_or(0, |daemon| match input {
            Input::PrepareStore { .. } => daemon.store_expires(now),
            _ => daemon.load_expires(now, deadline_ms),
        });
        LoadFacts { expires, purges: self.purges.get(usize::from(layout.0)).copied().unwrap_or(0) }
    }

    pub fn perform(&mut self, actions: Vec<Action>, facts: LoadFacts) {
        let Some(daemon) = &self.daemon else { return };
        let (life, arena) = (daemon.life, daemon.arena);
        for action in actions {
            if self.dies_now() {
                return;
            }
            self.remember(&action);
            match action {
                Action::Reply { session, request, reply } => self.say(session, Said::Reply { request, reply, facts }),
                Action::Notify { session, lease, ready, missing } => self.say(session, Said::Notice { lease, ready, missing }),
                Action::Seal(block) => {
                    let generation = self.purged.generation(layout_id(block.key.layout));
                    assert_eq!(block.generation, generation, "{} says after which purge it was stored", block.key);
                    let row = kvd_ledger::CatalogRow {
                        key: block.key,
                        address: SlotIndex(0),
                        parent: block.parent,
                        local: block.local,
                        position: block.position,
                    };
                    self.arenas[arena][block.slot.0 as usize] =
                        Page::Header(Rc::new(Header { row, stripes: block.stripes, generation: block.generation }));
                    self.outcome.stored += 1;
                }
                Action::Write(transfer) => {
                    if self.medium.is_busy()[2] {
                        self.met(Situation::WriteDuringErase);
                    }
                    self.start(life, transfer, true);
                }
                Action::Read(transfer) => self.start(life, transfer, false),
                Action::Erase { op, address } => {
                    let job = self.medium.erase(life, op, address, &mut self.dice);
                    let pause = self.medium.pause(&mut self.dice);
                    self.agenda.after(pause, Event::Io { job });
                }
                Action::CatalogPut(row) => {
                    self.doubtful.remove(&(row.key, row.address));
                    self.catalog.change(self.agenda.now(), Change::Put(row));
                }
                Action::CatalogDelete(key) => self.catalog.change(self.agenda.now(), Change::Delete(key)),
                Action::CatalogPurge { layout, generation } => {
                    self.catalog.change(self.agenda.now(), Change::Purge(layout, generation));
                }
                Action::Publish(_) => {}
            }
        }
    }

    /// A crash comes at any point, also between two actions of one step.
    fn dies_now(&mut self) -> bool {
        let Some(left) = self.dies_after.as_mut() else { return false };
        if *left > 0 {
            *left -= 1;
            return false;
        }
        self.met(Situation::CrashBetweenActions);
        self.crash();
        true
    }

    fn remember(&mut self, action: &Action) {
        let mut hasher = DefaultHasher::new();
        format!("{action:?}").hash(&mut hasher);
        self.outcome.digest = mix(self.outcome.digest ^ hasher.finish() ^ self.agenda.now());
        (self.watch)(self.agenda.now(), Line::Action(action));
    }

    fn start(&mut self, life: u64, transfer: Transfer, write: bool) {
        let shape = self.setting.shape(transfer.key.layout);
        assert_eq!(shape.slot_pages(), transfer.pages);
        let job = match write {
            true => self.medium.write(life, transfer, shape, &mut self.dice),
            false => self.medium.read(life, transfer, shape, &mut self.dice),
        };
        let pause = self.medium.pause(&mut self.dice);
        self.agenda.after(pause, Event::Io { job });
    }

    fn advance(&mut self, job: u64) {
        let arena = self.arenas.last_mut().expect("I/O comes after a start");
        let transfer = self.medium.transfer(job);
        match self.medium.advance(job, arena, &mut self.dice) {
            Progress::Again(ms) => self.agenda.after(ms, Event::Io { job }),
            Progress::Gone => {}
            Progress::Done { late, input, times, life, short } => {
                if let (Input::ReadDone { result: ReadResult::Corrupt, .. }, Some(transfer), false) = (&input, transfer, short) {
                    self.judge_refused_read(transfer);
                }
                for time in 0..times {
                    self.agenda.after(late + time * 3, Event::ToDaemon { life, input: input.clone() });
                }
            }
        }
    }

    /// An image that the daemon wrote and nobody touched must be readable.
    fn judge_refused_read(&self, transfer: Transfer) {
        let shape = self.setting.shape(transfer.key.layout);
        let at = transfer.slot.0 as usize;
        let spoiled_on_arrival = self.arenas.last().is_some_and(|arena| arena[at..at + transfer.pages as usize].iter().any(Page::is_noise));
        let excused = spoiled_on_arrival
            || self.medium.is_excused(transfer.address, shape)
            || self.doubtful.contains(&(transfer.key, transfer.address));
        assert!(excused, "{} was lost at page {} for no reason", transfer.key, transfer.address);
    }

    /// A purge is remembered on the disk before the daemon is told. The judge counts, too.
    pub fn remember_purge(&mut self, layout: Option<LayoutHandle>) -> u64 {
        for (at, purges) in self.purges.iter_mut().enumerate() {
            *purges += u64::from(layout.is_none_or(|layout| usize::from(layout.0) == at));
        }
        self.purged.purge(layout.map(layout_id))
    }

    fn check_nobody_waits(&self) {
        for (at, engine) in self.engines.iter().enumerate() {
            assert!(engine.jobs.is_empty(), "engine {at} waits for ever: {:?}", engine.jobs);
        }
    }

    fn end_sessions(&mut self) {
        let sessions: Vec<_> = self.daemon.as_ref().map(|daemon| daemon.engines.keys().copied().collect()).unwrap_or_default();
        sessions.into_iter().for_each(|session| self.tell(Input::CloseSession { session }));
    }

    fn check_nothing_is_left(&self) {
        let ledger = self.daemon.as_ref().expect("a closing run has a daemon").ledger();
        self.daemon.iter().for_each(|daemon| {
            daemon.check_end();
            daemon.check_rows(&self.catalog.newest());
        });
        assert_eq!((ledger.open_leases(), ledger.open_transfers()), (0, 0), "leases and transfers end");
        assert_eq!(ledger.next_deadline(), None, "an idle ledger sleeps");
        for tier in TierKind::ALL {
            let resident: u64 = ledger.resident(tier).map(|row| u64::from(self.setting.shape(row.key.layout).slot_pages())).sum();
            assert_eq!(ledger.totals(tier).used_bytes, resident * kvd_block::PAGE_BYTES, "every slot taken in {tier} holds a block");
        }
        for row in ledger.resident(TierKind::Nvme) {
            let shape = self.setting.shape(row.key.layout);
            let sound = self.medium.holds(row.address, row.key, shape)
                || self.medium.is_excused(row.address, shape)
                || self.doubtful.contains(&(row.key, row.address));
            assert!(sound, "{} is not at page {}", row.key, row.address);
        }
    }
}
