//! Which blocks are written to NVMe: all, those asked for twice, or those asked for more often than what they would replace; and
//! never more than the drive is meant to take.
//!
//! What is refused stays in the arena, and is offered again each time a request finds it there.

pub mod budget;
mod seen;
mod sketch;

use crate::config::LedgerConfig;
use crate::evict::policy::Eviction;
use crate::machine::Ledger;
use crate::record::BlockIndex;
use budget::WriteBudget;
use kvd_block::TierKind;
use seen::Seen;
use sketch::Sketch;

/// Which blocks are worth a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Admission {
    /// Every block that was stored.
    #[default]
    Always,
    /// Blocks that were stored before, or found by a later request.
    SecondTouch,
    /// While there is room every block; then those asked for more often, lately, than the block they would replace.
    TinyLfu,
}

impl Admission {
    /// Every policy.
    pub const ALL: [Admission; 3] = [Admission::Always, Admission::SecondTouch, Admission::TinyLfu];
}

/// Bytes of medium for which a filter keeps one counter: the size of a small block.
const BYTES_PER_COUNTER: u64 = 64 << 10;
const MOST_COUNTERS: u64 = 1 << 22;

/// What stands between the arena and NVMe.
#[derive(Debug)]
pub(crate) struct Gate {
    filter: Filter,
    pub budget: Option<WriteBudget>,
}

#[derive(Debug)]
enum Filter {
    Always,
    SecondTouch(Seen),
    TinyLfu(Sketch),
}

impl Gate {
    pub fn new(config: &LedgerConfig) -> Gate {
        let bytes = config.nvme.map_or(0, |space| space.capacity_bytes);
        let counters = (bytes / BYTES_PER_COUNTER).clamp(1024, MOST_COUNTERS).next_power_of_two();
        let filter = match config.admission {
            Admission::Always => Filter::Always,
            Admission::SecondTouch => Filter::SecondTouch(Seen::new(counters)),
            Admission::TinyLfu => Filter::TinyLfu(Sketch::new(counters)),
        };
        Gate { filter, budget: config.write_budget_dwpd.map(|writes| WriteBudget::new(bytes, writes)) }
    }

    fn used(&mut self, name: u64) {
        if let Filter::TinyLfu(sketch) = &mut self.filter {
            sketch.count(name);
        }
    }
}

impl Ledger {
    /// A request asked for this block: what counts uses counts one.
    pub(crate) fn count_use(&mut self, index: BlockIndex) {
        self.gate.used(self.records[index].key.hash.table_hash());
    }

    /// A block was stored: to NVMe with it, if it is worth that.
    pub(crate) fn offer_new(&mut self, index: BlockIndex) {
        let name = self.records[index].key.hash.table_hash();
        let again = self.records[index].history.uses > 0;
        let wanted = match &mut self.gate.filter {
            Filter::SecondTouch(seen) => seen.insert(name) || again,
            Filter::Always | Filter::TinyLfu(_) => true,
        };
        if wanted || self.config.nvme.is_none() {
            self.offload_later(index);
        } else {
            self.counters.offload_refused += 1;
        }
    }

    /// A request found this block: if it is only in the arena because it was refused, it may be worth a write now.
    pub(crate) fn offer_again(&mut self, index: BlockIndex) {
        let record = &self.records[index];
        if self.config.nvme.is_none() || record.resident.contains(TierKind::Nvme) || record.writing || record.backlogged {
            return;
        }
        if record.resident.contains(TierKind::Cpu) && self.is_selective() {
            self.offload_later(index);
        }
    }

    /// True when blocks may have been refused that are still worth a write.
    pub(crate) fn is_selective(&self) -> bool {
        !matches!(self.gate.filter, Filter::Always) || self.gate.budget.is_some() || self.config.nvme_eviction == Eviction::Density
    }

    /// True when a block must not replace what NVMe would evict for it, or would be there without its parent.
    pub(crate) fn refuses_write(&mut self, index: BlockIndex) -> bool {
        if !self.is_selective() {
            return false;
        }
        let was_refused = |parent: BlockIndex| {
            let parent = &self.records[parent];
            parent.resident.contains(TierKind::Cpu) && !parent.resident.contains(TierKind::Nvme) && !parent.writing
        };
        if self.records[index].parent.is_some_and(was_refused) {
            return true;
        }
        let pages = self.slot_pages(index);
        let is_full = self.tier(TierKind::Nvme).is_none_or(|state| !state.space.has_room(pages));
        if !is_full || !matches!(self.gate.filter, Filter::TinyLfu(_)) {
            return false;
        }
        let Some(victim) = self.victim(TierKind::Nvme, index) else { return false };
        let Filter::TinyLfu(sketch) = &self.gate.filter else { return false };
        let often = |index: BlockIndex| sketch.estimate(self.records[index].key.hash.table_hash());
        often(index) <= often(victim.index)
    }
}
