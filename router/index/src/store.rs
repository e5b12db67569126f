//! Blocks come to a holder.

use super::run::{Run, UNNAMED};
use super::table::Place;
use super::tree::{Index, head_hash};
use super::{BlockName, HolderId, Media, Medium, NameDomain, Stored};
use kvd_block::LocalHash;
use kvd_block::digest::{mix, term};

impl Index {
    /// Blocks that follow one another, the first after `parent` (`None` at the start of a sequence), came to `medium` of a holder.
    ///
    /// # Panics
    /// When there is not one name for each hash, or no such holder.
    pub fn store(&mut self, id: HolderId, medium: Medium, parent: Option<BlockName>, names: &[BlockName], locals: &[LocalHash]) -> Stored {
        assert_eq!(names.len(), locals.len(), "one name for each block");
        self.tick = self.tick.wrapping_add(1);
        let mut stored = Stored::default();
        let mut at = None;
        let mut done = 0;
        if let Some(mut parent) = parent {
            at = self.place_of(id, parent);
            // The parent is not known: a block may still be, by its own name, and its children have a place again.
            while at.is_none() && done < names.len() {
                at = self.known_itself(id, medium, names[done], locals[done], &mut stored);
                if at.is_none() {
                    self.orphan(id, medium, parent, names[done], locals[done], &mut stored);
                    parent = names[done];
                }
                done += 1;
            }
        }
        self.place_all(id, medium, at, &names[done..], &locals[done..], &mut stored);
        self.make_room();
        stored
    }

    /// Blocks that somebody of the holder's domain has told of came to `medium`, too. What nobody has told of cannot be placed:
    /// it is counted as orphaned and forgotten.
    pub fn store_known(&mut self, id: HolderId, medium: Medium, names: &[BlockName]) -> Stored {
        self.tick = self.tick.wrapping_add(1);
        let mut stored = Stored::default();
        for name in names {
            match self.place_of(id, *name) {
                Some(place) => self.cover(id, medium, place, std::slice::from_ref(name), Some(&mut stored)),
                None => stored.orphaned += 1,
            }
        }
        self.make_room();
        stored
    }

    fn known_itself(&mut self, id: HolderId, medium: Medium, name: BlockName, local: LocalHash, stored: &mut Stored) -> Option<Place> {
        let place = self.place_of(id, name)?;
        if self.runs.get(place.run).locals()[usize::from(place.offset)] != local.0 {
            return None;
        }
        self.cover(id, medium, place, &[name], Some(stored));
        Some(place)
    }

    fn place_all(
        &mut self,
        id: HolderId,
        medium: Medium,
        mut at: Option<Place>,
        names: &[BlockName],
        locals: &[LocalHash],
        stored: &mut Stored,
    ) {
        let told = self.take_orphans(id, medium, names, stored);
        let mut done = 0;
        while done < names.len() {
            let (run, offset, blocks) = self.follow(at, &locals[done..]).unwrap_or_else(|| self.grow(id, at, &locals[done..]));
            self.cover(id, medium, Place { run, offset }, &names[done..done + blocks], Some(stored));
            done += blocks;
            at = Some(Place { run, offset: offset + blocks as u16 - 1 });
        }
        for (name, media) in told {
            let Some(place) = self.place_of(id, name) else { continue };
            for other in Medium::ALL.into_iter().filter(|other| media.contains(*other) && *other != medium) {
                self.cover(id, other, place, &[name], None);
            }
        }
        let domain = self.holder(id).domain;
        self.adopt(domain, names);
    }

    /// Blocks told of before, without a known parent, are told of again with one. What was said of them still holds, and is
    /// not counted twice.
    fn take_orphans(&mut self, id: HolderId, medium: Medium, names: &[BlockName], stored: &mut Stored) -> Vec<(BlockName, Media)> {
        let mut told = Vec::new();
        if self.holder(id).orphans.is_empty() {
            return told;
        }
        for name in names {
            let Some(media) = self.take_orphan(id, *name) else { continue };
            told.push((*name, media));
            if media.contains(medium) {
                let holder = self.holder_mut(id);
                holder.digest.remove(term(name.0, holder.salt, medium as u8));
                stored.again += 1;
                stored.added = stored.added.wrapping_sub(1);
            }
        }
        told
    }

    /// Places one block that was told of, and counted, before.
    pub(super) fn place_told(&mut self, id: HolderId, medium: Medium, parent: Option<Place>, name: BlockName, local: LocalHash) {
        let (run, offset, _) = self.follow(parent, &[local]).unwrap_or_else(|| self.grow(id, parent, &[local]));
        self.cover(id, medium, Place { run, offset }, &[name], None);
    }

    /// Makes room for blocks nobody has: behind `at` when that is the end of its run, else in a new run.
    fn grow(&mut self, id: HolderId, at: Option<Place>, locals: &[LocalHash]) -> (u32, u16, usize) {
        if let Some(place) = at {
            let offset = usize::from(place.offset) + 1;
            let is_end = self.runs.get(place.run).len() == offset;
            let added = if is_end { self.with_run(place.run, |run| run.extend(locals)) } else { 0 };
            if added > 0 {
                return (place.run, offset as u16, added);
            }
        }
        let mut run = Run::new(at, self.holder(id).domain, locals.len());
        let added = run.extend(locals);
        self.run_bytes += run.heap_bytes();
        let number = self.runs.insert(run);
        self.heads.insert(head_hash(at, locals[0].0), Place { run: number, offset: 0 });
        if let Some(place) = at {
            self.with_run(place.run, |run| run.hang(place.offset));
        }
        (number, 0, added)
    }

    /// A holder has blocks of a run from `first` on in `medium`. Without `stored` they were counted before.
    pub(super) fn cover(&mut self, id: HolderId, medium: Medium, first: Place, names: &[BlockName], stored: Option<&mut Stored>) {
        self.name_all(id, first, names);
        let from = first.offset;
        let to = from + names.len() as u16;
        let tick = self.tick;
        let holder = self.holders[usize::from(id.0)].as_mut().expect("a holder that was added and not removed");
        let run = self.runs.get_mut(first.run);
        run.touched.store(tick, std::sync::atomic::Ordering::Relaxed);
        let before = run.heap_bytes();
        let (held, counts) = run.held_and_counts();
        let mut born = 0;
        let mut tally = Stored::default();
        held.add(id, from, to, medium, |low, high, had| {
            let (low, high) = (usize::from(low), usize::from(high));
            if had.contains(medium) {
                tally.again += (high - low) as u32;
                return;
            }
            tally.added += (high - low) as u32;
            if stored.is_some() {
                let terms = names[low - usize::from(from)..high - usize::from(from)].iter();
                terms.for_each(|name| holder.digest.add(term(name.0, holder.salt, medium as u8)));
            }
            if had == Media::NONE {
                for count in &mut counts[low..high] {
                    born += u64::from(*count == 0);
                    *count += 1;
                }
            }
        });
        self.stats.blocks += born;
        self.run_bytes = self.run_bytes + self.runs.get(first.run).heap_bytes() - before;
        if let Some(stored) = stored {
            stored.added += tally.added;
            stored.again += tally.again;
        }
    }

    /// Sees to it that the holder's names lead to the blocks from `first` on.
    fn name_all(&mut self, id: HolderId, first: Place, names: &[BlockName]) {
        let domain = self.holder(id).domain;
        let (from, to) = (usize::from(first.offset), usize::from(first.offset) + names.len());
        let has_aliases = !self.holder(id).aliases.is_empty();
        let found = self.runs.get(first.run).names(domain).map(|found| &found[from..to]);
        if !has_aliases && found.is_some_and(|found| found.iter().zip(names).all(|(found, name)| *found == name.0)) {
            return;
        }
        self.touch(domain, names);
        let fresh = !has_aliases && found.is_none_or(|found| found.iter().all(|found| *found == UNNAMED));
        let named = if fresh { self.name_fresh(domain, first, names) } else { 0 };
        for (offset, name) in (first.offset..).zip(names).skip(named) {
            self.name(id, domain, Place { run: first.run, offset }, *name);
        }
    }

    /// Names blocks that have none yet, up to the first whose name is taken; says how many.
    fn name_fresh(&mut self, domain: NameDomain, first: Place, names: &[BlockName]) -> usize {
        let Index { runs, names: tables, .. } = self;
        let table = &mut tables[usize::from(domain.0)];
        let named = (first.offset..).zip(names).take_while(|(offset, name)| {
            let is_it =
                |place: Place| runs.get(place.run).is_named(domain, place.offset, **name) || is_earlier(place, first, names, **name);
            name.0 != UNNAMED && table.insert_unless(mix(name.0), Place { run: first.run, offset: *offset }, is_it)
        });
        let named = named.count();
        self.with_run(first.run, |run| {
            let cells = run.names_mut(domain)[usize::from(first.offset)..].iter_mut();
            cells.zip(&names[..named]).for_each(|(cell, name)| *cell = name.0);
        });
        named
    }

    fn name(&mut self, id: HolderId, domain: NameDomain, place: Place, name: BlockName) {
        let found = self.runs.get(place.run).names(domain).map_or(UNNAMED, |names| names[usize::from(place.offset)]);
        if found == name.0 && name.0 != UNNAMED {
            self.holder_mut(id).aliases.remove(&name.0);
            return;
        }
        if found != UNNAMED || name.0 == UNNAMED || self.named(domain, name).is_some() {
            let before = self.holder_mut(id).aliases.insert(name.0, place);
            self.stats.name_conflicts += u64::from(before != Some(place));
            return;
        }
        self.holder_mut(id).aliases.remove(&name.0);
        self.with_run(place.run, |run| run.names_mut(domain)[usize::from(place.offset)] = name.0);
        self.names[usize::from(domain.0)].insert(mix(name.0), place);
    }
}

/// True when `place` is one of `names`, which lie from `first` on and are not yet noted in their run, and is called `name`.
fn is_earlier(place: Place, first: Place, names: &[BlockName], name: BlockName) -> bool {
    place.run == first.run
        && place.offset >= first.offset
        && names.get(usize::from(place.offset - first.offset)).is_some_and(|earlier| *earlier == name)
}
