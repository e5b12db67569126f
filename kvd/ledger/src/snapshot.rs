//! Everything that is resident as of one moment, collected over many, so that no step waits for a million rows.
//!
//! ```text
//! begin: note edges from here on     sweep, sweep, sweep …        end: apply the edges noted to what was swept
//! ```
//!
//! A block whose residency does not change meanwhile keeps its record, and its record keeps its place: it is swept exactly once. A
//! block whose residency does change has edges, and the last of them says where it is at the end. So the outcome is what is resident
//! at the end, to the edge.

use crate::machine::Ledger;
use kvd_block::{BlockKey, ResidencyEdge, TierKind};
use std::collections::HashMap;

/// How far a sweep has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sweep {
    place: usize,
}

impl Ledger {
    /// Looks at the next `most` records at most and appends a `Stored` edge for each tier that each is resident in. True when
    /// the sweep is over.
    pub fn sweep(&self, sweep: &mut Sweep, most: usize, rows: &mut Vec<ResidencyEdge>) -> bool {
        let end = self.records.places().min(sweep.place + most);
        for record in (sweep.place..end).filter_map(|place| self.records.at(place)) {
            let tiers = TierKind::ALL.into_iter().filter(|tier| record.resident.contains(*tier));
            rows.extend(tiers.map(|tier| ResidencyEdge::Stored {
                key: record.key,
                tier,
                parent: record.parent_hash,
                local: record.local,
                position: record.position,
            }));
        }
        sweep.place = end;
        end == self.records.places()
    }
}

/// Makes what was swept, in parts, true as of the end of the sweep. `edges` are all that happened since before its first part, in
/// order. What they brought is a part of its own.
pub fn amend(parts: &mut Vec<Vec<ResidencyEdge>>, edges: Vec<ResidencyEdge>) {
    let last: HashMap<(BlockKey, TierKind), ResidencyEdge> = edges.into_iter().map(|edge| (place(&edge), edge)).collect();
    if last.is_empty() {
        return;
    }
    parts.iter_mut().for_each(|rows| rows.retain(|row| !last.contains_key(&place(row))));
    parts.push(last.into_values().filter(|edge| matches!(edge, ResidencyEdge::Stored { .. })).collect());
}

fn place(edge: &ResidencyEdge) -> (BlockKey, TierKind) {
    match edge {
        ResidencyEdge::Stored { key, tier, .. } | ResidencyEdge::Removed { key, tier, .. } => (*key, *tier),
    }
}
