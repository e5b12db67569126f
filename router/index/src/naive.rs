//! The index written down as plainly as possible: one record per block, found through maps. The fast one must agree with it
//! in every answer; it is used by tests alone.

use super::{BlockName, HolderId, Media, Medium, NameDomain, Removed, Span, Stored, TooManyHolders};
use kvd_block::LocalHash;
use kvd_block::digest::{Digest, term};
use std::collections::{BTreeMap, HashMap, HashSet};

type Block = usize;
const ROOT: Block = 0;

#[derive(Debug, Default)]
struct Record {
    local: LocalHash,
    children: HashMap<LocalHash, Block>,
    held: BTreeMap<HolderId, Media>,
    /// What domains call it while anybody holds it.
    named: HashSet<(NameDomain, BlockName)>,
}

#[derive(Debug)]
struct Orphan {
    parent: BlockName,
    local: LocalHash,
    media: Media,
}

#[derive(Debug)]
struct Holder {
    domain: NameDomain,
    salt: u64,
    digest: Digest,
    names: HashMap<BlockName, Block>,
    orphans: HashMap<BlockName, Orphan>,
}

/// See the module.
#[derive(Debug)]
pub struct NaiveIndex {
    blocks: Vec<Record>,
    holders: BTreeMap<HolderId, Holder>,
    named: HashMap<(NameDomain, BlockName), Block>,
}

impl Default for NaiveIndex {
    fn default() -> NaiveIndex {
        NaiveIndex { blocks: vec![Record::default()], holders: BTreeMap::new(), named: HashMap::new() }
    }
}

impl NaiveIndex {
    /// Follows one more stream, whose digest is salted with `salt` (see [`kvd_block::digest`]).
    pub fn add_holder(&mut self, domain: NameDomain, salt: u64) -> Result<HolderId, TooManyHolders> {
        let free = (0..u16::MAX).map(HolderId).find(|id| !self.holders.contains_key(id)).ok_or(TooManyHolders)?;
        let holder = Holder { domain, salt, digest: Digest::default(), names: HashMap::new(), orphans: HashMap::new() };
        self.holders.insert(free, holder);
        Ok(free)
    }

    /// Forgets a stream and all it said.
    pub fn remove_holder(&mut self, id: HolderId) {
        self.clear(id);
        self.holders.remove(&id);
    }

    /// Blocks that follow one another, the first after `parent` (`None` at the start of a sequence), came to `medium` of a holder.
    ///
    /// # Panics
    /// When there is not one name for each hash, or no such holder.
    pub fn store(&mut self, id: HolderId, medium: Medium, parent: Option<BlockName>, names: &[BlockName], locals: &[LocalHash]) -> Stored {
        assert_eq!(names.len(), locals.len(), "one name for each block");
        let mut stored = Stored::default();
        let mut parent = parent;
        for (name, local) in names.iter().zip(locals) {
            self.store_one(id, medium, parent, *name, *local, &mut stored);
            parent = Some(*name);
        }
        stored
    }

    fn store_one(
        &mut self,
        id: HolderId,
        medium: Medium,
        parent: Option<BlockName>,
        name: BlockName,
        local: LocalHash,
        stored: &mut Stored,
    ) {
        let known = parent.map_or(Some(ROOT), |parent| self.resolve(id, parent));
        // The parent may be unknown while the block is not: its name says enough then.
        let itself = self.resolve(id, name).filter(|block| self.blocks[*block].local == local);
        let holder = self.holders.get_mut(&id).expect("a registered holder");
        if let (None, Some(block)) = (known, itself) {
            self.hold(id, block, name, medium, stored);
            return;
        }
        let Some(before) = known else {
            let fresh = || Orphan { parent: parent.expect("only a parent can be unknown"), local, media: Media::NONE };
            let orphan = holder.orphans.entry(name).or_insert_with(fresh);
            if orphan.media.contains(medium) {
                stored.again += 1;
            } else {
                orphan.media = orphan.media.with(medium);
                holder.digest.add(term(name.0, holder.salt, medium as u8));
                stored.orphaned += 1;
            }
            return;
        };
        let mut media = Media::of(medium);
        if let Some(orphan) = holder.orphans.remove(&name) {
            media = media.or(orphan.media);
            if orphan.media.contains(medium) {
                stored.again += 1;
            } else {
                holder.digest.add(term(name.0, holder.salt, medium as u8));
                stored.added += 1;
            }
        } else if self.holds(id, name, medium) {
            stored.again += 1;
        } else {
            let holder = self.holders.get_mut(&id).expect("a registered holder");
            holder.digest.add(term(name.0, holder.salt, medium as u8));
            stored.added += 1;
        }
        self.place(id, before, name, local, media);
        self.adopt(id);
    }

    fn hold(&mut self, id: HolderId, block: Block, name: BlockName, medium: Medium, stored: &mut Stored) {
        let holder = self.holders.get_mut(&id).expect("a registered holder");
        let held = self.blocks[block].held.entry(id).or_default();
        if held.contains(medium) {
            stored.again += 1;
            return;
        }
        *held = held.with(medium);
        holder.digest.add(term(name.0, holder.salt, medium as u8));
        stored.added += 1;
        self.call(id, name, block);
    }

    /// Blocks that somebody of the holder's domain has told of came to `medium`, too; others are counted as orphaned, and forgotten.
    pub fn store_known(&mut self, id: HolderId, medium: Medium, names: &[BlockName]) -> Stored {
        let mut stored = Stored::default();
        for name in names {
            match self.resolve(id, *name) {
                Some(block) => self.hold(id, block, *name, medium, &mut stored),
                None => stored.orphaned += 1,
            }
        }
        stored
    }

    fn place(&mut self, id: HolderId, before: Block, name: BlockName, local: LocalHash, media: Media) {
        let next = self.blocks.len();
        let block = *self.blocks[before].children.entry(local).or_insert(next);
        if block == next {
            self.blocks.push(Record { local, ..Record::default() });
        }
        let held = self.blocks[block].held.entry(id).or_default();
        *held = held.or(media);
        self.call(id, name, block);
    }

    /// Gives orphans their place as soon as their parent has one, in every holder that calls it by the same name.
    fn adopt(&mut self, of: HolderId) {
        let domain = self.holders[&of].domain;
        let peers: Vec<HolderId> = self.holders.iter().filter(|(_, holder)| holder.domain == domain).map(|(id, _)| *id).collect();
        loop {
            let mut found = None;
            for id in &peers {
                let waiting = self.holders[id].orphans.iter().find_map(|(name, orphan)| Some((*name, self.resolve(*id, orphan.parent)?)));
                if let Some((name, before)) = waiting {
                    found = Some((*id, name, before));
                    break;
                }
            }
            let Some((id, name, before)) = found else { return };
            let orphan = self.holders.get_mut(&id).expect("listed").orphans.remove(&name).expect("listed");
            self.place(id, before, name, orphan.local, orphan.media);
        }
    }

    /// The block a holder means by `name`: its own, or what another of its domain calls so and somebody still has.
    fn resolve(&self, id: HolderId, name: BlockName) -> Option<Block> {
        let own = self.holders[&id].names.get(&name).copied();
        own.or_else(|| self.named.get(&(self.holders[&id].domain, name)).copied())
    }

    /// Notes what a holder calls a block.
    fn call(&mut self, id: HolderId, name: BlockName, block: Block) {
        let holder = self.holders.get_mut(&id).expect("a registered holder");
        holder.names.insert(name, block);
        let of = (holder.domain, name);
        self.named.insert(of, block);
        self.blocks[block].named.insert(of);
    }

    /// A holder no longer has a block.
    fn leave(&mut self, id: HolderId, block: Block) {
        let record = &mut self.blocks[block];
        record.held.remove(&id);
        if record.held.is_empty() {
            for of in record.named.drain() {
                self.named.remove(&of);
            }
        }
    }

    fn holds(&self, id: HolderId, name: BlockName, medium: Medium) -> bool {
        let block = self.holders[&id].names.get(&name);
        block.and_then(|block| self.blocks[*block].held.get(&id)).is_some_and(|media| media.contains(medium))
    }

    /// Blocks left `medium` of a holder.
    pub fn remove(&mut self, id: HolderId, medium: Medium, names: &[BlockName]) -> Removed {
        let mut removed = Removed::default();
        for name in names {
            if self.remove_one(id, medium, *name) { removed.removed += 1 } else { removed.unknown += 1 }
        }
        removed
    }

    fn remove_one(&mut self, id: HolderId, medium: Medium, name: BlockName) -> bool {
        let holder = self.holders.get_mut(&id).expect("a registered holder");
        if let Some(orphan) = holder.orphans.get_mut(&name) {
            let had = orphan.media.contains(medium);
            orphan.media = orphan.media.without(medium);
            if orphan.media.is_empty() {
                holder.orphans.remove(&name);
            }
            if had {
                holder.digest.remove(term(name.0, holder.salt, medium as u8));
            }
            return had;
        }
        let Some(block) = holder.names.get(&name).copied() else { return false };
        let Some(media) = self.blocks[block].held.get_mut(&id).filter(|media| media.contains(medium)) else { return false };
        *media = media.without(medium);
        if media.is_empty() {
            holder.names.remove(&name);
        }
        holder.digest.remove(term(name.0, holder.salt, medium as u8));
        let gone = media.is_empty();
        if gone {
            self.leave(id, block);
        }
        true
    }

    /// A holder has nothing any more.
    pub fn clear(&mut self, id: HolderId) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        holder.orphans.clear();
        holder.digest = Digest::default();
        for (_, block) in std::mem::take(&mut holder.names) {
            self.leave(id, block);
        }
    }

    /// Sum and number of all (block, medium) pairs of a holder.
    pub fn digest(&self, id: HolderId) -> Digest {
        self.holders.get(&id).map_or(Digest::default(), |holder| holder.digest)
    }

    /// Which blocks of a prompt each holder has.
    pub fn covered(&self, locals: &[LocalHash]) -> BTreeMap<HolderId, Vec<Span>> {
        let mut spans: BTreeMap<HolderId, Vec<Span>> = BTreeMap::new();
        let mut at = ROOT;
        for (position, local) in (0u32..).zip(locals) {
            let Some(block) = self.blocks[at].children.get(local) else { break };
            at = *block;
            for (holder, media) in &self.blocks[at].held {
                let list = spans.entry(*holder).or_default();
                match list.last_mut() {
                    Some(last) if last.to == position && last.media == *media => last.to += 1,
                    _ => list.push(Span { from: position, to: position + 1, media: *media }),
                }
            }
        }
        spans
    }

    /// Blocks with a place that somebody holds.
    pub fn placed_blocks(&self) -> usize {
        let held: HashSet<Block> = self.holders.values().flat_map(|holder| holder.names.values().copied()).collect();
        held.len()
    }
}
