//! How a daemon's life ends and the next begins: a crash, a power cut, or a hand-over of the arena.

use crate::sim::bytes::Page;
use crate::sim::catalog::Change;
use crate::sim::coverage::Situation;
use crate::sim::daemon::{Daemon, LoadFacts};
use crate::sim::engine::Engine;
use crate::sim::node::{Event, Line, Node};
use crate::sim::setting::layout_id;
use kvd_block::{LayoutHandle, Tick, TierKind};
use kvd_ledger::{Action, CatalogRow, Input, Ledger};

/// How long a daemon that is to hand over waits for stores and transfers.
const HAND_OVER_PATIENCE_MS: u64 = 150;
const LOOK_EVERY_MS: u64 = 4;

impl Node<'_> {
    /// The daemon dies, perhaps with the machine. The arena is lost.
    pub(super) fn crash(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        daemon.compare();
        self.dies_after = None;
        self.outcome.crashes += 1;
        let power = self.dice.chance(40);
        self.medium.crash(&self.arenas[daemon.arena], power, &mut self.dice);
        let lost = self.catalog.crash(&mut self.dice);
        let storing = self.engines.iter().any(Engine::is_storing);
        let loading = self.engines.iter().any(Engine::is_loading);
        let met = [
            (power, Situation::PowerCut),
            (lost > 0, Situation::RestartWithLostRows),
            (storing, Situation::CrashWhileStoring),
            (loading, Situation::CrashWhileLoading),
        ];
        met.into_iter().filter(|(met, _)| *met).for_each(|(_, situation)| self.met(situation));
        for engine in 0..self.engines.len() {
            self.lose_daemon(engine);
            if power {
                self.engines[engine].jobs.clear();
            }
        }
        let down = self.dice.range(3, 60);
        self.agenda.after(down, Event::Restart);
    }

    /// A new daemon with a new arena, and what the disk has.
    pub(super) fn restart(&mut self) {
        self.arenas.push(vec![Page::Blank; self.setting.arena_pages()]);
        let scan = self.lives > 0 && self.dice.chance(30);
        let rows = if scan { self.scan() } else { self.rows() };
        self.doubtful = rows.iter().map(|row| (row.key, row.address)).collect();
        let mut rows = rows;
        self.shuffle(&mut rows);
        self.begin_life(vec![(TierKind::Nvme, rows)]);
        for engine in 0..self.engines.len() {
            let late = self.dice.below(10);
            self.agenda.after(late, Event::Connect { engine });
        }
    }

    /// What is found without a catalog: every image that is younger than the last purge of its layout.
    fn scan(&mut self) -> Vec<CatalogRow> {
        self.met(Situation::RestartByScan);
        self.catalog.lose();
        let found = self.medium.scan();
        let all = found.len();
        let alive = |(row, generation): &(CatalogRow, u64)| *generation >= self.purged.generation(layout_id(row.key.layout));
        let rows: Vec<CatalogRow> = found.into_iter().filter(alive).map(|(row, _)| row).collect();
        if rows.len() < all {
            self.met(Situation::PurgedImageScanned);
        }
        self.finish_purges();
        let now = self.agenda.now();
        rows.iter().for_each(|row| self.catalog.change(now, Change::Put(*row)));
        rows
    }

    /// What the catalog has, less the rows of layouts that were purged and whose purge it does not remember.
    fn rows(&mut self) -> Vec<CatalogRow> {
        let mut rows = self.catalog.rows();
        let all = rows.len();
        rows.retain(|row| self.purged.generation(layout_id(row.key.layout)) <= self.catalog.purged(row.key.layout));
        if rows.len() < all {
            self.met(Situation::PurgedRowRecovered);
        }
        self.finish_purges();
        rows
    }

    fn finish_purges(&mut self) {
        for layout in (0..self.setting.shapes.len() as u16).map(LayoutHandle) {
            let generation = self.purged.generation(layout_id(layout));
            if generation > self.catalog.purged(layout) {
                self.catalog.change(self.agenda.now(), Change::Purge(Some(layout), generation));
            }
        }
    }

    fn shuffle(&mut self, rows: &mut [CatalogRow]) {
        for at in (1..rows.len()).rev() {
            rows.swap(at, self.dice.below(at as u64 + 1) as usize);
        }
    }

    /// Starts a daemon on the newest arena. Writes that recovery asks for begin with its life.
    fn begin_life(&mut self, recovered: Vec<(TierKind, Vec<CatalogRow>)>) {
        self.lives += 1;
        self.tick_at = u64::MAX;
        let mut ledger = Ledger::new(self.setting.config.clone());
        let now = Tick(self.agenda.now());
        let mut actions: Vec<Action> = Vec::new();
        self.setting.layouts(&self.purged).for_each(|input| ledger.step(now, input, &mut actions));
        for (tier, rows) in recovered {
            for rows in rows.chunks(7) {
                ledger.step(now, Input::Recovered { tier, rows: rows.to_vec() }, &mut actions);
                ledger.check();
            }
        }
        let blocks = TierKind::ALL.into_iter().map(|tier| ledger.resident(tier).count()).sum();
        (self.watch)(now.0, Line::Life(self.lives, blocks));
        self.daemon = Some(Daemon::start(self.lives, self.arenas.len() - 1, ledger, self.setting.config.clone()));
        // A row that recovery mends is of an image that nobody has read yet.
        let doubtful = self.doubtful.clone();
        self.perform(actions, LoadFacts { expires: 0, purges: 0 });
        self.doubtful.extend(doubtful);
        self.tell(Input::Tick);
    }

    pub(super) fn begin_hand_over(&mut self) {
        let Some(life) = self.daemon.as_ref().map(|daemon| daemon.life) else { return };
        self.tell(Input::Drain(true));
        let until = self.agenda.now() + HAND_OVER_PATIENCE_MS;
        self.agenda.after(LOOK_EVERY_MS, Event::HandOver { life, until });
    }

    /// Hands over once nobody fills a slot and no transfer is under way; gives up after a while.
    pub(super) fn try_hand_over(&mut self, life: u64, until: u64) {
        let Some(daemon) = self.daemon.as_ref().filter(|daemon| daemon.life == life) else { return };
        let (filled, transfers) = (daemon.ledger().slots_being_filled().is_empty(), daemon.ledger().open_transfers());
        let patience = self.agenda.now() < until;
        if filled && (transfers == 0 || !patience) {
            if transfers > 0 {
                self.met(Situation::HandOverUnderTransfers);
            }
            return self.hand_over();
        }
        if !patience {
            self.met(Situation::HandOverRefused);
            return self.tell(Input::Drain(false));
        }
        self.tell(Input::Drain(true));
        self.agenda.after(LOOK_EVERY_MS, Event::HandOver { life, until });
    }

    fn hand_over(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        let sessions: Vec<_> = daemon.engines.keys().copied().collect();
        sessions.into_iter().for_each(|session| self.tell(Input::CloseSession { session }));
        let Some(daemon) = self.daemon.take() else { return };
        daemon.check_rows(&self.catalog.newest());
        // Closing sessions may have started writes: the device is closed behind them.
        self.medium.end_all(&mut self.arenas[daemon.arena], &mut self.dice);
        let arena = &self.arenas[daemon.arena];
        let sound = |row: &CatalogRow| matches!(&arena[row.address.0 as usize], Page::Header(header) if header.row.key == row.key);
        let mut kept: Vec<CatalogRow> = daemon.ledger().inheritance().filter(sound).collect();
        self.shuffle(&mut kept);
        daemon.compare();
        let rows = self.rows();
        self.outcome.hand_overs += 1;
        self.met(Situation::HandOver);
        for engine in 0..self.engines.len() {
            self.check_no_writer_is_left(engine);
            self.lose_daemon(engine);
        }
        let mut tiers = vec![(TierKind::Nvme, rows), (TierKind::Cpu, kept)];
        if self.dice.chance(50) {
            tiers.reverse();
        }
        self.begin_life(tiers);
    }

    /// A slot that an engine still writes to must not be handed to a daemon that believes it free.
    fn check_no_writer_is_left(&self, engine: usize) {
        for job in self.engines[engine].jobs.values() {
            let writes = matches!(job.state, super::engine::State::Storing { .. }) && !job.hands.is_empty();
            assert!(!writes, "the arena was handed over while engine {engine} writes into it");
        }
    }
}
