//! The driver's end of the event stream.

use super::tap::Taps;
use crate::layouts::Layouts;
use crate::measure::Measures;
use kvd_block::{BlockKey, ResidencyEdge, SlotIndex, TierKind};
use kvd_ledger::{CatalogRow, Ledger};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Most edges of one message: about 60 KB of 16-token blocks.
const MESSAGE_EDGES: usize = 1024;
/// Messages waiting for the publisher.
pub const QUEUE_MESSAGES: usize = 1024;

/// An edge, and where its tokens are known from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeFact {
    /// What changed.
    pub edge: ResidencyEdge,
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
}

/// A message with its number.
#[derive(Debug)]
pub struct Numbered {
    /// From 0, without holes.
    pub number: u64,
    /// What it says.
    pub content: Content,
}

/// Collects edges and hands over numbered messages.
#[derive(Debug)]
pub struct EventFeed {
    next: u64,
    edges: Vec<EdgeFact>,
    sealed: HashMap<BlockKey, Vec<u32>>,
    queue: Option<mpsc::Sender<Numbered>>,
    layouts: Arc<Layouts>,
    measures: Arc<Measures>,
    /// Who notes edges for a snapshot.
    pub taps: Taps,
}

impl EventFeed {
    /// A feed into `queue`; without one, edges are forgotten.
    pub fn new(queue: Option<mpsc::Sender<Numbered>>, layouts: Arc<Layouts>, measures: Arc<Measures>) -> EventFeed {
        EventFeed { next: 0, edges: Vec::new(), sealed: HashMap::new(), queue, layouts, measures, taps: Taps::default() }
    }

    /// Number of the next message.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Says that a life begins, and what was recovered. Waits while the publisher is behind: once, at start.
    pub async fn announce(&mut self, ledger: &Ledger) {
        let Some(queue) = self.queue.clone() else { return };
        let _ = queue.send(self.number(Content::Cleared)).await;
        for tier in TierKind::ALL {
            let mut rows = ledger.resident(tier).filter(|row| self.layouts.get(row.key.layout).is_some()).peekable();
            let mut batches = Vec::new();
            while rows.peek().is_some() {
                batches.push(rows.by_ref().take(MESSAGE_EDGES).collect());
            }
            drop(rows);
            for batch in batches {
                let _ = queue.send(self.number(Content::Recovered(tier, batch))).await;
            }
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
        self.taps.push(&edge);
        if self.queue.is_some() {
            self.edges.push(EdgeFact { edge, tokens: None, slot: None });
        }
    }

    /// Numbers what was collected and hands it over. Never waits.
    pub fn end_turn(&mut self, ledger: &Ledger) {
        if self.edges.is_empty() {
            self.sealed.clear();
            return;
        }
        let mut edges = std::mem::take(&mut self.edges);
        edges.iter_mut().for_each(|fact| self.find_tokens(fact, ledger));
        self.sealed.clear();
        while !edges.is_empty() {
            let rest = edges.split_off(edges.len().min(MESSAGE_EDGES));
            let message = self.number(Content::Edges(edges));
            self.hand_over(message);
            edges = rest;
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
        let number = self.next;
        self.next += 1;
        Numbered { number, content }
    }

    fn hand_over(&mut self, message: Numbered) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(message) {
            Ok(()) => self.measures.events_published.add(1),
            Err(_) => self.measures.events_dropped.add(1),
        }
    }
}
