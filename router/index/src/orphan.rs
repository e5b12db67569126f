//! Blocks that were told of before their parents: kept until the parent has a place.

use super::table::Place;
use super::tree::Index;
use super::{BlockName, HolderId, Media, Medium, NameDomain, Stored};
use kvd_block::LocalHash;
use kvd_block::digest::term;
use std::collections::HashMap;

/// A block whose place is not known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Orphan {
    pub(super) parent: BlockName,
    pub(super) local: LocalHash,
    pub(super) media: Media,
}

#[cfg(test)]
impl super::tree::Holder {
    /// Memberships of blocks without a place.
    pub(super) fn orphan_memberships(&self) -> u64 {
        self.orphans.values().map(|orphan| orphan.media.len() as u64).sum()
    }
}

/// Who waits for which parent.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    children: HashMap<(NameDomain, BlockName), Vec<(HolderId, BlockName)>>,
    orphans: usize,
}

impl Waiting {
    /// How many blocks wait.
    pub(super) fn len(&self) -> usize {
        self.orphans
    }

    /// An estimate: each is in two maps.
    pub(super) fn bytes(&self) -> usize {
        self.orphans * 96
    }
}

impl Index {
    /// A block of a holder waits for `parent`.
    pub(super) fn orphan(
        &mut self,
        id: HolderId,
        medium: Medium,
        parent: BlockName,
        name: BlockName,
        local: LocalHash,
        stored: &mut Stored,
    ) {
        if !self.holder(id).orphans.contains_key(&name.0) {
            self.forget_meaning(id, name);
        }
        let full = self.waiting.orphans >= self.limits.most_orphans;
        let holder = self.holders[usize::from(id.0)].as_mut().expect("a holder that was added and not removed");
        let added = match holder.orphans.get_mut(&name.0) {
            Some(orphan) if orphan.media.contains(medium) => {
                stored.again += 1;
                return;
            }
            Some(orphan) => {
                orphan.media = orphan.media.with(medium);
                true
            }
            None if full => false,
            None => {
                holder.orphans.insert(name.0, Orphan { parent, local, media: Media::of(medium) });
                self.waiting.children.entry((holder.domain, parent)).or_default().push((id, name));
                self.waiting.orphans += 1;
                true
            }
        };
        holder.digest.add(term(name.0, holder.salt, medium as u8));
        stored.orphaned += 1;
        if !added {
            holder.evicted += 1;
            self.stats.lost_orphans += 1;
        }
    }

    /// Blocks of a holder that wait.
    pub(super) fn orphans_of(&self, id: HolderId) -> impl Iterator<Item = (BlockName, Orphan)> {
        self.holder(id).orphans.iter().map(|(name, orphan)| (BlockName(*name), *orphan))
    }

    /// Lets a block wait that was counted before.
    pub(super) fn put_orphan(&mut self, id: HolderId, name: BlockName, orphan: Orphan) {
        let holder = self.holder_mut(id);
        let domain = holder.domain;
        holder.orphans.insert(name.0, orphan);
        self.waiting.children.entry((domain, orphan.parent)).or_default().push((id, name));
        self.waiting.orphans += 1;
    }

    /// The media an orphan was told to be in; it no longer waits.
    pub(super) fn take_orphan(&mut self, id: HolderId, name: BlockName) -> Option<Media> {
        let holder = self.holder_mut(id);
        let domain = holder.domain;
        let orphan = holder.orphans.remove(&name.0)?;
        self.no_longer_waits(domain, orphan.parent, id, name);
        Some(orphan.media)
    }

    fn no_longer_waits(&mut self, domain: NameDomain, parent: BlockName, id: HolderId, name: BlockName) {
        self.waiting.orphans -= 1;
        let Some(children) = self.waiting.children.get_mut(&(domain, parent)) else { return };
        children.retain(|child| *child != (id, name));
        if children.is_empty() {
            self.waiting.children.remove(&(domain, parent));
        }
    }

    /// An orphan left a medium; `None` when `name` is no orphan, else whether it was there.
    pub(super) fn remove_orphan(&mut self, id: HolderId, medium: Medium, name: BlockName) -> Option<bool> {
        let holder = self.holder_mut(id);
        let orphan = holder.orphans.get_mut(&name.0)?;
        if !orphan.media.contains(medium) {
            return Some(false);
        }
        orphan.media = orphan.media.without(medium);
        let gone = orphan.media.is_empty();
        holder.digest.remove(term(name.0, holder.salt, medium as u8));
        if gone {
            self.take_orphan(id, name);
        }
        Some(true)
    }

    /// Every orphan of a holder is forgotten.
    pub(super) fn clear_orphans(&mut self, id: HolderId) {
        let domain = self.holder(id).domain;
        let orphans = std::mem::take(&mut self.holder_mut(id).orphans);
        for (name, orphan) in orphans {
            self.no_longer_waits(domain, orphan.parent, id, BlockName(name));
        }
    }

    /// Gives their places to those who waited for any of `names`, and to those who waited for them.
    pub(super) fn adopt(&mut self, domain: NameDomain, names: &[BlockName]) {
        if self.waiting.orphans == 0 {
            return;
        }
        let mut found: Vec<BlockName> = names.to_vec();
        while let Some(parent) = found.pop() {
            let Some(children) = self.waiting.children.get(&(domain, parent)).cloned() else { continue };
            for (id, name) in children {
                if let Some(place) = self.place_of(id, parent) {
                    self.place_orphan(id, name, place);
                    found.push(name);
                }
            }
        }
    }

    fn place_orphan(&mut self, id: HolderId, name: BlockName, parent: Place) {
        let Some(orphan) = self.holder(id).orphans.get(&name.0).copied() else { return };
        self.take_orphan(id, name);
        for medium in Medium::ALL.into_iter().filter(|medium| orphan.media.contains(*medium)) {
            self.place_told(id, medium, Some(parent), name, orphan.local);
        }
    }
}
