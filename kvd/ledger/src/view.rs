//! What the ledger lets others see: totals, single blocks, and everything that is resident.

use crate::input::CatalogRow;
use crate::machine::Ledger;
use kvd_block::{BlockKey, LayoutHandle, SlotIndex, TierKind, TierSet};

/// One block as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockView {
    /// Where it can be read.
    pub tiers: TierSet,
    /// Its arena slot, when it is there.
    pub cpu: Option<SlotIndex>,
    /// Its NVMe address, when it is there.
    pub nvme: Option<SlotIndex>,
    /// Being stored right now.
    pub filling: bool,
    /// Transfers and loads that use it.
    pub pins: u32,
    /// Pinned by request.
    pub pinned: bool,
    /// The catalog's view of it (address of its fastest tier, or page 0 while it is nowhere).
    pub row: CatalogRow,
}

/// Where a walk over a tier's blocks goes on. Valid whatever happens to the ledger meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalkCursor(usize);

/// Records looked at by one piece of a walk: about 100 µs.
const WALK_RECORDS: usize = 4096;

/// How full a tier is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TierTotals {
    /// Size.
    pub capacity_bytes: u64,
    /// Bytes of slots in use.
    pub used_bytes: u64,
    /// Blocks that can be read.
    pub blocks: u64,
}

impl Ledger {
    /// One block, if it is known.
    pub fn inspect(&self, key: BlockKey) -> Option<BlockView> {
        let index = self.records.find(key)?;
        let record = &self.records[index];
        let at = |tier: TierKind| record.resident.contains(tier).then(|| record.slots[tier as usize]);
        let address = record.resident.fastest().map_or(SlotIndex(0), |tier| record.slots[tier as usize]);
        Some(BlockView {
            tiers: record.resident,
            cpu: at(TierKind::Cpu),
            nvme: at(TierKind::Nvme),
            filling: record.filling,
            pins: record.pins + u32::from(record.reading) + u32::from(record.writing),
            pinned: self.pinned.contains(index),
            row: record.row(address),
        })
    }

    /// How full `tier` is; zero when there is none.
    pub fn totals(&self, tier: TierKind) -> TierTotals {
        let Some(state) = &self.tiers[tier as usize] else { return TierTotals::default() };
        TierTotals { capacity_bytes: state.space.capacity_bytes(), used_bytes: state.space.used_bytes(), blocks: state.blocks }
    }

    /// How many blocks of `layout` can be read from each tier.
    pub fn blocks_of(&self, layout: LayoutHandle) -> [u64; 2] {
        self.layouts.get(&layout).map_or([0; 2], |facts| facts.blocks)
    }

    /// Every block that can be read from `tier`. The order means nothing.
    pub fn resident(&self, tier: TierKind) -> impl Iterator<Item = CatalogRow> + '_ {
        self.records.iter().filter(move |record| record.resident.contains(tier)).map(move |record| record.row(record.slots[tier as usize]))
    }

    /// A piece of a walk over every block that can be read from `tier`: what was found, and where to go on; `None` at the end.
    ///
    /// A block that stays for the whole walk is met exactly once; of those that come or go meanwhile some are met.
    pub fn resident_from(&self, tier: TierKind, cursor: WalkCursor) -> (Vec<CatalogRow>, Option<WalkCursor>) {
        let (records, more) = self.records.piece(cursor.0, WALK_RECORDS);
        let there = records.filter(|record| record.resident.contains(tier));
        let rows = there.map(|record| record.row(record.slots[tier as usize])).collect();
        (rows, more.then_some(WalkCursor(cursor.0 + WALK_RECORDS)))
    }

    /// What an heir of the arena may have: every block there but those that are being forgotten.
    pub fn inheritance(&self) -> impl Iterator<Item = CatalogRow> + '_ {
        let sound = |record: &&crate::record::Record| record.resident.contains(TierKind::Cpu) && !record.doomed && !record.spoiled;
        self.records.iter().filter(sound).map(|record| record.row(record.slot(TierKind::Cpu)))
    }

    /// Blocks known, resident or not: never more than are resident, in use, or before such a block in its sequence.
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// Open store and load leases.
    pub fn open_leases(&self) -> usize {
        self.leases.len()
    }

    /// Transfers under way.
    pub fn open_transfers(&self) -> usize {
        self.ops.len()
    }

    /// Blocks waiting to be written to NVMe, and images waiting to be erased there.
    pub fn waiting_writes(&self) -> usize {
        self.write_backlog.len() + self.erases.backlog.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Input, LedgerConfig, SpaceConfig};
    use kvd_block::{LocalHash, SequenceHash, Tick};
    use std::collections::BTreeSet;

    #[test]
    fn a_walk_in_pieces_meets_every_block_that_stays_exactly_once() {
        let space = SpaceConfig { capacity_bytes: 64 << 20, extent_bytes: 4 << 20 };
        let mut ledger = Ledger::new(LedgerConfig::new(space, Some(space)));
        let layout = LayoutHandle(0);
        let name = |number: u32| SequenceHash(std::array::from_fn(|at| number.to_le_bytes()[at % 4]));
        let key = |number: u32| BlockKey { layout, hash: name(number) };
        let row = |number: u32| CatalogRow {
            key: key(number),
            address: SlotIndex(number / 1023 * 1024 + 1 + number % 1023),
            parent: SequenceHash::ROOT,
            local: LocalHash(u64::from(number)),
            position: 0,
        };
        let mut step = |input| ledger.step(Tick(0), input, &mut Vec::new());
        step(Input::DefineLayout { layout, slot_pages: 1, ranks: 1, generation: 0 });
        step(Input::Recovered { tier: TierKind::Nvme, rows: (1..=10_000).map(row).collect() });
        let (mut met, mut pieces, mut cursor) = (Vec::new(), 0, Some(WalkCursor::default()));
        while let Some(from) = cursor {
            let (rows, next) = ledger.resident_from(TierKind::Nvme, from);
            met.extend(rows.into_iter().map(|row| row.key));
            (pieces, cursor) = (pieces + 1, next);
            let gone = Input::FoundCorrupt { key: key(pieces), tier: TierKind::Nvme, address: row(pieces).address };
            ledger.step(Tick(0), gone, &mut Vec::new());
        }
        assert_eq!(pieces, 3, "4096 records each");
        assert_eq!(met.len(), 10_000, "those that went were met before");
        assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), (1..=10_000).map(key).collect());
        assert_eq!(ledger.resident_from(TierKind::Cpu, WalkCursor::default()).0, []);
    }
}
