//! The ledger's counters by the names they have as metrics. The only list of them: metrics, status and reference use it.

use kvd_ledger::Counters;

/// One counter.
#[derive(Debug, Clone, Copy)]
pub struct LedgerCounter {
    /// Its name as a metric.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    read: fn(&Counters) -> u64,
}

macro_rules! counters {
    ($( $field:ident $help:literal )*) => {
        /// Every counter of the ledger.
        pub const ALL: &[LedgerCounter] = &[$(
            LedgerCounter { name: concat!("kvd_", stringify!($field), "_total"), help: $help, read: |counters| counters.$field },
        )*];

        /// Fails to compile when the ledger counts something that is not listed.
        #[allow(dead_code)]
        fn every_counter_is_listed(counters: Counters) {
            let Counters { $( $field: _, )* } = counters;
        }
    };
}

counters! {
    lookup_blocks "Blocks asked for by lookups."
    lookup_cpu "Blocks that lookups found in the arena."
    lookup_nvme "Blocks that lookups found on storage only."
    lookup_pending "Blocks that lookups found being stored."
    store_granted "Blocks granted a slot for storing."
    store_deduplicated "Blocks not stored because they were there already or being stored."
    store_busy "Blocks not stored because no slot could be had, for them or for the block before them."
    stored "Blocks whose store completed."
    store_abandoned "Blocks whose store was given up or never completed."
    loaded_cpu "Blocks given to loads from the arena."
    loaded_nvme "Blocks given to loads after being read from storage."
    load_missed "Blocks a load asked for and did not get."
    load_late "Blocks a load did not get because its deadline passed while they were being read."
    corrupt "Images whose bytes did not match, or that the device could not read."
    written "Blocks written to storage."
    write_failed "Writes to storage that failed."
    read_failed "Reads from storage that failed and left the image where it is."
    erased "Purged images overwritten on storage."
    erase_failed "Purged images that could not be overwritten; a scan still knows them for purged."
    offload_skipped "Blocks never written to storage because the backlog was full."
    offload_refused "Blocks not written to storage because admission or eviction thought them worth less than what is there."
    offload_over_budget "Blocks not written to storage because the write budget was spent."
    evicted_cpu "Blocks evicted from the arena."
    evicted_cpu_unwritten "Blocks evicted from the arena that had no copy on storage: lost."
    evicted_nvme "Blocks evicted from storage."
    leases_expired "Leases that ended because their time was over."
}

/// Every counter with its value.
pub fn of(counters: &Counters) -> impl Iterator<Item = (&'static LedgerCounter, u64)> {
    ALL.iter().map(|counter| (counter, (counter.read)(counters)))
}
