//! A router that follows the events over a line that loses some, and takes a snapshot when it sees a gap.
//!
//! The snapshot is collected over many steps, as the daemon collects it, so it is the ledger's [`Sweep`] that is tested here.

use kvd_block::{BlockKey, ResidencyEdge, TierKind};
use kvd_ledger::Ledger;
use kvd_ledger::snapshot::{Sweep, amend};
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
    parts: Vec<Vec<ResidencyEdge>>,
    /// Edges since it was asked for, as the daemon has them.
    edges: Vec<ResidencyEdge>,
}

impl Subscriber {
    /// Told what the life began with.
    pub fn new(found: Residency) -> Subscriber {
        Subscriber { believes: found, next: 0, snapshot: None }
    }

    /// The daemon published edge `number`; `arrives` is false when the line loses it.
    pub fn follow(&mut self, number: u64, edge: &ResidencyEdge, arrives: bool) {
        if let Some(snapshot) = &mut self.snapshot {
            return snapshot.edges.push(*edge);
        }
        match arrives {
            false => {}
            true if number == self.next => {
                self.next += 1;
                apply(&mut self.believes, edge);
            }
            // This edge is not part of what the daemon notes, and already done: the sweep sees what it left.
            true => self.snapshot = Some(Snapshot::default()),
        }
    }

    /// Lets the daemon sweep `most` more records. True when a snapshot is complete now; then it is what is there, and how many edges
    /// happened while it was collected.
    pub fn sweep(&mut self, ledger: &Ledger, most: usize, next: u64) -> Option<usize> {
        let snapshot = self.snapshot.as_mut()?;
        let mut rows = Vec::new();
        let over = ledger.sweep(&mut snapshot.sweep, most, &mut rows);
        snapshot.parts.push(rows);
        if !over {
            return None;
        }
        let Snapshot { mut parts, edges, .. } = self.snapshot.take()?;
        let noted = edges.len();
        amend(&mut parts, edges);
        let swept = parts.iter().map(Vec::len).sum::<usize>();
        self.believes.clear();
        parts.iter().flatten().for_each(|row| apply(&mut self.believes, row));
        assert_eq!(swept, self.believes.len(), "a snapshot names a block in a tier once");
        self.next = next;
        Some(noted)
    }

    /// What it believes, unless it knows or would soon know that it missed something.
    pub fn believes(&self, next: u64) -> Option<&Residency> {
        (self.snapshot.is_none() && self.next == next).then_some(&self.believes)
    }
}

fn apply(residency: &mut Residency, edge: &ResidencyEdge) {
    match edge {
        ResidencyEdge::Stored { key, tier, .. } => drop(residency.insert((*key, *tier))),
        ResidencyEdge::Removed { key, tier, .. } => drop(residency.remove(&(*key, *tier))),
    }
}
