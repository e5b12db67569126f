//! What the ledger lets others see: totals, single blocks, and everything that is resident.

use crate::input::CatalogRow;
use crate::machine::Ledger;
use kvd_block::{BlockKey, SlotIndex, TierKind, TierSet};

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

    /// Every block that can be read from `tier`. The order means nothing.
    pub fn resident(&self, tier: TierKind) -> impl Iterator<Item = CatalogRow> + '_ {
        self.records.iter().filter(move |record| record.resident.contains(tier)).map(move |record| record.row(record.slots[tier as usize]))
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
