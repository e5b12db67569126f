//! What the ledger has done so far. Every number only grows.

/// Totals since the ledger was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks asked for by lookups.
    pub lookup_blocks: u64,
    /// … of which found in the arena.
    pub lookup_cpu: u64,
    /// … of which found on NVMe only.
    pub lookup_nvme: u64,
    /// … of which being stored by someone.
    pub lookup_pending: u64,
    /// Blocks granted a slot for storing.
    pub store_granted: u64,
    /// Blocks not stored because they were there already or being stored.
    pub store_deduplicated: u64,
    /// Blocks not stored because no slot could be had, for them or for the block before them.
    pub store_busy: u64,
    /// Blocks whose store completed.
    pub stored: u64,
    /// Blocks whose store was given up or never completed.
    pub store_abandoned: u64,
    /// Blocks given to loads from the arena.
    pub loaded_cpu: u64,
    /// Blocks given to loads after being read from NVMe.
    pub loaded_nvme: u64,
    /// Blocks a load asked for and did not get.
    pub load_missed: u64,
    /// … of which because the deadline passed while they were being read.
    pub load_late: u64,
    /// Images whose bytes did not match, found by an engine, a promotion or the scrubber.
    pub corrupt: u64,
    /// Blocks written to NVMe.
    pub written: u64,
    /// Writes to NVMe that failed.
    pub write_failed: u64,
    /// Reads from NVMe that failed for other reasons than corruption.
    pub read_failed: u64,
    /// Purged images overwritten on NVMe.
    pub erased: u64,
    /// … which could not be; only their generation says that they were purged.
    pub erase_failed: u64,
    /// Blocks never written to NVMe because the backlog was full.
    pub offload_skipped: u64,
    /// Blocks not written to NVMe because admission or eviction thought them worth less than what is there.
    pub offload_refused: u64,
    /// Blocks not written to NVMe because the write budget was spent.
    pub offload_over_budget: u64,
    /// Blocks evicted from the arena.
    pub evicted_cpu: u64,
    /// … of which had no copy on NVMe, and so were lost.
    pub evicted_cpu_unwritten: u64,
    /// Blocks evicted from NVMe.
    pub evicted_nvme: u64,
    /// Leases that ended because their time was over.
    pub leases_expired: u64,
}
