//! The catalog as a crash leaves it: changes of the last moments may be lost, each by itself.

use crate::sim::dice::Dice;
use kvd_block::{BlockKey, LayoutHandle};
use kvd_ledger::CatalogRow;
use std::collections::BTreeMap;

/// A change is safe after this many milliseconds.
const SAFE_AFTER_MS: u64 = 40;

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Keep a row.
    Put(CatalogRow),
    /// Forget a row.
    Delete(BlockKey),
    /// Forget the rows of a layout or of all, and remember the purge.
    Purge(Option<LayoutHandle>, u64),
}

/// Rows by block.
pub type Rows = BTreeMap<BlockKey, CatalogRow>;

/// The catalog.
#[derive(Debug, Default, Clone)]
pub struct Catalog {
    safe: Rows,
    /// The last purge of each layout that left no row behind.
    purged: BTreeMap<Option<LayoutHandle>, u64>,
    recent: Vec<(u64, Change)>,
}

impl Catalog {
    /// Makes a change.
    pub fn change(&mut self, now: u64, change: Change) {
        let safe = self.recent.partition_point(|(at, _)| at + SAFE_AFTER_MS < now);
        for (_, change) in self.recent.drain(..safe).collect::<Vec<_>>() {
            self.apply(change);
        }
        self.recent.push((now, change));
    }

    /// Every row, after an orderly end.
    pub fn rows(&mut self) -> Vec<CatalogRow> {
        for (_, change) in std::mem::take(&mut self.recent) {
            self.apply(change);
        }
        self.safe.values().copied().collect()
    }

    /// Every row as of the last change.
    pub fn newest(&self) -> Rows {
        let mut later = self.clone();
        later.rows();
        later.safe
    }

    /// The last purge of a layout that it remembers.
    pub fn purged(&self, layout: LayoutHandle) -> u64 {
        let of = |layout| self.purged.get(&layout).copied().unwrap_or(0);
        of(None).max(of(Some(layout)))
    }

    /// Loses some of the recent changes; returns how many.
    pub fn crash(&mut self, dice: &mut Dice) -> usize {
        let before = self.recent.len();
        self.recent.retain(|_| dice.chance(50));
        before - self.recent.len()
    }

    /// Loses everything.
    pub fn lose(&mut self) {
        *self = Catalog::default();
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Put(row) => drop(self.safe.insert(row.key, row)),
            Change::Delete(key) => drop(self.safe.remove(&key)),
            Change::Purge(layout, generation) => {
                self.safe.retain(|key, _| layout.is_some_and(|layout| layout != key.layout));
                self.purged.insert(layout, generation);
            }
        }
    }
}
