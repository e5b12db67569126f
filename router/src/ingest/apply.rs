//! Messages and snapshots of one stream into the index. Decoding and hashing happen before the index is locked; each message is
//! applied, and its digest compared, under one lock.

use super::holders::{self, HolderKey, HolderView, Holders};
use super::namespaces::{Full, NamespaceKey, Namespaces};
use super::stream::Verdict;
use super::wire::{Attention, Decoder, Event, Naming, Skipped, WireError};
use crate::index::{BlockName, Medium};
use kvd_block::digest::Digest;
use kvd_block::{LayoutId, LocalHash};
use kvd_proto::admin::{Layout, SnapshotBlock, SnapshotLayout, SnapshotPart};
use std::collections::HashMap;
use std::sync::Arc;

/// Who publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publisher {
    /// A kvd daemon, which says itself what its blocks are of.
    Kvd,
    /// One or more ranks of an engine.
    Engine {
        /// Model, as requests name it.
        model: String,
        /// Tokens in each block, if it was declared.
        block_tokens: Option<u32>,
        /// Data-parallel rank, for messages that do not say it.
        rank: u32,
    },
}

/// Why a publisher cannot be followed. Both sides are named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Blocks are of another size than was declared, or than they were.
    #[error(
        "its worker was declared with, or sent, blocks of {declared} tokens, and it sends blocks of {told}: give both the same `block_size`"
    )]
    BlockTokens {
        /// What was declared, or sent before.
        declared: u32,
        /// What came.
        told: u32,
    },
    /// A layout that kvd itself does not know.
    #[error("kvd told of layout {0} in an event and does not list it")]
    UnknownLayout(LayoutId),
    /// A layout without block size.
    #[error("kvd's layout {0} has blocks of no tokens")]
    EmptyLayout(LayoutId),
    /// The index has no room for another holder.
    #[error(transparent)]
    Full(#[from] Full),
}

/// How a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// As the verdict says.
    Judged(Verdict),
    /// It tells of a layout that is not known: learn it ([`Applier::learn`]) and apply the message again.
    NeedsLayouts,
}

/// What messages brought, in blocks unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Events.
    pub events: u64,
    /// Came to a medium.
    pub added: u64,
    /// Came again to where they were.
    pub again: u64,
    /// Wait for their parent, or came by a name nobody knows.
    pub orphaned: u64,
    /// Left a medium.
    pub removed: u64,
    /// Left where they were not known to be.
    pub unknown: u64,
    /// Parts that could not be used.
    pub skipped: Skipped,
    /// Messages that cannot be read, by [`WireError::kind`].
    pub errors: [u64; WireError::KINDS.len()],
}

#[derive(Debug, Clone)]
struct LayoutFacts {
    namespace: NamespaceKey,
    group: u16,
    attention: Attention,
}

/// Applies the messages of one stream. Dropping it forgets all that they brought.
#[derive(Debug)]
pub struct Applier {
    publisher: Publisher,
    decoder: Decoder,
    holders: Holders,
    layouts: HashMap<LayoutId, LayoutFacts>,
    /// Ids of the layouts that the snapshot under way calls by numbers.
    handles: HashMap<u32, LayoutId>,
    block_tokens: Option<u32>,
    /// Of the kvd that speaks.
    life: Option<u64>,
    /// Seat of each event of the message, in its order.
    seats: Vec<Option<usize>>,
    tally: Tally,
    refusal: Option<Refusal>,
    error: Option<WireError>,
    /// Changes whenever [`Applier::views`] does.
    version: u64,
}

enum Seated {
    Yes,
    NeedsLayouts,
    Refused(Refusal),
}

impl Applier {
    /// Nothing came yet.
    pub fn new(publisher: Publisher, namespaces: Arc<Namespaces>) -> Applier {
        let kvd = publisher == Publisher::Kvd;
        let block_tokens = if let Publisher::Engine { block_tokens, .. } = publisher { block_tokens } else { None };
        Applier {
            publisher,
            decoder: Decoder::new(if kvd { Naming::Kvd } else { Naming::Engine }),
            holders: Holders::new(namespaces, kvd),
            layouts: HashMap::new(),
            handles: HashMap::new(),
            block_tokens,
            life: None,
            seats: Vec::new(),
            tally: Tally::default(),
            refusal: None,
            error: None,
            version: 0,
        }
    }

    /// What messages brought so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Blocks held now, by medium.
    pub fn blocks(&self) -> [u64; 4] {
        let mut all = [0; 4];
        for seat in &self.holders.seats {
            all.iter_mut().zip(seat.blocks).for_each(|(all, blocks)| *all += blocks);
        }
        all
    }

    /// Its holders.
    pub fn views(&self) -> Vec<HolderView> {
        self.holders.views()
    }

    /// Changes whenever [`Applier::views`] does.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Why the publisher was refused, until something of it was applied.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// What the last unreadable message had.
    pub fn error(&self) -> Option<&WireError> {
        self.error.as_ref()
    }

    /// Over all that is held.
    pub fn digest(&mut self) -> Digest {
        let (indexes, seats) = self.holders.lock();
        holders::digest(&indexes, seats)
    }

    /// Forgets all blocks, and what the publisher's messages taught.
    pub fn clear(&mut self) {
        self.holders.clear();
        self.decoder.forget();
        self.life = None;
        if let Publisher::Engine { block_tokens, .. } = self.publisher {
            self.block_tokens = block_tokens;
        }
    }

    /// Compares what is held with `digest`; clears it when it differs.
    pub fn compare(&mut self, digest: Digest) -> Verdict {
        if self.digest() == digest {
            return Verdict::Sound;
        }
        self.clear();
        Verdict::Diverged
    }

    /// Applies one message, all of it or nothing.
    pub fn apply(&mut self, payload: &[u8], compare: bool) -> Applied {
        if let Err(error) = self.decoder.decode(payload) {
            self.tally.errors[error.kind()] += 1;
            self.error = Some(error);
            return Applied::Judged(Verdict::Malformed);
        }
        match self.seat() {
            Seated::Yes => {}
            Seated::NeedsLayouts => return Applied::NeedsLayouts,
            Seated::Refused(refusal) => return self.refuse(refusal),
        }
        let batch = self.decoder.batch();
        if let (Some(said), Some(known)) = (batch.incarnation, self.life)
            && said != known
            && batch.events().next() != Some(Event::Cleared)
        {
            // Another life speaks, and what it began with was lost.
            self.clear();
            return Applied::Judged(Verdict::Diverged);
        }
        self.life = batch.incarnation.or(self.life);
        self.refusal = None;
        let expected = batch.digest.filter(|_| compare);
        let (mut indexes, seats) = self.holders.lock();
        for (event, seat) in batch.events().zip(&self.seats) {
            self.tally.events += 1;
            match event {
                Event::Cleared => holders::clear(&mut indexes, seats),
                Event::Stored(stored) => {
                    let Some(seat) = seat.map(|seat| &mut seats[seat]) else { continue };
                    let index = &mut indexes[seat.space];
                    let told = !stored.locals.is_empty();
                    let result = if told {
                        index.store(seat.holder, stored.medium, stored.parent, stored.names, stored.locals)
                    } else {
                        index.store_known(seat.holder, stored.medium, stored.names)
                    };
                    let came = result.added + if told { result.orphaned } else { 0 };
                    seat.blocks[stored.medium as usize] += u64::from(came);
                    self.tally.added += u64::from(result.added);
                    self.tally.again += u64::from(result.again);
                    self.tally.orphaned += u64::from(result.orphaned);
                }
                Event::Removed { medium, names, .. } => {
                    let Some(seat) = seat.map(|seat| &mut seats[seat]) else {
                        self.tally.unknown += names.len() as u64;
                        continue;
                    };
                    let result = indexes[seat.space].remove(seat.holder, medium, names);
                    let left = &mut seat.blocks[medium as usize];
                    *left = left.saturating_sub(u64::from(result.removed));
                    self.tally.removed += u64::from(result.removed);
                    self.tally.unknown += u64::from(result.unknown);
                }
            }
        }
        let differs = expected.is_some_and(|expected| holders::digest(&indexes, seats) != expected);
        if differs {
            holders::clear(&mut indexes, seats);
        }
        self.tally.skipped = self.tally.skipped.and(batch.skipped);
        Applied::Judged(if differs { Verdict::Diverged } else { Verdict::Sound })
    }

    /// Forgets all blocks, and remembers why.
    pub fn refuse(&mut self, refusal: Refusal) -> Applied {
        self.holders.clear();
        self.refusal = Some(refusal);
        Applied::Judged(Verdict::Refused)
    }

    /// Finds, or adds, the holder of each event of the decoded message.
    fn seat(&mut self) -> Seated {
        self.seats.clear();
        let Applier { decoder, seats, holders, publisher, layouts, block_tokens, version, .. } = self;
        let batch = decoder.batch();
        for event in batch.events() {
            let (group, layout, names, told, attention) = match &event {
                Event::Cleared => {
                    seats.push(None);
                    continue;
                }
                Event::Removed { group, layout, names, .. } => (*group, *layout, names.len(), None, None),
                Event::Stored(stored) => {
                    let told = Some(stored.block_tokens).filter(|tokens| *tokens > 0);
                    (stored.group, stored.layout, stored.names.len(), told, stored.attention)
                }
            };
            let key = match (&publisher, layout) {
                (Publisher::Kvd, Some(layout)) => HolderKey::Layout(layout),
                (Publisher::Kvd, None) => {
                    seats.push(None);
                    continue;
                }
                (Publisher::Engine { rank, .. }, _) => HolderKey::Group { rank: batch.rank.unwrap_or(*rank), group },
            };
            if let (Publisher::Engine { .. }, Some(told)) = (&publisher, told) {
                let declared = *block_tokens.get_or_insert(told);
                if declared != told {
                    return Seated::Refused(Refusal::BlockTokens { declared, told });
                }
            }
            let mut seat = holders.find(key);
            if seat.is_none() && (names > 0 || attention.is_some()) {
                let facts = match (key, &publisher) {
                    (HolderKey::Layout(layout), _) => match layouts.get(&layout) {
                        Some(facts) => Some((facts.clone(), layout.salt())),
                        None => return Seated::NeedsLayouts,
                    },
                    (HolderKey::Group { group, .. }, Publisher::Engine { model, .. }) => block_tokens.map(|block_tokens| {
                        let namespace = NamespaceKey { model: model.clone(), block_tokens };
                        (LayoutFacts { namespace, group, attention: attention.unwrap_or(Attention::Full) }, 0)
                    }),
                    (HolderKey::Group { .. }, Publisher::Kvd) => None,
                };
                if let Some((facts, salt)) = facts {
                    match holders.add(key, &facts.namespace, facts.group, salt, facts.attention) {
                        Ok(added) => seat = Some(added),
                        Err(full) => return Seated::Refused(full.into()),
                    }
                    *version += 1;
                }
            }
            if let (Some(seat), Some(attention), Publisher::Engine { .. }) = (seat, attention, &publisher)
                && holders.seats[seat].attention != attention
            {
                holders.seats[seat].attention = attention;
                *version += 1;
            }
            seats.push(seat);
        }
        Seated::Yes
    }

    /// Learns kvd's layouts. After that an event of an unknown one is refused ([`Refusal::UnknownLayout`]).
    pub fn learn(&mut self, layouts: &[Layout]) -> Result<(), Refusal> {
        for layout in layouts {
            self.learn_one(&layout.id, &layout.model, layout.block_tokens, layout.group, &layout.attention)?;
        }
        Ok(())
    }

    fn learn_one(&mut self, id: &[u8], model: &str, block_tokens: u32, group: u32, attention: &str) -> Result<LayoutId, Refusal> {
        let id = LayoutId(id.try_into().unwrap_or_default());
        if block_tokens == 0 {
            return Err(Refusal::EmptyLayout(id));
        }
        let namespace = NamespaceKey { model: model.to_owned(), block_tokens };
        if attention.is_empty() && self.layouts.contains_key(&id) {
            return Ok(id);
        }
        let attention = Attention::named(attention, None);
        self.layouts.insert(id, LayoutFacts { namespace, group: group as u16, attention });
        if let Some(seat) = self.holders.find(HolderKey::Layout(id)).filter(|seat| self.holders.seats[*seat].attention != attention) {
            self.holders.seats[seat].attention = attention;
            self.version += 1;
        }
        Ok(id)
    }

    /// Adds blocks of a snapshot.
    pub fn place(&mut self, part: &SnapshotPart) -> Result<(), Refusal> {
        self.life = Some(part.incarnation);
        for SnapshotLayout { handle, id, block_tokens, group, model, .. } in &part.layouts {
            let id = self.learn_one(id, model, *block_tokens, *group, "")?;
            self.handles.insert(*handle, id);
        }
        let mut run = Run::default();
        for block in &part.blocks {
            let Some(next) = Edge::of(block, &self.handles) else {
                self.tally.skipped.media += 1;
                continue;
            };
            if !run.continued_by(&next) {
                self.store_run(&mut run)?;
            }
            run.push(next);
        }
        self.store_run(&mut run)
    }

    fn store_run(&mut self, run: &mut Run) -> Result<(), Refusal> {
        let Some((layout, medium)) = run.of.take() else { return Ok(()) };
        let key = HolderKey::Layout(layout);
        let seat = match self.holders.find(key) {
            Some(seat) => seat,
            None => {
                let facts = self.layouts.get(&layout).ok_or(Refusal::UnknownLayout(layout))?;
                self.version += 1;
                self.holders.add(key, &facts.namespace, facts.group, layout.salt(), facts.attention)?
            }
        };
        let (mut indexes, seats) = self.holders.lock();
        let seat = &mut seats[seat];
        let stored = indexes[seat.space].store(seat.holder, medium, run.parent, &run.names, &run.locals);
        seat.blocks[medium as usize] += u64::from(stored.added + stored.orphaned);
        self.tally.added += u64::from(stored.added);
        self.tally.again += u64::from(stored.again);
        self.tally.orphaned += u64::from(stored.orphaned);
        run.names.clear();
        run.locals.clear();
        Ok(())
    }
}

/// One block of a snapshot.
struct Edge {
    layout: LayoutId,
    medium: Medium,
    parent: Option<BlockName>,
    name: BlockName,
    local: LocalHash,
}

fn name(hash: &[u8]) -> Option<BlockName> {
    hash.first_chunk().filter(|_| hash.len() == 16).map(|first| BlockName(u64::from_le_bytes(*first)))
}

impl Edge {
    fn of(block: &SnapshotBlock, handles: &HashMap<u32, LayoutId>) -> Option<Edge> {
        let parent = if block.parent.iter().all(|byte| *byte == 0) { None } else { Some(name(&block.parent)?) };
        Some(Edge {
            layout: *handles.get(&block.layout)?,
            medium: Medium::named(&block.medium)?,
            parent,
            name: name(&block.hash)?,
            local: LocalHash(block.local),
        })
    }
}

/// Blocks of a snapshot that follow one another.
#[derive(Default)]
struct Run {
    of: Option<(LayoutId, Medium)>,
    parent: Option<BlockName>,
    names: Vec<BlockName>,
    locals: Vec<LocalHash>,
}

impl Run {
    fn continued_by(&self, next: &Edge) -> bool {
        self.of == Some((next.layout, next.medium)) && next.parent == self.names.last().copied()
    }

    fn push(&mut self, next: Edge) {
        if self.of.is_none() {
            (self.of, self.parent) = (Some((next.layout, next.medium)), next.parent);
        }
        self.names.push(next.name);
        self.locals.push(next.local);
    }
}
