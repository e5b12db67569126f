//! Every tier keeps the contract.

mod made;

use kvd_tiers::conformance;
use kvd_tiers::{FaultPlan, Faulty, IoEngine, MemoryTier, NvmeTier, Tier, TierError, TierLimits, WriteBlock};
use made::{EXTENT_BYTES, arena, config, flip_bit, folder, path};

fn memory() -> MemoryTier {
    MemoryTier::new(TierLimits { capacity_bytes: 4 * EXTENT_BYTES, extent_bytes: EXTENT_BYTES, max_inflight_blocks: 8 })
}

#[test]
fn the_memory_tier_keeps_the_contract() {
    let tier = memory();
    conformance::run(&tier, &arena(), Some(&|address, offset| tier.flip_bit(address, offset)));
}

#[test]
fn the_slot_file_keeps_the_contract_over_io_uring() {
    let (folder, arena) = (folder(), arena());
    let tier = NvmeTier::open(config(&folder, &arena, IoEngine::Uring)).unwrap();
    conformance::run(&tier, &arena, Some(&|address, offset| flip_bit(&path(&folder), address, offset)));
}

#[test]
fn the_slot_file_keeps_the_contract_over_pread() {
    let (folder, arena) = (folder(), arena());
    let tier = NvmeTier::open(config(&folder, &arena, IoEngine::Posix)).unwrap();
    conformance::run(&tier, &arena, Some(&|address, offset| flip_bit(&path(&folder), address, offset)));
}

#[test]
fn a_faulty_tier_without_faults_keeps_the_contract() {
    conformance::run(&Faulty::new(memory(), FaultPlan::default()), &arena(), None);
}

#[test]
fn the_same_seed_gives_the_same_faults() {
    let faults = |seed| -> Vec<bool> {
        let arena = arena();
        let layout = conformance::sample_layout();
        let tier = Faulty::new(memory(), FaultPlan { seed, fail: 300, full: 100, ..FaultPlan::default() });
        let write = |nth| {
            let slot = made::slot(&arena, &layout, 0);
            conformance::seal(&slot, &layout, 1);
            tier.write(vec![WriteBlock { slot, address: made::address(&layout, nth) }]).wait().unwrap()[0].result.is_ok()
        };
        (0..40).map(write).collect()
    };
    assert_eq!(faults(7), faults(7));
    assert_ne!(faults(7), faults(8));
    assert!(faults(7).contains(&true) && faults(7).contains(&false));
}

#[test]
fn a_stalled_batch_answers_when_it_is_released() {
    let tier = Faulty::new(memory(), FaultPlan { stall: 1000, ..FaultPlan::default() });
    let erased = tier.erase(vec![kvd_block::SlotIndex(1)]);
    let waiting = std::thread::spawn(move || erased.wait());
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(!waiting.is_finished());
    tier.release_stalled();
    assert!(matches!(waiting.join().unwrap().unwrap()[..], [Ok(())]));
}

#[test]
fn a_full_medium_is_told_apart_from_a_failed_one() {
    let (arena, layout) = (arena(), conformance::sample_layout());
    let tier = Faulty::new(memory(), FaultPlan { full: 1000, ..FaultPlan::default() });
    let slot = made::slot(&arena, &layout, 0);
    conformance::seal(&slot, &layout, 1);
    let outcome = tier.write(vec![WriteBlock { slot, address: made::address(&layout, 0) }]).wait().unwrap();
    assert!(matches!(outcome[0].result, Err(TierError::Full { .. })));
}
