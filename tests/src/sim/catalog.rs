//! The catalog as a crash leaves it: changes of the last moments may be lost, each by itself.

use crate::sim::dice::Dice;
use kvd_block::BlockKey;
use kvd_ledger::CatalogRow;
use std::collections::BTreeMap;

/// A change is safe after this many milliseconds.
const SAFE_AFTER_MS: u64 = 40;

/// Rows by block.
#[derive(Debug, Default)]
pub struct Catalog {
    safe: BTreeMap<BlockKey, CatalogRow>,
    recent: Vec<(u64, BlockKey, Option<CatalogRow>)>,
}

impl Catalog {
    /// Keeps a row.
    pub fn put(&mut self, now: u64, row: CatalogRow) {
        self.change(now, row.key, Some(row));
    }

    /// Forgets a row.
    pub fn delete(&mut self, now: u64, key: BlockKey) {
        self.change(now, key, None);
    }

    /// Every row, after an orderly end.
    pub fn rows(&mut self) -> Vec<CatalogRow> {
        for (_, key, row) in std::mem::take(&mut self.recent) {
            self.apply(key, row);
        }
        self.safe.values().copied().collect()
    }

    /// Loses some of the recent changes.
    pub fn crash(&mut self, dice: &mut Dice) {
        self.recent.retain(|_| dice.chance(50));
    }

    /// Loses everything.
    pub fn lose(&mut self) {
        *self = Catalog::default();
    }

    fn change(&mut self, now: u64, key: BlockKey, row: Option<CatalogRow>) {
        let safe = self.recent.partition_point(|(at, ..)| at + SAFE_AFTER_MS < now);
        for (_, key, row) in self.recent.drain(..safe).collect::<Vec<_>>() {
            self.apply(key, row);
        }
        self.recent.push((now, key, row));
    }

    fn apply(&mut self, key: BlockKey, row: Option<CatalogRow>) {
        match row {
            Some(row) => self.safe.insert(key, row),
            None => self.safe.remove(&key),
        };
    }
}
