//! Everything that is resident, read in parts, so that no step waits for a million rows and nobody keeps a copy of them.
//!
//! ```text
//! part₀  edges  part₁  edges  …  partₙ                   view = all parts, then all edges since part₀, in order
//! ```
//!
//! A part is of the moment at which it is read, so the parts alone are of no moment. With the edges since the first part applied on top, in
//! order, the view is what is resident after the last of them, to the edge:
//!
//! * A block in a tier without such an edge did not come or go meanwhile. Its record lives on at its place, the table only grows
//!   at its end, and places are swept from first to last: it is in exactly one part if it is resident, and in none otherwise.
//! * Of a block with such edges the last says where it is, whatever parts said of it before or after.
//!
//! The view is a set: a block that left and came back may be in two parts, and edges may repeat what a part said.

use crate::machine::Ledger;
use kvd_block::{ResidencyEdge, TierKind};

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
