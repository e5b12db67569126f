//! Blocks leave a holder, and memory is given back at once.

use super::held::Held;
use super::table::Place;
use super::tree::{Index, head_hash};
use super::{BlockName, HolderId, Media, Medium, Removed};
use kvd_block::digest::{Digest, mix, term};
use smallvec::SmallVec;

impl Index {
    /// Blocks left `medium` of a holder.
    ///
    /// # Panics
    /// When there is no such holder.
    pub fn remove(&mut self, id: HolderId, medium: Medium, names: &[BlockName]) -> Removed {
        self.tick = self.tick.wrapping_add(1);
        self.touch(self.holder(id).domain, names);
        let mut removed = Removed::default();
        let mut rest = names;
        while let Some(name) = rest.first() {
            let blocks = match self.place_of(id, *name) {
                Some(place) => self.remove_stretch(id, medium, place, rest, &mut removed),
                None => {
                    let was_there = self.remove_orphan(id, medium, *name) == Some(true);
                    removed.removed += u32::from(was_there);
                    removed.unknown += u32::from(!was_there);
                    1
                }
            };
            rest = &rest[blocks..];
        }
        removed
    }

    /// Removes the leading blocks of `names` that lie side by side from `place` on, up or down; says how many.
    fn remove_stretch(&mut self, id: HolderId, medium: Medium, place: Place, names: &[BlockName], removed: &mut Removed) -> usize {
        let holder = self.holder(id);
        let side_by_side = self.runs.get(place.run).names(holder.domain).filter(|_| holder.aliases.is_empty());
        let at = usize::from(place.offset);
        let (up, down) = side_by_side.map_or((1, 1), |all| {
            let same = |(found, name): &(&u64, &BlockName)| **found == name.0;
            (all[at..].iter().zip(names).take_while(same).count(), all[..=at].iter().rev().zip(names).take_while(same).count())
        });
        let blocks = up.max(down).max(1);
        let (first, order) = match up >= down {
            true => (place.offset, Order::Up),
            false => (place.offset + 1 - blocks as u16, Order::Down),
        };
        let gone = self.uncover(id, medium, Place { run: place.run, offset: first }, &names[..blocks], order);
        removed.removed += gone;
        removed.unknown += blocks as u32 - gone;
        blocks
    }

    /// Takes a medium from a stretch of a run; says from how many blocks.
    fn uncover(&mut self, id: HolderId, medium: Medium, first: Place, names: &[BlockName], order: Order) -> u32 {
        let (from, to) = (first.offset, first.offset + names.len() as u16);
        let holder = self.holders[usize::from(id.0)].as_mut().expect("a holder that was added and not removed");
        let run = self.runs.get_mut(first.run);
        let before = run.heap_bytes();
        let (held, counts) = run.held_and_counts();
        let (mut gone, mut died) = (0, false);
        held.cut(id, from, to, medium, |low, high, had| {
            gone += u32::from(high - low);
            let (low, high) = (usize::from(low), usize::from(high));
            let told = match order {
                Order::Up => &names[low - usize::from(from)..high - usize::from(from)],
                Order::Down => &names[usize::from(to) - high..usize::from(to) - low],
            };
            told.iter().for_each(|name| holder.digest.remove(term(name.0, holder.salt, medium as u8)));
            if had == Media::of(medium) {
                for count in &mut counts[low..high] {
                    *count -= 1;
                    died |= *count == 0;
                }
            }
        });
        self.run_bytes = self.run_bytes + self.runs.get(first.run).heap_bytes() - before;
        if gone > 0 && !self.holder(id).aliases.is_empty() {
            self.drop_aliases(id, first, names);
        }
        if died {
            self.bury(first.run, &[(from, to)]);
        }
        gone
    }

    fn drop_aliases(&mut self, id: HolderId, first: Place, names: &[BlockName]) {
        let held: SmallVec<[Held; 8]> = self.runs.get(first.run).held.of(id).iter().copied().collect();
        let holder = self.holder_mut(id);
        for name in names {
            let Some(place) = holder.aliases.get(&name.0).copied() else { continue };
            let still = held.iter().any(|held| (held.from..held.to).contains(&place.offset));
            if place.run == first.run && !still {
                holder.aliases.remove(&name.0);
            }
        }
    }

    /// Forgets those blocks of `stretches`, all of which were held until now, that nobody holds any more.
    pub(super) fn bury(&mut self, number: u32, stretches: &[(u16, u16)]) {
        let Index { runs, names, stats, run_bytes, .. } = self;
        let run = runs.get_mut(number);
        let before = run.heap_bytes();
        let (parent, head) = (run.parent, run.locals()[0]);
        for offset in stretches.iter().flat_map(|(from, to)| *from..*to) {
            if run.counts()[usize::from(offset)] == 0 {
                stats.blocks -= 1;
                run.unname(offset, |domain, name| {
                    names[usize::from(domain.0)].remove(mix(name.0), Place { run: number, offset });
                });
            }
        }
        run.trim();
        *run_bytes = *run_bytes + run.heap_bytes() - before;
        if run.len() == 0 {
            self.drop_run(number, parent, head);
        }
    }

    /// Drops an empty run, and then its parent when that only stood for it.
    fn drop_run(&mut self, number: u32, parent: Option<Place>, head: u64) {
        let (mut number, mut parent, mut head) = (number, parent, head);
        loop {
            self.heads.remove(head_hash(parent, head), Place { run: number, offset: 0 });
            if let Some(run) = self.runs.remove(number) {
                self.run_bytes -= run.heap_bytes();
            }
            let Some(place) = parent else { return };
            let (up, up_head) = self.with_run(place.run, |run| {
                let head = run.locals()[0];
                run.unhang(place.offset);
                run.trim();
                (run.parent, head)
            });
            if self.runs.get(place.run).len() > 0 {
                return;
            }
            (number, parent, head) = (place.run, up, up_head);
        }
    }

    /// A holder has nothing any more.
    pub fn clear(&mut self, id: HolderId) {
        if self.holders.get(usize::from(id.0)).is_none_or(Option::is_none) {
            return;
        }
        self.clear_orphans(id);
        for number in 1..self.runs.end() {
            if self.runs.find(number).is_some_and(|run| !run.held.of(id).is_empty()) {
                self.clear_run(id, number);
            }
        }
        let holder = self.holder_mut(id);
        holder.aliases.clear();
        holder.digest = Digest::default();
        holder.evicted = 0;
    }

    fn clear_run(&mut self, id: HolderId, number: u32) {
        let mut left: SmallVec<[(u16, u16); 4]> = SmallVec::new();
        self.with_run(number, |run| {
            let (held, counts) = run.held_and_counts();
            held.drop_holder(id, |held| {
                counts[usize::from(held.from)..usize::from(held.to)].iter_mut().for_each(|count| *count -= 1);
                left.push((held.from, held.to));
            });
        });
        self.bury(number, &left);
    }
}

/// How the names of a stretch run along it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Up,
    Down,
}
