//! Messages and snapshots of one stream into the index. Decoding and hashing happen before the index is locked; each message is
//! applied, and its digest compared, under one lock.

mod seats;
mod snapshot;

use super::holders::{self, HolderView, Holders, Seat};
use super::namespaces::{Full, NamespaceKey, Namespaces};
use super::saved::{SavedLayout, SavedProgress, SavedStream};
use super::stream::Verdict;
use super::wire::{Attention, Decoder, Event, Naming, Skipped, StoredEvent, WireError};
use crate::index::{Index, Stored};
use kvd_block::LayoutId;
use kvd_block::digest::Digest;
use seats::Obstacle;
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

impl Tally {
    fn stored(&mut self, stored: Stored) {
        self.added += u64::from(stored.added);
        self.again += u64::from(stored.again);
        self.orphaned += u64::from(stored.orphaned);
    }
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

    /// Goes on with what a former life knew; `None` when the indexes do not have it.
    pub(super) fn resume(publisher: Publisher, namespaces: Arc<Namespaces>, saved: &SavedStream) -> Option<Applier> {
        let holders = Holders::resume(namespaces.clone(), publisher == Publisher::Kvd, &saved.seats)?;
        let mut applier = Applier { holders, life: saved.life, version: 1, ..Applier::new(publisher, namespaces) };
        applier.block_tokens = applier.block_tokens.or(saved.block_tokens);
        applier.decoder.resume(&saved.salted);
        for layout in &saved.layouts {
            let SavedLayout { namespace, group, attention, .. } = layout.clone();
            applier.layouts.insert(LayoutId(layout.id), LayoutFacts { namespace, group, attention });
        }
        Some(applier)
    }

    /// What the next life needs to know, at `progress`.
    pub(super) fn saved(&self, source: &str, declared: &str, progress: SavedProgress) -> SavedStream {
        let layout = |(id, facts): (&LayoutId, &LayoutFacts)| {
            let LayoutFacts { namespace, group, attention } = facts.clone();
            SavedLayout { id: id.0, namespace, group, attention }
        };
        SavedStream {
            source: source.into(),
            declared: declared.into(),
            progress,
            life: self.life,
            block_tokens: self.block_tokens,
            layouts: self.layouts.iter().map(layout).collect(),
            seats: self.holders.saved(),
            salted: self.decoder.salted(),
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
            Ok(()) => {}
            Err(Obstacle::UnknownLayout) => return Applied::NeedsLayouts,
            Err(Obstacle::Refused(refusal)) => return self.refuse(refusal),
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
            match (event, seat.map(|seat| &mut seats[seat])) {
                (Event::Cleared, _) => holders::clear(&mut indexes, seats),
                (Event::Stored(blocks), Some(seat)) => store(&mut indexes[seat.space], seat, &blocks, &mut self.tally),
                (Event::Removed { medium, names, .. }, Some(seat)) => {
                    let result = indexes[seat.space].remove(seat.holder, medium, names);
                    let left = &mut seat.blocks[medium as usize];
                    *left = left.saturating_sub(u64::from(result.removed));
                    self.tally.removed += u64::from(result.removed);
                    self.tally.unknown += u64::from(result.unknown);
                }
                (Event::Removed { names, .. }, None) => self.tally.unknown += names.len() as u64,
                (Event::Stored(blocks), None) => self.tally.orphaned += blocks.names.len() as u64,
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
}

/// Adds the blocks of one event to its holder.
fn store(index: &mut Index, seat: &mut Seat, blocks: &StoredEvent<'_>, tally: &mut Tally) {
    let StoredEvent { medium, parent, names, locals, .. } = *blocks;
    // Blocks whose content is not told can only be known already.
    if locals.is_empty() {
        let stored = index.store_known(seat.holder, medium, names);
        tally.stored(stored);
        seat.blocks[medium as usize] += u64::from(stored.added);
    } else {
        let stored = index.store(seat.holder, medium, parent, names, locals);
        tally.stored(stored);
        seat.blocks[medium as usize] += u64::from(stored.added + stored.orphaned);
    }
}
