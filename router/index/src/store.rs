//! Blocks come to a holder.

use super::run::{Run, UNNAMED};
use super::table::Place;
use super::tree::{Index, head_hash};
use super::{BlockName, HolderId, Media, Medium, NameDomain, Stored};
use kvd_block::LocalHash;
use kvd_block::digest::{Digest, mix, term};
use std::sync::atomic::Ordering;

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
                Some(place) => self.place_one(id, medium, place, *name, &mut stored),
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
        self.place_one(id, medium, place, name, stored);
        Some(place)
    }

    fn place_one(&mut self, id: HolderId, medium: Medium, place: Place, name: BlockName, stored: &mut Stored) {
        let told = self.take_orphans(id, medium, &[name], stored);
        self.cover(id, medium, place, &[name], Some(stored));
        self.place_taken(id, medium, &told);
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
        self.place_taken(id, medium, &told);
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

    /// What was told of blocks while they waited, `medium` aside, holds where they are now.
    fn place_taken(&mut self, id: HolderId, medium: Medium, told: &[(BlockName, Media)]) {
        for (name, media) in told {
            let Some(place) = self.place_of(id, *name) else { continue };
            for other in Medium::ALL.into_iter().filter(|other| media.contains(*other) && *other != medium) {
                self.cover(id, other, place, &[*name], None);
            }
        }
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
    pub(super) fn cover(&mut self, id: HolderId, medium: Medium, first: Place, names: &[BlockName], mut stored: Option<&mut Stored>) {
        let named = self.name_all(id, first, names);
        if named == names.len() {
            return self.cover_named(id, medium, first, names, stored);
        }
        // From the first block that cannot have its name on, one by one.
        self.cover_named(id, medium, first, &names[..named], stored.as_deref_mut());
        // What names meant before is taken back on the way, and must not take blocks along that nobody holds yet.
        let last = first.offset + names.len() as u16 - 1;
        self.with_run(first.run, |run| run.hang(last));
        for (offset, name) in (first.offset..).zip(names).skip(named) {
            let place = Place { offset, ..first };
            if self.name(id, place, *name) {
                self.cover_named(id, medium, place, &[*name], stored.as_deref_mut());
            } else {
                self.cover_alias(id, medium, place, *name, stored.as_deref_mut());
            }
        }
        self.with_run(first.run, |run| run.unhang(last));
        self.bury(first.run, &[]);
    }

    /// The same for blocks that the domain calls by these names.
    fn cover_named(&mut self, id: HolderId, medium: Medium, first: Place, names: &[BlockName], stored: Option<&mut Stored>) {
        if names.is_empty() {
            return;
        }
        let from = usize::from(first.offset);
        let mut fresh = Digest::default();
        let salt = self.holder(id).salt;
        let counted = stored.is_some();
        let (added, again) = self.hold(id, medium, first, names.len(), |low, high, _| {
            let terms = names[low - from..high - from].iter().filter(|_| counted);
            terms.for_each(|name| fresh.add(term(name.0, salt, medium as u8)));
        });
        let holder = self.holder_mut(id);
        holder.digest = holder.digest.and(fresh);
        if let Some(stored) = stored {
            stored.added += added;
            stored.again += again;
        }
    }

    /// Notes that a holder has `blocks` from `first` on, whatever they are called. Tells `piece` of each stretch that is new in
    /// the medium; says how many blocks were new and how many were not.
    pub(super) fn hold(
        &mut self,
        id: HolderId,
        medium: Medium,
        first: Place,
        blocks: usize,
        mut piece: impl FnMut(usize, usize, Media),
    ) -> (u32, u32) {
        let (from, to) = (first.offset, first.offset + blocks as u16);
        let run = self.runs.get_mut(first.run);
        run.touched.store(self.tick, Ordering::Relaxed);
        let before = run.heap_bytes();
        let (held, counts) = run.held_and_counts();
        let (mut born, mut added, mut again) = (0, 0, 0);
        held.add(id, from, to, medium, |low, high, had| {
            let (low, high) = (usize::from(low), usize::from(high));
            if had.contains(medium) {
                again += (high - low) as u32;
                return;
            }
            added += (high - low) as u32;
            piece(low, high, had);
            if had == Media::NONE {
                for count in &mut counts[low..high] {
                    born += u64::from(*count == 0);
                    *count += 1;
                }
            }
        });
        self.stats.blocks += born;
        self.run_bytes = self.run_bytes + self.runs.get(first.run).heap_bytes() - before;
        (added, again)
    }

    /// Sees to it that the domain calls the blocks from `first` on by these names; says of how many of them it does so, and the
    /// holder by no other.
    fn name_all(&mut self, id: HolderId, first: Place, names: &[BlockName]) -> usize {
        let holder = self.holder(id);
        if !holder.aliases.is_empty() {
            return 0;
        }
        let domain = holder.domain;
        let (from, to) = (usize::from(first.offset), usize::from(first.offset) + names.len());
        let found = self.runs.get(first.run).names(domain).map(|found| &found[from..to]);
        let same =
            found.map_or(0, |found| found.iter().zip(names).take_while(|(found, name)| **found == name.0 && name.0 != UNNAMED).count());
        if same == names.len() || found.is_some_and(|found| found[same..].iter().any(|found| *found != UNNAMED)) {
            return same;
        }
        self.touch(domain, &names[same..]);
        same + self.name_fresh(domain, Place { offset: first.offset + same as u16, ..first }, &names[same..])
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

    /// Lets the domain call a block `name` if it has no other name for it and calls nothing else so; true when it does, and the holder
    /// has no names of its own in this.
    fn name(&mut self, id: HolderId, place: Place, name: BlockName) -> bool {
        let domain = self.holder(id).domain;
        let found = self.runs.get(place.run).names(domain).map_or(UNNAMED, |names| names[usize::from(place.offset)]);
        let named = match found {
            UNNAMED => self.name_fresh(domain, place, &[name]) == 1,
            found => found == name.0,
        };
        let aliases = &self.holder(id).aliases;
        named && !aliases.has_place(place) && aliases.get(name).is_none()
    }
}

/// True when `place` is one of `names`, which lie from `first` on and are not yet noted in their run, and is called `name`.
fn is_earlier(place: Place, first: Place, names: &[BlockName], name: BlockName) -> bool {
    place.run == first.run
        && place.offset >= first.offset
        && names.get(usize::from(place.offset - first.offset)).is_some_and(|earlier| *earlier == name)
}
