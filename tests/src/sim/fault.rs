//! What goes wrong, and what operators do.

use crate::sim::bytes::is_image_of;
use crate::sim::coverage::Situation;
use crate::sim::engine::Engine;
use crate::sim::medium::Mood;
use crate::sim::node::{Event, Node};
use kvd_block::{LayoutHandle, SlotIndex, TierKind};
use kvd_ledger::Input;

impl Node<'_> {
    pub(super) fn fault(&mut self) {
        if self.closing {
            return;
        }
        let pause = self.dice.range(5, 60);
        self.agenda.after(pause, Event::Fault);
        match self.dice.below(24) {
            0..=4 => self.rot_arena(),
            5..=8 if self.setting.medium_pages() > 0 => self.medium.rot(&mut self.dice),
            9..=11 => self.scrub(),
            12..=13 => self.change_mood(),
            14..=16 => {
                let engine = self.dice.below(self.engines.len() as u64) as usize;
                self.kill_engine(engine);
            }
            17..=18 => {
                let one = LayoutHandle(self.dice.below(self.setting.shapes.len() as u64) as u16);
                let layout = self.dice.chance(70).then_some(one);
                self.purge(layout);
            }
            19 => self.drain_a_while(),
            20..=21 => self.begin_hand_over(),
            22 if self.dice.chance(50) => self.dies_after = Some(self.dice.below(60)),
            22 => self.crash(),
            _ => {}
        }
    }

    fn purge(&mut self, layout: Option<LayoutHandle>) {
        if self.daemon.is_none() {
            return;
        }
        let met = [
            (true, Situation::Purge),
            (self.engines.iter().any(Engine::is_storing), Situation::PurgeWhileStoring),
            (self.engines.iter().any(Engine::is_loading), Situation::PurgeWhileLoading),
            (self.medium.is_busy()[0], Situation::PurgeWhileWriting),
        ];
        met.into_iter().filter(|(met, _)| *met).for_each(|(_, situation)| self.met(situation));
        let generation = self.remember_purge(layout);
        // The daemon may die between the two, and the operator was told nothing yet.
        if self.dice.chance(5) { self.crash() } else { self.tell(Input::Purge { layout, generation }) }
    }

    fn rot_arena(&mut self) {
        let Some(arena) = self.arenas.last_mut() else { return };
        let at = self.dice.below(arena.len() as u64) as usize;
        arena[at] = crate::sim::bytes::Page::Noise(self.dice.bits());
    }

    /// Looks at every image of a tier, and reports what does not match, and something that is not there.
    fn scrub(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        let tier = if self.dice.chance(50) { TierKind::Cpu } else { TierKind::Nvme };
        let mut found = Vec::new();
        for row in daemon.ledger().resident(tier) {
            let shape = self.setting.shape(row.key.layout);
            let at = row.address.0 as usize;
            let sound = match tier {
                TierKind::Cpu => is_image_of(&self.arenas[daemon.arena][at..at + shape.slot_pages() as usize], row.key, shape),
                TierKind::Nvme => self.medium.holds(row.address, row.key, shape),
            };
            if !sound {
                self.outcome.coverage.met(Situation::ScrubFoundRot);
                found.push(Input::FoundCorrupt { key: row.key, tier, address: row.address });
            }
            if self.dice.chance(2) {
                found.push(Input::FoundCorrupt { key: row.key, tier, address: SlotIndex(row.address.0 + 1) });
            }
        }
        let life = daemon.life;
        for input in found {
            let late = self.dice.below(10);
            self.agenda.after(late, Event::ToDaemon { life, input });
        }
    }

    fn change_mood(&mut self) {
        self.medium.mood = *self.dice.pick(&[Mood::Full, Mood::Stalled, Mood::Flaky]).expect("there are moods");
        let calm = self.dice.range(20, 200);
        self.agenda.after(calm, Event::Calm);
    }

    fn drain_a_while(&mut self) {
        let Some(life) = self.daemon.as_ref().map(|daemon| daemon.life) else { return };
        self.tell(Input::Drain(true));
        let pause = self.dice.range(5, 40);
        self.agenda.after(pause, Event::Undrain { life });
    }
}
