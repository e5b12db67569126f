//! The driver's end of the event stream.
//!
//! Knows what is resident as a [`Digest`], which counts an edge when it is numbered, whether or not its message can be queued.
//! An engine names blocks only after its layout is in the registry, and the ledger believes no row of a layout that it was not told
//! of, so no edge is of a layout without a name.

use crate::layouts::Layouts;
use crate::measure::Measures;
use kvd_block::digest::{Digest, term_in};
use kvd_block::{BlockKey, ResidencyEdge, SlotIndex, Tick, TierKind};
use kvd_ledger::{CatalogRow, Ledger, WalkCursor};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tracing::error;

/// Most edges of one message: about 60 KB of 16-token blocks.
const MESSAGE_EDGES: usize = 1024;
/// Most tokens of one message that are known when it is numbered: about 1 MB. Others come from headers, at most 870 a block.
const MESSAGE_TOKENS: usize = 1 << 18;
/// Messages waiting for the publisher.
pub const QUEUE_MESSAGES: usize = 1024;
/// After this long without a message one is sent that says nothing new, in milliseconds: whoever lost the last one finds out.
pub const BEAT_MS: u64 = 2_000;

/// An edge, and where its tokens are known from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeFact {
    /// What changed.
    pub edge: ResidencyEdge,
    /// What it adds to the digest, or takes from it.
    pub term: u64,
    /// The block's tokens, when it was sealed in the same turn.
    pub tokens: Option<Vec<u32>>,
    /// The arena slot whose header holds them otherwise. Whoever reads it checks that it still is this block.
    pub slot: Option<SlotIndex>,
}

/// What a message says.
#[derive(Debug)]
pub enum Content {
    /// Forget everything: a life of the daemon begins.
    Cleared,
    /// What was recovered, of one tier.
    Recovered(TierKind, Vec<CatalogRow>),
    /// What changed, in order.
    Edges(Vec<EdgeFact>),
    /// Nothing changed for a while.
    Nothing,
}

/// A message with its number.
#[derive(Debug)]
pub struct Numbered {
    /// From 0, without holes.
    pub number: u64,
    /// What it says.
    pub content: Content,
    /// Of everything resident after it.
    pub digest: Digest,
}

/// Collects edges and hands over numbered messages.
#[derive(Debug)]
pub struct EventFeed {
    next: u64,
    digest: Digest,
    edges: Vec<EdgeFact>,
    sealed: HashMap<BlockKey, Vec<u32>>,
    queue: Option<mpsc::Sender<Numbered>>,
    layouts: Arc<Layouts>,
    measures: Arc<Measures>,
    /// When nothing must be said if nothing else is; `None` until the life was announced.
    beat_at: Option<Tick>,
}

impl EventFeed {
    /// A feed into `queue`; without one, messages are numbered and forgotten.
    pub fn new(queue: Option<mpsc::Sender<Numbered>>, layouts: Arc<Layouts>, measures: Arc<Measures>) -> EventFeed {
        EventFeed { next: 0, digest: Digest::default(), edges: Vec::new(), sealed: HashMap::new(), queue, layouts, measures, beat_at: None }
    }

    /// Number of the next message.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Of everything that the messages numbered so far say is resident.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// When [`EventFeed::end_turn`] has something to say though nothing happens.
    pub fn next_beat(&self) -> Option<Tick> {
        self.beat_at.filter(|_| self.queue.is_some())
    }

    /// Says that a life begins, and what is resident: nothing was said before. Waits while the publisher is behind: once, at start.
    pub async fn announce(&mut self, now: Tick, ledger: &Ledger) {
        // They led to what is resident now.
        self.edges.clear();
        self.send(Content::Cleared).await;
        for tier in TierKind::ALL {
            let mut cursor = Some(WalkCursor::default());
            while let Some(from) = cursor {
                let (rows, next) = ledger.resident_from(tier, from);
                cursor = next;
                for rows in rows.chunks(MESSAGE_EDGES) {
                    self.send(Content::Recovered(tier, rows.to_vec())).await;
                }
            }
        }
        self.beat_at = Some(now.after_ms(BEAT_MS));
    }

    async fn send(&mut self, content: Content) {
        let message = self.number(content);
        if let Some(queue) = &self.queue {
            let _ = queue.send(message).await;
        }
    }

    /// The tokens of a block whose `Stored` edge follows in this turn.
    pub fn sealed(&mut self, key: BlockKey, tokens: Vec<u32>) {
        if self.queue.is_some() {
            self.sealed.insert(key, tokens);
        }
    }

    /// A change of residency.
    pub fn push(&mut self, edge: ResidencyEdge) {
        let (ResidencyEdge::Stored { key, tier, .. } | ResidencyEdge::Removed { key, tier }) = edge;
        self.edges.push(EdgeFact { edge, term: self.term(key, tier), tokens: None, slot: None });
    }

    /// Numbers what was collected and hands it over, or says that nothing happened when nothing was said for long. Never waits.
    pub fn end_turn(&mut self, now: Tick, ledger: &Ledger) {
        let Some(beat_at) = self.beat_at else { return };
        let before = self.next;
        let mut edges = std::mem::take(&mut self.edges);
        if self.queue.is_some() {
            edges.iter_mut().for_each(|fact| self.find_tokens(fact, ledger));
        }
        self.sealed.clear();
        while !edges.is_empty() {
            let rest = edges.split_off(fitting(&edges));
            self.hand_over(Content::Edges(edges));
            edges = rest;
        }
        if self.next == before && now >= beat_at && self.queue.is_some() {
            self.hand_over(Content::Nothing);
        }
        if self.next != before {
            self.beat_at = Some(now.after_ms(BEAT_MS));
        }
    }

    fn find_tokens(&mut self, fact: &mut EdgeFact, ledger: &Ledger) {
        let ResidencyEdge::Stored { key, .. } = fact.edge else { return };
        fact.tokens = self.sealed.get(&key).cloned();
        if fact.tokens.is_none() {
            fact.slot = ledger.inspect(key).and_then(|view| view.cpu);
        }
    }

    fn number(&mut self, content: Content) -> Numbered {
        match &content {
            Content::Cleared => self.digest = Digest::default(),
            Content::Recovered(tier, rows) => rows.iter().for_each(|row| self.digest.add(self.term(row.key, *tier))),
            Content::Edges(facts) => facts.iter().for_each(|fact| match fact.edge {
                ResidencyEdge::Stored { .. } => self.digest.add(fact.term),
                ResidencyEdge::Removed { .. } => self.digest.remove(fact.term),
            }),
            Content::Nothing => {}
        }
        let number = self.next;
        self.next += 1;
        Numbered { number, content, digest: self.digest }
    }

    fn term(&self, key: BlockKey, tier: TierKind) -> u64 {
        let layout = self.layouts.get(key.layout);
        if layout.is_none() {
            error!(%key, "a block of an unknown layout changed: subscribers cannot follow it");
        }
        term_in(key.hash, layout.map_or_else(Default::default, |layout| layout.id), tier)
    }

    fn hand_over(&mut self, content: Content) {
        let message = self.number(content);
        let Some(queue) = &self.queue else { return };
        match queue.try_send(message) {
            Ok(()) => self.measures.events_published.add(1),
            Err(_) => self.measures.events_dropped.add(1),
        }
    }
}

/// How many of `edges` go into one message: at least one.
fn fitting(edges: &[EdgeFact]) -> usize {
    let mut tokens = 0;
    let fits = |fact: &&EdgeFact| {
        tokens += fact.tokens.as_ref().map_or(0, Vec::len);
        tokens <= MESSAGE_TOKENS
    };
    edges.iter().take(MESSAGE_EDGES).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvd_block::{LayoutHandle, LayoutSpec, LocalHash, SequenceHash};
    use kvd_ledger::{LedgerConfig, SpaceConfig};

    fn layout() -> LayoutSpec {
        LayoutSpec {
            model: "m".into(),
            weights: "w".into(),
            kv_dtype: "bfloat16".into(),
            block_tokens: 16,
            group: 0,
            attention: "full_attention".into(),
            geometry: "g".into(),
            ranks: 1,
            stripe_bytes: 64,
        }
    }

    fn ledger() -> Ledger {
        Ledger::new(LedgerConfig::new(SpaceConfig { capacity_bytes: 8 << 20, extent_bytes: 4 << 20 }, None))
    }

    fn key(number: u8) -> BlockKey {
        BlockKey { layout: LayoutHandle(0), hash: SequenceHash([number; 16]) }
    }

    fn stored(number: u8) -> ResidencyEdge {
        let (parent, local) = (SequenceHash::ROOT, LocalHash(0));
        ResidencyEdge::Stored { key: key(number), tier: TierKind::Cpu, parent, local, position: 0 }
    }

    async fn announced(messages: usize) -> (EventFeed, mpsc::Receiver<Numbered>) {
        let layouts = Arc::new(Layouts::default());
        layouts.insert(LayoutHandle(0), layout());
        let (sender, mut queue) = mpsc::channel(messages);
        let mut feed = EventFeed::new(Some(sender), layouts, Arc::new(Measures::default()));
        feed.announce(Tick(0), &ledger()).await;
        assert!(matches!(queue.try_recv().unwrap().content, Content::Cleared));
        (feed, queue)
    }

    #[tokio::test]
    async fn the_digest_counts_what_a_full_queue_dropped() {
        let (mut feed, mut queue) = announced(1).await;
        for number in 1..=3 {
            feed.push(stored(number));
            feed.end_turn(Tick(1), &ledger());
        }
        assert_eq!(queue.try_recv().unwrap().digest.count, 1);
        assert!(queue.try_recv().is_err(), "two were dropped");
        feed.push(ResidencyEdge::Removed { key: key(2), tier: TierKind::Cpu });
        feed.end_turn(Tick(1), &ledger());
        let last = queue.try_recv().unwrap();
        let mut digest = Digest::default();
        [1, 3].into_iter().for_each(|number| digest.add(term_in(key(number).hash, layout().id(), TierKind::Cpu)));
        assert_eq!((last.number, last.digest), (4, digest));
    }

    #[tokio::test]
    async fn a_beat_follows_a_silence_and_only_a_silence() {
        let (mut feed, mut queue) = announced(8).await;
        feed.end_turn(Tick(BEAT_MS - 1), &ledger());
        assert!(queue.try_recv().is_err());
        feed.push(stored(1));
        feed.end_turn(Tick(BEAT_MS), &ledger());
        assert!(matches!(queue.try_recv().unwrap().content, Content::Edges(_)));
        assert_eq!(feed.next_beat(), Some(Tick(2 * BEAT_MS)));
        feed.end_turn(Tick(2 * BEAT_MS), &ledger());
        let beat = queue.try_recv().unwrap();
        assert!(matches!(beat.content, Content::Nothing));
        assert_eq!((beat.number, beat.digest.count), (2, 1));
    }

    #[tokio::test]
    async fn residency_is_counted_and_numbered_though_nobody_publishes_it() {
        let layouts = Arc::new(Layouts::default());
        layouts.insert(LayoutHandle(0), layout());
        let mut feed = EventFeed::new(None, layouts, Arc::new(Measures::default()));
        feed.announce(Tick(0), &ledger()).await;
        feed.push(stored(1));
        feed.end_turn(Tick(5 * BEAT_MS), &ledger());
        feed.end_turn(Tick(9 * BEAT_MS), &ledger());
        assert_eq!((feed.next_number(), feed.digest().count, feed.next_beat()), (2, 1, None));
    }

    #[test]
    fn long_blocks_make_more_messages() {
        let fact = |tokens: usize| EdgeFact { edge: stored(1), term: 0, tokens: Some(vec![0; tokens]), slot: None };
        assert_eq!(fitting(&vec![fact(16); 2000]), MESSAGE_EDGES);
        assert_eq!(fitting(&vec![fact(65_536); 9]), 4);
        assert_eq!(fitting(&[fact(MESSAGE_TOKENS + 1)]), 1);
    }

    #[tokio::test]
    async fn what_happens_before_the_announcement_is_part_of_it() {
        let (mut feed, mut queue) = announced(8).await;
        feed.beat_at = None;
        feed.push(stored(1));
        feed.end_turn(Tick(0), &ledger());
        feed.announce(Tick(0), &ledger()).await;
        assert!(matches!(queue.try_recv().unwrap().content, Content::Cleared));
        feed.end_turn(Tick(0), &ledger());
        assert!(queue.try_recv().is_err(), "the edge is not told again");
    }
}
