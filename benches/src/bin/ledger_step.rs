//! What a decision costs: `Ledger::step` with a million blocks, without a daemon around it.
//!
//! The one thread that owns the ledger answers every engine of a node, so its cost per block is the daemon's ceiling. A
//! prompt of 128k tokens is 8,000 blocks of 16 tokens. The reference is the least anyone could do: one look into a standard
//! hash map per block, with no recency kept and no tier known.

use std::collections::HashMap;
use std::hint::black_box;

use kvd_benches::{Better, CountingAllocator, Interleaved, Report, Row, allocated_bytes, interleave, percentile, seconds};
use kvd_block::{
    BlockKey, Checksum, FilledBlock, LayoutHandle, LeaseId, LocalHash, NewBlock, PAGE_BYTES, RequestId, SequenceHash, SessionId, SlotIndex,
    Tick, TierKind,
};
use kvd_ledger::{Action, CatalogRow, Input, Ledger, LedgerConfig, LedgerReply, SpaceConfig};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const RESIDENT_BLOCKS: u32 = 1_000_000;
const PROMPT_BLOCKS: u32 = 8_000;
const RUNS: usize = 101;
const STORE_RUNS: usize = 21;
/// The smallest slot: header and one page. Nothing is touched, so the size is only a number.
const SLOT_PAGES: u32 = 2;
const EXTENT_SLOTS: u32 = 1_000;
/// An extent begins with a page of its own.
const EXTENT_PAGES: u32 = 1 + EXTENT_SLOTS * SLOT_PAGES;
const SESSION: SessionId = SessionId(1);
const REQUEST: RequestId = RequestId(1);
const LAYOUT: LayoutHandle = LayoutHandle(1);

fn main() -> std::io::Result<()> {
    let before = allocated_bytes();
    let mut ledger = full_ledger();
    let bytes_per_block = (allocated_bytes() - before) as f64 / f64::from(RESIDENT_BLOCKS);

    let lookups = lookups(&mut ledger);
    let decisions = lookups.map(|seconds| f64::from(PROMPT_BLOCKS) / seconds);
    let stores: Vec<f64> = (0..STORE_RUNS).map(|run| f64::from(PROMPT_BLOCKS) / store(&mut ledger, run as u32)).collect();
    let millis = lookups.map(|seconds| seconds * 1e3);
    Report::new("ledger_step")
        .with(Row::compare("lookup of 8,000 blocks, p50", "ms", Better::Lower, &millis))
        .with(tail("lookup of 8,000 blocks, p99", "ms", &millis))
        .with(Row::compare("lookup, blocks decided", "1/s", Better::Higher, &decisions))
        .with(Row::alone("store with eviction, blocks decided", "1/s", &stores))
        .with(Row::alone("memory per resident block", "B", &[bytes_per_block]))
        .publish()
}

/// A ledger whose arena holds exactly `RESIDENT_BLOCKS` blocks: prompts of `PROMPT_BLOCKS`, one after another.
fn full_ledger() -> Ledger {
    let extent_bytes = u64::from(EXTENT_PAGES) * PAGE_BYTES;
    let arena = SpaceConfig { capacity_bytes: u64::from(RESIDENT_BLOCKS / EXTENT_SLOTS) * extent_bytes, extent_bytes };
    let mut ledger = Ledger::new(LedgerConfig::new(arena, None));
    let mut actions = Vec::new();
    ledger.step(Tick(0), Input::DefineLayout { layout: LAYOUT, slot_pages: SLOT_PAGES, ranks: 1, generation: 0 }, &mut actions);
    ledger.step(Tick(0), Input::OpenSession { session: SESSION }, &mut actions);
    for first in (0..RESIDENT_BLOCKS).step_by(PROMPT_BLOCKS as usize) {
        let rows = (first..first + PROMPT_BLOCKS).map(row).collect();
        ledger.step(Tick(0), Input::Recovered { tier: TierKind::Cpu, rows }, &mut actions);
        actions.clear();
    }
    assert_eq!(ledger.totals(TierKind::Cpu).blocks, u64::from(RESIDENT_BLOCKS), "the arena is full");
    ledger
}

fn row(number: u32) -> CatalogRow {
    CatalogRow {
        key: BlockKey { layout: LAYOUT, hash: name(number) },
        address: SlotIndex(number / EXTENT_SLOTS * EXTENT_PAGES + 1 + number % EXTENT_SLOTS * SLOT_PAGES),
        parent: parent(number),
        local: LocalHash(u64::from(number)),
        position: number % PROMPT_BLOCKS,
    }
}

/// Block names are hashes: spread evenly, so neighbours are nowhere near each other.
fn name(number: u32) -> SequenceHash {
    let spread = |seed: u64| (u64::from(number) + 1).wrapping_mul(seed).rotate_left(31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&spread(0xBF58_476D_1CE4_E5B9).to_le_bytes());
    bytes[8..].copy_from_slice(&spread(0x94D0_49BB_1331_11EB).to_le_bytes());
    SequenceHash(bytes)
}

fn parent(number: u32) -> SequenceHash {
    if number.is_multiple_of(PROMPT_BLOCKS) { SequenceHash::ROOT } else { name(number - 1) }
}

/// Seconds per lookup of a whole prompt, another prompt each time.
fn lookups(ledger: &mut Ledger) -> Interleaved {
    let map: HashMap<SequenceHash, u8> = (0..RESIDENT_BLOCKS).map(|number| (name(number), 2)).collect();
    let prompts = RESIDENT_BLOCKS / PROMPT_BLOCKS;
    let keys = |run: u32| -> Vec<SequenceHash> {
        let first = (run * 37 % prompts) * PROMPT_BLOCKS;
        (first..first + PROMPT_BLOCKS).map(name).collect()
    };
    let (mut ours, mut reference, mut actions) = (0, 0, Vec::new());
    interleave(
        RUNS,
        || {
            ours += 1;
            let input = Input::Lookup { session: SESSION, request: REQUEST, layout: LAYOUT, keys: keys(ours), until_miss: true };
            let taken = seconds(|| ledger.step(Tick(u64::from(ours)), input, &mut actions));
            assert_eq!(found(&mut actions), PROMPT_BLOCKS as usize);
            taken
        },
        || {
            reference += 1;
            let keys = keys(reference + prompts / 2);
            seconds(|| black_box(keys.iter().map(|key| map.get(key).copied().unwrap_or(0)).collect::<Vec<u8>>()))
        },
    )
}

fn found(actions: &mut Vec<Action>) -> usize {
    match actions.drain(..).next() {
        Some(Action::Reply { reply: LedgerReply::Found(states), .. }) => states.len(),
        other => panic!("a lookup is answered by states, not {other:?}"),
    }
}

/// Seconds to grant and complete the store of a new prompt into a full arena, so that each block evicts one.
fn store(ledger: &mut Ledger, run: u32) -> f64 {
    let first = RESIDENT_BLOCKS + run * PROMPT_BLOCKS;
    let block = |number: u32| NewBlock {
        hash: name(number),
        parent: parent(number),
        local: LocalHash(u64::from(number)),
        position: number % PROMPT_BLOCKS,
        tokens: Vec::new(),
    };
    let blocks: Vec<NewBlock> = (first..first + PROMPT_BLOCKS).map(block).collect();
    let filled: Vec<FilledBlock> = (0..PROMPT_BLOCKS).map(|index| FilledBlock { index, stripes: vec![Checksum(0)] }).collect();
    let (now, mut actions) = (Tick(u64::from(run) + 1_000), Vec::new());
    let prepare = Input::PrepareStore { session: SESSION, request: REQUEST, layout: LAYOUT, blocks };
    let preparing = seconds(|| ledger.step(now, prepare, &mut actions));
    let lease = granted(&actions);
    let complete = Input::CompleteStore { session: SESSION, request: REQUEST, lease, filled };
    preparing + seconds(|| ledger.step(now, complete, &mut actions))
}

fn granted(actions: &[Action]) -> LeaseId {
    let lease = actions.iter().find_map(|action| match action {
        Action::Reply { reply: LedgerReply::StoreLease { lease, .. }, .. } => Some(*lease),
        _ => None,
    });
    lease.expect("a store is answered by a lease")
}

/// The slowest percent of each side, as one row.
fn tail(metric: &str, unit: &str, measured: &Interleaved) -> Row {
    let slow = |values: &[f64]| vec![percentile(values, 0.99)];
    let tails = Interleaved { ours: slow(&measured.ours), reference: slow(&measured.reference) };
    Row { runs: measured.ours.len(), ..Row::compare(metric, unit, Better::Lower, &tails) }
}
