//! A router that follows the events over a line that loses some, and takes a snapshot when it sees a gap.
//!
//! It does what a consumer of the daemon's does: it keeps the edges that come while parts of the snapshot come, and applies them on top
//! at the end ([`kvd_ledger::snapshot`]). An edge lost meanwhile is a gap again.

use kvd_block::{BlockKey, ResidencyEdge, TierKind};
use kvd_ledger::Ledger;
use kvd_ledger::snapshot::Sweep;
use std::collections::BTreeSet;

/// Where blocks are.
pub type Residency = BTreeSet<(BlockKey, TierKind)>;

/// What a subscriber believes of one life of the daemon.
#[derive(Debug)]
pub struct Subscriber {
    believes: Residency,
    /// Number of the next edge that it expects.
    next: u64,
    snapshot: Option<Snapshot>,
}

/// A snapshot on its way.
#[derive(Debug, Default)]
struct Snapshot {
    sweep: Sweep,
    /// Number of the next edge when the first part was read.
    first: Option<u64>,
    rows: Vec<ResidencyEdge>,
    /// Edges that arrived since, with their numbers.
    edges: Vec<(u64, ResidencyEdge)>,
}

impl Subscriber {
    /// Told what the life began with.
    pub fn new(found: Residency) -> Subscriber {
        Subscriber { believes: found, next: 0, snapshot: None }
    }

    /// The daemon published edge `number`; `arrives` is false when the line loses it.
    pub fn follow(&mut self, number: u64, edge: &ResidencyEdge, arrives: bool) {
        if !arrives {
            return;
        }
        if number > self.next {
            self.snapshot = Some(Snapshot::default());
        }
        self.next = number + 1;
        match &mut self.snapshot {
            Some(snapshot) => snapshot.edges.push((number, *edge)),
            None => apply(&mut self.believes, edge),
        }
    }

    /// Lets the daemon read a part of `most` more records; `next` edges were published so far. True with the number of edges that happened
    /// since the first part when that was the last part, and nothing is missing: then what it believes is what is there.
    pub fn sweep(&mut self, ledger: &Ledger, most: usize, next: u64) -> Option<usize> {
        let snapshot = self.snapshot.as_mut()?;
        let first = *snapshot.first.get_or_insert(next);
        if !ledger.sweep(&mut snapshot.sweep, most, &mut snapshot.rows) {
            return None;
        }
        if self.next < next {
            // The last edges did not arrive: the next one will tell, and begin another snapshot.
            return None;
        }
        let Snapshot { rows, mut edges, .. } = self.snapshot.take()?;
        edges.retain(|(number, _)| *number >= first);
        self.believes.clear();
        rows.iter().chain(edges.iter().map(|(_, edge)| edge)).for_each(|edge| apply(&mut self.believes, edge));
        Some(edges.len())
    }

    /// What it believes, unless it knows or would soon know that it missed something.
    pub fn believes(&self, next: u64) -> Option<&Residency> {
        (self.snapshot.is_none() && self.next == next).then_some(&self.believes)
    }
}

fn apply(residency: &mut Residency, edge: &ResidencyEdge) {
    match edge {
        ResidencyEdge::Stored { key, tier, .. } => drop(residency.insert((*key, *tier))),
        ResidencyEdge::Removed { key, tier } => drop(residency.remove(&(*key, *tier))),
    }
}
