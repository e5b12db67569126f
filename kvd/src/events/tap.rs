//! Notes edges for those who collect a snapshot over several turns.

use kvd_block::ResidencyEdge;
use std::collections::BTreeMap;

/// Snapshots at once; more are refused.
const MOST_TAPS: usize = 4;
/// Edges noted for one of them, 64 MB; beyond that it is given up.
const MOST_EDGES: usize = 1 << 20;

/// Names an open tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TapId(u64);

/// Open taps.
#[derive(Debug, Default)]
pub struct Taps {
    opened: u64,
    /// `None` is one that overflowed.
    open: BTreeMap<TapId, Option<Vec<ResidencyEdge>>>,
}

impl Taps {
    /// Notes every edge from now on; `None` when too many do so already.
    pub fn open(&mut self) -> Option<TapId> {
        if self.open.len() >= MOST_TAPS {
            return None;
        }
        self.opened += 1;
        self.open.insert(TapId(self.opened), Some(Vec::new()));
        Some(TapId(self.opened))
    }

    /// Every edge since the tap was opened, in order; `None` when there were too many.
    pub fn close(&mut self, tap: TapId) -> Option<Vec<ResidencyEdge>> {
        self.open.remove(&tap).flatten()
    }

    /// Something changed.
    pub fn push(&mut self, edge: &ResidencyEdge) {
        for noted in self.open.values_mut() {
            match noted {
                Some(edges) if edges.len() < MOST_EDGES => edges.push(*edge),
                _ => *noted = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvd_block::{BlockKey, LayoutHandle, SequenceHash, TierKind};

    fn edge(number: u8) -> ResidencyEdge {
        let key = BlockKey { layout: LayoutHandle(0), hash: SequenceHash([number; 16]) };
        ResidencyEdge::Removed { key, tier: TierKind::Cpu }
    }

    #[test]
    fn a_tap_notes_what_happens_while_it_is_open() {
        let mut taps = Taps::default();
        taps.push(&edge(1));
        let tap = taps.open().unwrap();
        taps.push(&edge(2));
        assert_eq!(taps.close(tap), Some(vec![edge(2)]));
        assert_eq!(taps.close(tap), None);
    }

    #[test]
    fn there_are_only_so_many_taps() {
        let mut taps = Taps::default();
        let open: Vec<_> = (0..MOST_TAPS).map(|_| taps.open().unwrap()).collect();
        assert_eq!(taps.open(), None);
        taps.close(open[0]);
        assert!(taps.open().is_some());
    }

    #[test]
    fn a_tap_that_nobody_closes_stays_small() {
        let mut taps = Taps::default();
        let tap = taps.open().unwrap();
        (0..=MOST_EDGES).for_each(|_| taps.push(&edge(1)));
        assert_eq!(taps.close(tap), None, "better no snapshot than a wrong one");
    }
}
