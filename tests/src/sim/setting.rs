//! The sizes and limits of a run, thrown by its seed: small, so that every limit is met.

use crate::sim::bytes::Shape;
use crate::sim::dice::Dice;
use kvd_block::{LayoutHandle, LayoutId, LocalHash, NewBlock, PAGE_BYTES, Purges, SequenceHash};
use kvd_ledger::{Admission, Eviction, Input, LedgerConfig, SpaceConfig};

/// Blocks at the start of every chain that all chains share, as prompts share their system prompt.
const SHARED_BLOCKS: u64 = 3;
const CHAINS: u64 = 6;
const LONGEST_CHAIN: u64 = 9;

/// What a node of the simulation is like.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Limits of the ledger.
    pub config: LedgerConfig,
    /// Layouts in use; the index is the handle.
    pub shapes: Vec<Shape>,
    /// Engines.
    pub engines: usize,
    /// Jobs that an engine does at once.
    pub lanes: u64,
}

impl Setting {
    /// Throws the setting of a run.
    pub fn throw(dice: &mut Dice) -> Setting {
        let all = [Shape { ranks: 1, stripe_pages: 1 }, Shape { ranks: 2, stripe_pages: 1 }, Shape { ranks: 2, stripe_pages: 2 }];
        let space =
            |extents: u64, pages: u64| SpaceConfig { capacity_bytes: extents * pages * PAGE_BYTES, extent_bytes: pages * PAGE_BYTES };
        let arena = space(dice.range(2, 5), dice.range(8, 20));
        let nvme = dice.chance(90).then(|| space(dice.range(2, 8), dice.range(8, 20)));
        let mut config = LedgerConfig::new(arena, nvme);
        config.arena_eviction = Eviction::ALL[dice.below(5) as usize];
        config.nvme_eviction = Eviction::ALL[dice.below(5) as usize];
        config.admission = Admission::ALL[dice.below(3) as usize];
        config.write_budget_dwpd = dice.chance(10).then(|| dice.range(1, 24) as f64);
        config.max_writes = dice.range(1, 4) as usize;
        config.max_reads = dice.range(1, 4) as usize;
        config.max_write_backlog = dice.range(1, 20) as usize;
        config.max_read_backlog = dice.range(1, 10) as usize;
        config.max_leases_per_session = dice.range(1, 6) as usize;
        config.max_blocks_per_request = dice.range(6, 12) as usize;
        config.max_pinned = dice.range(1, 8) as usize;
        config.load_deadline_ms = dice.range(5, 80);
        config.load_lease_ms = dice.range(30, 150);
        config.store_lease_ms = dice.range(20, 150);
        config.write_pause_ms = dice.range(5, 60);
        let shapes = all[..dice.range(1, 3) as usize].to_vec();
        Setting { config, shapes, engines: dice.range(1, 4) as usize, lanes: dice.range(1, 3) }
    }

    /// The inputs that tell a ledger of the layouts, and of what was purged.
    pub fn layouts(&self, purged: &Purges) -> impl Iterator<Item = Input> {
        self.shapes.iter().enumerate().map(|(at, shape)| Input::DefineLayout {
            layout: LayoutHandle(at as u16),
            slot_pages: shape.slot_pages(),
            ranks: shape.ranks,
            generation: purged.generation(layout_id(LayoutHandle(at as u16))),
        })
    }

    /// The shape of a layout.
    pub fn shape(&self, layout: LayoutHandle) -> Shape {
        self.shapes[usize::from(layout.0)]
    }

    /// Pages of the arena.
    pub fn arena_pages(&self) -> usize {
        (self.config.arena.capacity_bytes / PAGE_BYTES) as usize
    }

    /// Pages of the device.
    pub fn medium_pages(&self) -> usize {
        self.config.nvme.map_or(0, |space| space.capacity_bytes / PAGE_BYTES) as usize
    }
}

/// The lasting name of a layout.
pub fn layout_id(handle: LayoutHandle) -> LayoutId {
    LayoutId([handle.0 as u8 + 1; 16])
}

/// The beginning of some chain, root first.
pub fn throw_prompt(dice: &mut Dice) -> Vec<NewBlock> {
    let (chain, blocks) = (dice.below(CHAINS), dice.range(1, LONGEST_CHAIN));
    prompt(chain, blocks)
}

/// The first `blocks` blocks of a chain.
pub fn prompt(chain: u64, blocks: u64) -> Vec<NewBlock> {
    (0..blocks)
        .map(|position| NewBlock {
            hash: name(chain, position),
            parent: if position == 0 { SequenceHash::ROOT } else { name(chain, position - 1) },
            local: LocalHash(position),
            position: position as u32,
            tokens: vec![],
        })
        .collect()
}

fn name(chain: u64, position: u64) -> SequenceHash {
    let chain = if position < SHARED_BLOCKS { 0 } else { chain };
    let mut bytes = [1; 16];
    bytes[..8].copy_from_slice(&super::dice::mix(chain * 1000 + position + 1).to_le_bytes());
    SequenceHash(bytes)
}
