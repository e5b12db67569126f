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
    named: BTreeMap<NameDomain, BlockName>,
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
    names: HashMap<BlockName, (Block, Media)>,
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
        let mut before = parent.map_or(Some(ROOT), |parent| self.resolve(id, parent));
        let mut called = parent;
        for (name, local) in names.iter().zip(locals) {
            before = self.store_one(id, medium, before, called, (*name, *local), &mut stored);
            called = Some(*name);
        }
        stored
    }

    /// Stores a block after `known`, which is called `parent`; gives the block, when it has a place.
    fn store_one(
        &mut self,
        id: HolderId,
        medium: Medium,
        known: Option<Block>,
        parent: Option<BlockName>,
        (name, local): (BlockName, LocalHash),
        stored: &mut Stored,
    ) -> Option<Block> {
        // The parent may be unknown while the block is not: its name says enough then.
        let itself = self.resolve(id, name).filter(|block| self.blocks[*block].local == local);
        if let (None, Some(block)) = (known, itself) {
            self.hold(id, block, name, medium, stored);
            return Some(block);
        }
        let Some(before) = known else {
            self.forget_meaning(id, name);
            let holder = self.holders.get_mut(&id).expect("a registered holder");
            let fresh = || Orphan { parent: parent.expect("only a parent can be unknown"), local, media: Media::NONE };
            let orphan = holder.orphans.entry(name).or_insert_with(fresh);
            if orphan.media.contains(medium) {
                stored.again += 1;
            } else {
                orphan.media = orphan.media.with(medium);
                holder.digest.add(term(name.0, holder.salt, medium as u8));
                stored.orphaned += 1;
            }
            return None;
        };
        let block = self.block_after(before, local);
        self.hold(id, block, name, medium, stored);
        self.adopt(id);
        Some(block)
    }

    fn count(&mut self, id: HolderId, name: BlockName, medium: Medium) {
        let holder = self.holders.get_mut(&id).expect("a registered holder");
        holder.digest.add(term(name.0, holder.salt, medium as u8));
    }

    /// A holder says of a block without a place what it said of one that has.
    fn forget_meaning(&mut self, id: HolderId, name: BlockName) {
        let holder = self.holders.get_mut(&id).expect("a registered holder");
        let Some((meant, media)) = holder.names.remove(&name) else { return };
        for medium in Medium::ALL.into_iter().filter(|medium| media.contains(*medium)) {
            holder.digest.remove(term(name.0, holder.salt, medium as u8));
        }
        self.hold_again(id, meant);
    }

    fn hold(&mut self, id: HolderId, block: Block, name: BlockName, medium: Medium, stored: &mut Stored) {
        let holder = self.holders.get_mut(&id).expect("a registered holder");
        let waited = holder.orphans.remove(&name).map_or(Media::NONE, |orphan| orphan.media);
        for told in Medium::ALL.into_iter().filter(|told| waited.contains(*told)) {
            self.tell(id, block, name, told);
        }
        if self.tell(id, block, name, medium) {
            self.count(id, name, medium);
            stored.added += 1;
        } else {
            stored.again += 1;
        }
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

    fn block_after(&mut self, before: Block, local: LocalHash) -> Block {
        let next = self.blocks.len();
        let block = *self.blocks[before].children.entry(local).or_insert(next);
        if block == next {
            self.blocks.push(Record { local, ..Record::default() });
        }
        block
    }

    /// A holder says that the block it calls `name` is in a medium; false when it had said so. What it meant by the name before is
    /// taken back.
    fn tell(&mut self, id: HolderId, block: Block, name: BlockName, medium: Medium) -> bool {
        let holder = self.holders.get_mut(&id).expect("a registered holder");
        let before = holder.names.get(&name).copied();
        if before.is_some_and(|(meant, media)| meant == block && media.contains(medium)) {
            return false;
        }
        let same = before.filter(|(meant, _)| *meant == block).map_or(Media::NONE, |(_, media)| media);
        holder.names.insert(name, (block, same.with(medium)));
        let domain = holder.domain;
        self.hold_again(id, block);
        if !self.named.contains_key(&(domain, name)) && !self.blocks[block].named.contains_key(&domain) {
            self.named.insert((domain, name), block);
            self.blocks[block].named.insert(domain, name);
        }
        if let Some((meant, media)) = before.filter(|(meant, _)| *meant != block) {
            let holder = self.holders.get_mut(&id).expect("a registered holder");
            for medium in Medium::ALL.into_iter().filter(|medium| media.contains(*medium)) {
                holder.digest.remove(term(name.0, holder.salt, medium as u8));
            }
            self.hold_again(id, meant);
        }
        true
    }

    /// A holder has a block wherever any of its names for it says so.
    fn hold_again(&mut self, id: HolderId, block: Block) {
        let names = self.holders[&id].names.values();
        let media = names.filter(|(meant, _)| *meant == block).fold(Media::NONE, |all, (_, media)| all.or(*media));
        let record = &mut self.blocks[block];
        if !media.is_empty() {
            record.held.insert(id, media);
            return;
        }
        record.held.remove(&id);
        if record.held.is_empty() {
            for of in std::mem::take(&mut record.named) {
                self.named.remove(&of);
            }
        }
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
            let block = self.block_after(before, orphan.local);
            for medium in Medium::ALL.into_iter().filter(|medium| orphan.media.contains(*medium)) {
                self.tell(id, block, name, medium);
            }
        }
    }

    /// The block a holder means by `name`: its own, or what another of its domain calls so and somebody still has.
    fn resolve(&self, id: HolderId, name: BlockName) -> Option<Block> {
        let own = self.holders[&id].names.get(&name).map(|(block, _)| *block);
        own.or_else(|| self.named.get(&(self.holders[&id].domain, name)).copied())
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
        let Some((block, media)) = holder.names.get_mut(&name).filter(|(_, media)| media.contains(medium)) else { return false };
        let block = *block;
        *media = media.without(medium);
        if media.is_empty() {
            holder.names.remove(&name);
        }
        holder.digest.remove(term(name.0, holder.salt, medium as u8));
        self.hold_again(id, block);
        true
    }

    /// A holder has nothing any more.
    pub fn clear(&mut self, id: HolderId) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        holder.orphans.clear();
        holder.digest = Digest::default();
        for (_, (block, _)) in std::mem::take(&mut holder.names) {
            self.hold_again(id, block);
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
        let held: HashSet<Block> = self.holders.values().flat_map(|holder| holder.names.values().map(|(block, _)| *block)).collect();
        held.len()
    }
}
