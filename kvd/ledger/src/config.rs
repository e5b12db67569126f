//! Limits and times of the ledger. Every queue and table has a bound here.

use crate::admission::Admission;
use crate::evict::policy::Eviction;
use crate::space::SpaceConfig;

/// What a ledger may use.
#[derive(Debug, Clone)]
pub struct LedgerConfig {
    /// The arena.
    pub arena: SpaceConfig,
    /// The NVMe slot file; `None` runs without.
    pub nvme: Option<SpaceConfig>,
    /// Which block leaves the arena when a slot is needed.
    pub arena_eviction: Eviction,
    /// Which block leaves NVMe when a slot is needed.
    pub nvme_eviction: Eviction,
    /// Which blocks are written to NVMe.
    pub admission: Admission,
    /// How many times a day the size of NVMe may be written; `None` is without limit.
    pub write_budget_dwpd: Option<f64>,
    /// Blocks being written to NVMe at once.
    pub max_writes: usize,
    /// Blocks being read from NVMe at once.
    pub max_reads: usize,
    /// Blocks waiting to be written; beyond that a block stays in the arena only.
    pub max_write_backlog: usize,
    /// Blocks waiting to be read; beyond that a load answers `Miss`.
    pub max_read_backlog: usize,
    /// Open leases of one session; beyond that requests are answered `Busy`.
    pub max_leases_per_session: usize,
    /// Blocks in one request; beyond that it is `Invalid`.
    pub max_blocks_per_request: usize,
    /// Blocks pinned by request at once, and blocks given a priority.
    pub max_pinned: usize,
    /// How long a load waits for slower tiers when the engine does not say.
    pub load_deadline_ms: u64,
    /// A load lease ends by itself after this.
    pub load_lease_ms: u64,
    /// A store lease loses its blocks after this; its slots come back only with its end, because a straggler may still copy.
    pub store_lease_ms: u64,
    /// No writes to NVMe for this long after it was full or failed.
    pub write_pause_ms: u64,
}

impl LedgerConfig {
    /// Usual limits around the given spaces.
    pub fn new(arena: SpaceConfig, nvme: Option<SpaceConfig>) -> LedgerConfig {
        LedgerConfig {
            arena,
            nvme,
            arena_eviction: Eviction::default(),
            nvme_eviction: Eviction::default(),
            admission: Admission::default(),
            write_budget_dwpd: None,
            max_writes: 32,
            max_reads: 64,
            max_write_backlog: 1 << 16,
            max_read_backlog: 1 << 14,
            max_leases_per_session: 4096,
            max_blocks_per_request: 1 << 16,
            max_pinned: 1 << 20,
            load_deadline_ms: 5_000,
            load_lease_ms: 60_000,
            store_lease_ms: 60_000,
            write_pause_ms: 1_000,
        }
    }
}
