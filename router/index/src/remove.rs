//! Blocks leave a holder, and memory is given back at once.

use super::alias::{Alias, Aliases};
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
            let blocks = match self.meaning(id, *name) {
                Meaning::Named(place) => self.remove_stretch(id, medium, place, rest, &mut removed),
                Meaning::Own(alias) => removed.count(self.remove_alias(id, medium, *name, alias)),
                Meaning::Other => removed.count(false),
                Meaning::Unplaced => {
                    let was_there = self.remove_orphan(id, medium, *name) == Some(true);
                    removed.count(was_there)
                }
            };
            rest = &rest[blocks..];
        }
        removed
    }

    /// What a holder calls `name`.
    fn meaning(&self, id: HolderId, name: BlockName) -> Meaning {
        let holder = self.holder(id);
        if !holder.aliases.is_empty()
            && let Some(alias) = holder.aliases.get(name)
        {
            return Meaning::Own(alias);
        }
        match self.named(holder.domain, name) {
            Some(place) if holder.aliases.has_place(place) => Meaning::Other,
            Some(place) => Meaning::Named(place),
            None => Meaning::Unplaced,
        }
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

    /// Takes a medium from a stretch of a run that the domain calls by these names; says from how many blocks.
    fn uncover(&mut self, id: HolderId, medium: Medium, first: Place, names: &[BlockName], order: Order) -> u32 {
        let (from, to) = (usize::from(first.offset), usize::from(first.offset) + names.len());
        let salt = self.holder(id).salt;
        let mut gone = Digest::default();
        self.release(id, medium, first, names.len(), |low, high| {
            let told = match order {
                Order::Up => &names[low - from..high - from],
                Order::Down => &names[to - high..to - low],
            };
            told.iter().for_each(|name| gone.add(term(name.0, salt, medium as u8)));
        });
        let digest = &mut self.holder_mut(id).digest;
        *digest = Digest { sum: digest.sum.wrapping_sub(gone.sum), count: digest.count - gone.count };
        gone.count as u32
    }

    /// Notes that a holder no longer has `blocks` from `first` on in `medium`, telling `piece` of each stretch that it had, and
    /// forgets blocks that nobody has any more.
    pub(super) fn release(&mut self, id: HolderId, medium: Medium, first: Place, blocks: usize, mut piece: impl FnMut(usize, usize)) {
        let (from, to) = (first.offset, first.offset + blocks as u16);
        let run = self.runs.get_mut(first.run);
        let before = run.heap_bytes();
        let (held, counts) = run.held_and_counts();
        let mut died = false;
        held.cut(id, from, to, medium, |low, high, had| {
            let (low, high) = (usize::from(low), usize::from(high));
            piece(low, high);
            if had == Media::of(medium) {
                for count in &mut counts[low..high] {
                    *count -= 1;
                    died |= *count == 0;
                }
            }
        });
        self.run_bytes = self.run_bytes + self.runs.get(first.run).heap_bytes() - before;
        if died {
            self.bury(first.run, &[(from, to)]);
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
        holder.aliases = Aliases::default();
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

impl Removed {
    /// Counts one block; says so.
    fn count(&mut self, was_there: bool) -> usize {
        self.removed += u32::from(was_there);
        self.unknown += u32::from(!was_there);
        1
    }
}

/// What a holder calls by a name.
#[derive(Debug, Clone, Copy)]
enum Meaning {
    /// The block that its domain calls so.
    Named(Place),
    /// What it alone, or also, calls so.
    Own(Alias),
    /// A block of its domain that it calls otherwise.
    Other,
    /// Nothing that has a place.
    Unplaced,
}

/// How the names of a stretch run along it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Up,
    Down,
}
