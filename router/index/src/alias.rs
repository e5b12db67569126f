//! Names beside the one that a block's domain has for it.
//!
//! A holder may call a block as nobody else of its domain does, or by two names at once: engines whose hashes separate more than
//! ours see two blocks where we see one. Each name then has media of its own, and the holder has the block wherever any of them says so.

use super::table::Place;
use super::tree::{Holder, Index};
use super::{BlockName, HolderId, Media, Medium, Stored};
use kvd_block::digest::term;
use smallvec::SmallVec;
use std::collections::HashMap;

/// What one name of one holder means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alias {
    pub(super) place: Place,
    pub(super) media: Media,
}

/// What a holder no longer means by a name.
#[derive(Debug, Clone, Copy)]
struct Taken {
    name: BlockName,
    place: Place,
    media: Media,
}

/// A holder's own names. Nearly always empty.
///
/// Once a block has an entry here, every name the holder has for it has one, the domain's included.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    by_name: HashMap<u64, Alias>,
    by_place: HashMap<Place, SmallVec<[u64; 2]>>,
}

impl Aliases {
    /// True when the holder calls every block as its domain does.
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The block that the holder means by `name`.
    pub(super) fn get(&self, name: BlockName) -> Option<Alias> {
        self.by_name.get(&name.0).copied()
    }

    /// True when the names for a block are kept here.
    pub(super) fn has_place(&self, place: Place) -> bool {
        self.by_place.contains_key(&place)
    }

    /// Every name with what it means.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BlockName, Alias)> {
        self.by_name.iter().map(|(name, alias)| (BlockName(*name), *alias))
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// An estimate: each is in two maps.
    pub(super) fn bytes(&self) -> usize {
        self.by_name.len() * 80
    }

    /// Sets what a name means. Without any medium it means nothing.
    pub(super) fn set(&mut self, name: BlockName, alias: Alias) {
        self.unset(name);
        if !alias.media.is_empty() {
            self.by_name.insert(name.0, alias);
            self.by_place.entry(alias.place).or_default().push(name.0);
        }
    }

    fn unset(&mut self, name: BlockName) {
        let Some(alias) = self.by_name.remove(&name.0) else { return };
        let Some(names) = self.by_place.get_mut(&alias.place) else { return };
        names.retain(|found| *found != name.0);
        if names.is_empty() {
            self.by_place.remove(&alias.place);
        }
    }

    /// In which media any name says that the holder has a block.
    pub(super) fn union(&self, place: Place) -> Media {
        let names = self.by_place.get(&place).map_or(&[][..], |names| names);
        names.iter().filter_map(|name| self.by_name.get(name)).fold(Media::NONE, |media, alias| media.or(alias.media))
    }

    /// Forgets every name of a run's blocks.
    pub(super) fn forget_run(&mut self, run: u32) {
        self.by_name.retain(|_, alias| alias.place.run != run);
        self.by_place.retain(|place, _| place.run != run);
    }
}

impl Holder {
    fn tell(&mut self, name: BlockName, medium: Medium) {
        self.digest.add(term(name.0, self.salt, medium as u8));
    }
}

impl Index {
    /// A holder has a block in `medium` under a name that its domain does not have for it, or beside another name. What the holder
    /// meant by the name before is taken back.
    pub(super) fn cover_alias(&mut self, id: HolderId, medium: Medium, place: Place, name: BlockName, stored: Option<&mut Stored>) {
        self.keep_names_apart(id, place);
        let before = self.holder(id).aliases.get(name);
        let meant = before.filter(|alias| alias.place == place);
        let media = meant.map_or(Media::NONE, |alias| alias.media);
        if media.contains(medium) {
            stored.into_iter().for_each(|stored| stored.again += 1);
            return;
        }
        let taken = if meant.is_some() { None } else { self.other_meaning(id, name, Some(place), before) };
        self.stats.name_conflicts += u64::from(meant.is_none());
        let holder = self.holder_mut(id);
        holder.aliases.set(name, Alias { place, media: media.with(medium) });
        if let Some(stored) = stored {
            holder.tell(name, medium);
            stored.added += 1;
        }
        self.hold(id, medium, place, 1, |_, _, _| {});
        taken.into_iter().for_each(|taken| self.take_back(id, taken));
    }

    /// What a holder meant by `name` until now, when that is not the block at `place`.
    fn other_meaning(&self, id: HolderId, name: BlockName, place: Option<Place>, own: Option<Alias>) -> Option<Taken> {
        if let Some(alias) = own {
            return Some(Taken { name, place: alias.place, media: alias.media });
        }
        let holder = self.holder(id);
        let named = self.named(holder.domain, name).filter(|named| Some(*named) != place && !holder.aliases.has_place(*named))?;
        let held = self.runs.get(named.run).held.of(id).iter().find(|held| (held.from..held.to).contains(&named.offset))?;
        Some(Taken { name, place: named, media: held.media })
    }

    /// A holder says of a block without a place what it said of one that has: the latter is taken back.
    pub(super) fn forget_meaning(&mut self, id: HolderId, name: BlockName) {
        let own = self.holder(id).aliases.get(name);
        let Some(taken) = self.other_meaning(id, name, None, own) else { return };
        self.holder_mut(id).aliases.unset(name);
        self.take_back(id, taken);
    }

    /// Takes back what a name meant.
    fn take_back(&mut self, id: HolderId, taken: Taken) {
        for medium in Medium::ALL.into_iter().filter(|medium| taken.media.contains(*medium)) {
            let holder = self.holder_mut(id);
            holder.digest.remove(term(taken.name.0, holder.salt, medium as u8));
            if !holder.aliases.union(taken.place).contains(medium) {
                self.release(id, medium, taken.place, 1, |_, _| {});
            }
        }
    }

    /// From now on the names a holder has for a block are kept apart, the domain's included.
    fn keep_names_apart(&mut self, id: HolderId, place: Place) {
        let holder = self.holder(id);
        let run = self.runs.get(place.run);
        let held = run.held.of(id).iter().find(|held| (held.from..held.to).contains(&place.offset));
        let called = run.names(holder.domain).map(|names| BlockName(names[usize::from(place.offset)]));
        if let (Some(held), Some(name), false) = (held.copied(), called, holder.aliases.has_place(place)) {
            self.holder_mut(id).aliases.set(name, Alias { place, media: held.media });
        }
    }

    /// A name of a holder's own no longer says `medium`; true when it did.
    pub(super) fn remove_alias(&mut self, id: HolderId, medium: Medium, name: BlockName, alias: Alias) -> bool {
        if !alias.media.contains(medium) {
            return false;
        }
        let holder = self.holder_mut(id);
        let media = holder.aliases.get(name).map_or(Media::NONE, |alias| alias.media).without(medium);
        holder.aliases.set(name, Alias { media, ..alias });
        holder.digest.remove(term(name.0, holder.salt, medium as u8));
        if !holder.aliases.union(alias.place).contains(medium) {
            self.release(id, medium, alias.place, 1, |_, _| {});
        }
        true
    }
}
