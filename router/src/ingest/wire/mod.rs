//! Payloads of vLLM, SGLang, TensorRT-LLM and kvd into residency edges, in one pass, without allocating once buffers have grown.
//!
//! ```text
//! payload  [seconds since 1970, [event …], rank|nil]           unknown tails, keys and kinds of event are passed over
//! event    {"type": "BlockStored" | "BlockRemoved" | "AllBlocksCleared", …}     or, from old vLLM,  ["BlockStored", hashes, …]
//! ```
//!
//! What engines do that one would not guess, all in `tests/fixtures/wire`:
//! * A sliding-window group tells all tokens and the hashes of the **last** blocks only, or none at all. The block before the
//!   first named one is found in another group's event of the same message; without such an event the blocks cannot be placed.
//! * An offloading connector may tell hashes without tokens: such blocks are known by name, or not at all.
//! * A cache salt comes with the first block of a sequence alone: [`local`].

mod error;
mod fields;
mod local;
mod reader;

pub use error::{HashForm, WireError};
pub use fields::Naming;
pub use local::media_hash;

use crate::index::{BlockName, Medium};
use fields::{Buffers, Fields, Hashes, Kind};
use kvd_block::digest::Digest;
use kvd_block::{LayoutId, LocalHash};
use local::{Blocks, Extras, Salted};
use reader::Reader;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Largest payload that is read. vLLM's largest step (a prompt of a million tokens) takes about 6 MB.
pub const MOST_PAYLOAD_BYTES: usize = 64 << 20;
/// Most tokens in one block.
const MOST_BLOCK_TOKENS: u32 = kvd_block::layout::MAX_BLOCK_TOKENS;
/// Buffers longer than this are given back after the message that needed them.
const KEPT: usize = 1 << 18;

/// What the layers of a KV group attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Attention {
    /// All tokens, or something that needs all blocks to be on the safe side.
    Full,
    /// The last so many tokens.
    Window {
        /// How many.
        tokens: u32,
    },
    /// A state that is saved with each block: the last one is enough.
    State,
}

impl Attention {
    /// What `name` means, such as `sliding_window` with a window beside it, or kvd's `sliding_window:4096`.
    pub fn named(name: &str, window_tokens: Option<u32>) -> Attention {
        let (name, beside) = name.split_once(':').map_or((name, None), |(name, tokens)| (name, tokens.parse().ok()));
        match (name, window_tokens.or(beside)) {
            ("sliding_window", Some(tokens)) => Attention::Window { tokens },
            ("mamba", _) => Attention::State,
            _ => Attention::Full,
        }
    }

    /// Blocks before the end of a prefix that are needed; `None` for all. As vLLM counts them: the token that comes next is
    /// part of its own window.
    pub fn window_blocks(self, block_tokens: u32) -> Option<u32> {
        match self {
            Attention::Full => None,
            Attention::Window { tokens } => Some(tokens.saturating_sub(1).div_ceil(block_tokens).max(1)),
            Attention::State => Some(1),
        }
    }
}

/// Blocks gained by a medium, each the parent of the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StoredEvent<'b> {
    /// KV group.
    pub group: u16,
    /// Layout, from kvd alone.
    pub layout: Option<LayoutId>,
    /// Where.
    pub medium: Medium,
    /// The block before the first; `None` at the start of a sequence.
    pub parent: Option<BlockName>,
    /// The blocks.
    pub names: &'b [BlockName],
    /// Their content: as many as names, or none when the publisher did not tell it.
    pub locals: &'b [LocalHash],
    /// Tokens in each block; 0 when not told.
    pub block_tokens: u32,
    /// What the group attends to, when told.
    pub attention: Option<Attention>,
}

/// One residency edge, or many of a kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'b> {
    /// Blocks came.
    Stored(StoredEvent<'b>),
    /// Blocks left a medium.
    Removed {
        /// KV group.
        group: u16,
        /// Layout, from kvd alone.
        layout: Option<LayoutId>,
        /// Where.
        medium: Medium,
        /// The blocks.
        names: &'b [BlockName],
    },
    /// Nothing of this publisher is anywhere any more.
    Cleared,
}

/// Parts of a message that were understood and cannot be used. None of them makes the index claim what is not so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Skipped {
    /// Events of a kind nobody knows.
    pub events: u64,
    /// Blocks in a medium nobody knows.
    pub media: u64,
    /// Blocks of a sliding window whose parent nobody told.
    pub unplaced: u64,
}

impl Skipped {
    /// Of two messages together.
    pub fn and(self, other: Skipped) -> Skipped {
        Skipped { events: self.events + other.events, media: self.media + other.media, unplaced: self.unplaced + other.unplaced }
    }
}

#[derive(Debug)]
struct Record {
    kind: Kind,
    group: u16,
    layout: Option<LayoutId>,
    medium: Medium,
    parent: Option<BlockName>,
    names: Range<usize>,
    locals: Range<usize>,
    block_tokens: u32,
    attention: Option<Attention>,
    /// The blocks before the first named one are told only by their tokens.
    headless: bool,
}

/// One message, read. Lives until the next is decoded.
#[derive(Debug, Default)]
pub struct Batch {
    records: Vec<Record>,
    buffers: Buffers,
    /// When it was published, in seconds since 1970.
    pub published: f64,
    /// Data-parallel rank of the publisher, when it says so.
    pub rank: Option<u32>,
    /// Over all that kvd has after this message.
    pub digest: Option<Digest>,
    /// Life of the kvd that speaks.
    pub incarnation: Option<u64>,
    /// What could not be used.
    pub skipped: Skipped,
}

impl Batch {
    /// Its events, in their order.
    pub fn events(&self) -> impl Iterator<Item = Event<'_>> {
        self.records.iter().map(|record| self.event(record))
    }

    /// The event at a place in their order.
    pub fn event_at(&self, at: usize) -> Option<Event<'_>> {
        self.records.get(at).map(|record| self.event(record))
    }

    fn event<'b>(&'b self, record: &Record) -> Event<'b> {
        let names = &self.buffers.names[record.names.clone()];
        let Record { group, layout, medium, parent, block_tokens, attention, .. } = *record;
        match record.kind {
            Kind::Stored => {
                let locals = &self.buffers.locals[record.locals.clone()];
                Event::Stored(StoredEvent { group, layout, medium, parent, names, locals, block_tokens, attention })
            }
            Kind::Removed => Event::Removed { group, layout, medium, names },
            Kind::Cleared | Kind::Unknown => Event::Cleared,
        }
    }

    fn clear(&mut self) {
        self.records.clear();
        self.records.shrink_to(KEPT);
        let Buffers { names, locals, tokens } = &mut self.buffers;
        names.clear();
        names.shrink_to(KEPT);
        locals.clear();
        locals.shrink_to(KEPT);
        tokens.clear();
        tokens.shrink_to(4 * KEPT);
        (self.rank, self.digest, self.incarnation, self.skipped) = (None, None, None, Skipped::default());
    }
}

/// Reads the messages of one stream, in their order.
#[derive(Debug)]
pub struct Decoder {
    hashes: Hashes,
    salted: Salted,
    extras: Extras,
    batch: Batch,
}

/// When a payload was published, in seconds since 1970, without reading the rest of it; 0 when it does not say.
pub fn published(payload: &[u8]) -> f64 {
    let mut reader = Reader::new(payload);
    reader.array("a payload").and_then(|_| reader.seconds()).unwrap_or(0.0)
}

impl Decoder {
    /// Nothing was read yet.
    pub fn new(naming: Naming) -> Decoder {
        Decoder { hashes: Hashes { naming, form: None }, salted: Salted::default(), extras: Extras::default(), batch: Batch::default() }
    }

    /// Forgets what earlier messages taught: the publisher, or what is known of it, begins anew.
    pub fn forget(&mut self) {
        self.hashes.form = None;
        self.salted.clear();
    }

    /// Name, seed and media of the blocks of salted sequences.
    pub(super) fn salted(&self) -> Vec<(u64, u64, u8)> {
        self.salted.all()
    }

    /// Remembers what a former life knew of salted sequences.
    pub(super) fn resume(&mut self, salted: &[(u64, u64, u8)]) {
        self.salted.resume(salted);
    }

    /// The message that was decoded last.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Reads one message. After an error nothing of it may be used.
    pub fn decode(&mut self, payload: &[u8]) -> Result<&Batch, WireError> {
        self.batch.clear();
        if payload.len() > MOST_PAYLOAD_BYTES {
            return Err(WireError::TooLarge { bytes: payload.len(), most: MOST_PAYLOAD_BYTES });
        }
        let mut reader = Reader::new(payload);
        let parts = reader.array("a payload")?.unwrap_or(0);
        if parts < 2 {
            return Err(WireError::Missing { event: "a payload", what: "time and events" });
        }
        self.batch.published = reader.seconds()?;
        for _ in 0..reader.array("events")?.unwrap_or(0) {
            self.read_event(&mut reader)?;
        }
        if parts > 2 {
            self.batch.rank = reader.integer("a rank")?;
        }
        self.place_headless();
        Ok(&self.batch)
    }

    fn read_event(&mut self, reader: &mut Reader<'_>) -> Result<(), WireError> {
        let fields = fields::event(reader, &mut self.hashes, &mut self.batch.buffers)?;
        self.batch.digest = fields.digest.or(self.batch.digest);
        self.batch.incarnation = fields.incarnation.or(self.batch.incarnation);
        let medium = match (fields.kind, fields.medium) {
            (Kind::Unknown, _) => {
                self.batch.skipped.events += 1;
                return Ok(());
            }
            (Kind::Cleared, _) => Some(Medium::Device),
            // Before media had names there was only the GPU.
            (_, None) => Some(Medium::Device),
            (_, Some(name)) => Medium::named(name),
        };
        let Some(medium) = medium else {
            self.batch.skipped.media += fields.names.len() as u64;
            return Ok(());
        };
        let mut record = Record {
            kind: fields.kind,
            group: fields.group,
            layout: fields.layout,
            medium,
            parent: fields.parent,
            names: fields.names.clone(),
            locals: 0..0,
            block_tokens: fields.block_tokens,
            attention: fields.attention.map(|name| Attention::named(name, fields.window_tokens)),
            headless: false,
        };
        match fields.kind {
            Kind::Stored => self.tell_content(&fields, &mut record)?,
            Kind::Removed => self.salted.removed(&self.batch.buffers.names[fields.names.clone()], medium),
            Kind::Cleared | Kind::Unknown => self.salted.clear(),
        }
        self.batch.records.push(record);
        Ok(())
    }

    /// Finds the local hashes of a stored event: told by kvd, computed from tokens, or unknown.
    fn tell_content(&mut self, fields: &Fields<'_>, record: &mut Record) -> Result<(), WireError> {
        if fields.block_tokens > MOST_BLOCK_TOKENS {
            return Err(WireError::OutOfRange { what: "block_size" });
        }
        let hashes = fields.names.len();
        if !fields.locals.is_empty() {
            record.locals = fields.locals.clone();
            let blocks = fields.locals.len();
            return if blocks == hashes { Ok(()) } else { Err(WireError::TooManyHashes { hashes, blocks }) };
        }
        if fields.tokens == 0 {
            return Ok(());
        }
        let block_tokens = fields.block_tokens as usize;
        if block_tokens == 0 || !fields.tokens.is_multiple_of(block_tokens) {
            return Err(WireError::UnevenTokens { tokens: fields.tokens, block_tokens: fields.block_tokens });
        }
        let blocks = fields.tokens / block_tokens;
        if hashes > blocks {
            return Err(WireError::TooManyHashes { hashes, blocks });
        }
        record.headless = hashes < blocks;
        let Buffers { names, locals, tokens } = &mut self.batch.buffers;
        let start = locals.len();
        let blocks = Blocks { names: &names[fields.names.clone()], medium: record.medium, tokens, block_tokens };
        local::hash(fields, blocks, &mut self.salted, &mut self.extras, locals)?;
        record.locals = start..locals.len();
        Ok(())
    }

    /// Gives the blocks of sliding windows the parent, and the content, that another group's event of this message tells.
    fn place_headless(&mut self) {
        if !self.batch.records.iter().any(|record| record.headless) {
            return;
        }
        let Batch { records, buffers, skipped, .. } = &mut self.batch;
        for at in 0..records.len() {
            if !records[at].headless {
                continue;
            }
            let found = records.iter().filter(|other| !other.headless).find_map(|other| place(&records[at], other, &buffers.names));
            let record = &mut records[at];
            match found {
                Some((parent, locals)) => (record.parent, record.locals) = (parent, locals),
                None => {
                    skipped.unplaced += record.names.len() as u64;
                    (record.names, record.locals) = (0..0, 0..0);
                }
            }
        }
    }
}

/// Parent and local hashes of `short`'s blocks if `whole` tells of them, too.
fn place(short: &Record, whole: &Record, names: &[BlockName]) -> Option<(Option<BlockName>, Range<usize>)> {
    if whole.kind != Kind::Stored || whole.locals.len() != whole.names.len() || short.names.is_empty() {
        return None;
    }
    let (mine, theirs) = (&names[short.names.clone()], &names[whole.names.clone()]);
    // Both end with the same block, as a rule; a search is for when they do not.
    let aligned = theirs.len().checked_sub(mine.len()).filter(|at| theirs[*at] == mine[0]);
    let at = aligned.or_else(|| theirs.iter().position(|name| *name == mine[0]))?;
    if !theirs[at..].starts_with(mine) {
        return None;
    }
    let parent = at.checked_sub(1).map_or(whole.parent, |before| Some(theirs[before]));
    let start = whole.locals.start + at;
    Some((parent, start..start + mine.len()))
}
