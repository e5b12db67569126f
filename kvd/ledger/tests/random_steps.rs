//! Random inputs against the invariants: after every step `check()` holds, and replaying all events gives the residency.
//!
//! The full simulation, with engines, bytes and crashes, is in the project's `tests` folder; this one is small enough to
//! run on every build of the crate.

use kvd_block::{
    BlockKey, Checksum, FilledBlock, LayoutHandle, LeaseId, LocalHash, NewBlock, OpId, RequestId, ResidencyEdge, SequenceHash, SessionId,
    StoreGrant, Tick, TierKind,
};
use kvd_ledger::{Action, Admission, Eviction, Input, Ledger, LedgerConfig, LedgerReply, ReadResult, SpaceConfig, WriteResult};
use std::collections::BTreeSet;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

const LONGEST: u64 = 8;
const LAYOUT_PAGES: [u32; 3] = [2, 3, 5];

fn hash(chain: u64, position: u64) -> SequenceHash {
    // Chains share their first blocks, as prompts share their system prompt.
    let chain = if position < 3 { 0 } else { chain };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(chain * 1000 + position + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    bytes[8] = 1;
    SequenceHash(bytes)
}

/// A piece of one of `chains` chains. Once in a while its parents make no sense.
fn chain(dice: &mut Dice, chains: u64) -> Vec<NewBlock> {
    let (chain, from, len) = (dice.roll(chains), dice.roll(4), 1 + dice.roll(LONGEST));
    let mut blocks: Vec<NewBlock> = (from..from + len)
        .map(|position| NewBlock {
            hash: hash(chain, position),
            parent: if position == 0 { SequenceHash::ROOT } else { hash(chain, position - 1) },
            local: LocalHash(position),
            position: position as u32,
            tokens: vec![],
        })
        .collect();
    if dice.roll(20) == 0 {
        let (child, parent) = (dice.roll(len) as usize, dice.roll(len) as usize);
        (blocks[child].parent, blocks[child].position) = (blocks[parent].hash, dice.roll(12) as u32);
    }
    blocks
}

#[derive(Default)]
struct World {
    resident: BTreeSet<(BlockKey, TierKind)>,
    stores: Vec<(SessionId, LeaseId, usize)>,
    loads: Vec<(SessionId, LeaseId, usize)>,
    writes: Vec<OpId>,
    reads: Vec<OpId>,
    erases: Vec<OpId>,
    purges: u64,
}

impl World {
    fn perform(&mut self, actions: Vec<Action>, asked: usize) {
        for action in actions {
            match action {
                Action::Publish(ResidencyEdge::Stored { key, tier, .. }) => assert!(self.resident.insert((key, tier)), "stored twice"),
                Action::Publish(ResidencyEdge::Removed { key, tier, .. }) => assert!(self.resident.remove(&(key, tier)), "removed twice"),
                Action::Write(transfer) => self.writes.push(transfer.op),
                Action::Read(transfer) => self.reads.push(transfer.op),
                Action::Erase { op, .. } => self.erases.push(op),
                Action::Reply { session, reply: LedgerReply::StoreLease { lease, grants }, .. }
                    if grants.iter().any(|grant| matches!(grant, StoreGrant::Write(_))) =>
                {
                    self.stores.push((session, lease, asked));
                }
                Action::Reply { session, reply: LedgerReply::LoadLease { lease, .. }, .. } => self.loads.push((session, lease, asked)),
                _ => {}
            }
        }
    }
}

fn take<T>(dice: &mut Dice, from: &mut Vec<T>) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(dice.roll(from.len() as u64) as usize))
}

fn next_input(dice: &mut Dice, world: &mut World, chains: u64) -> Option<(Input, usize)> {
    let session = SessionId(dice.roll(2));
    let request = RequestId(1);
    let layout = LayoutHandle(dice.roll(3) as u16);
    let blocks = chain(dice, chains);
    let keys: Vec<SequenceHash> = blocks.iter().map(|block| block.hash).collect();
    let asked = keys.len();
    let input = match dice.roll(17) {
        0..=3 => Input::PrepareStore { session, request, layout, blocks },
        4..=6 => {
            let (session, lease, asked) = take(dice, &mut world.stores)?;
            let filled = (0..asked as u32).filter(|_| dice.roll(5) > 0).map(|index| FilledBlock { index, stripes: vec![Checksum(1)] });
            Input::CompleteStore { session, request, lease, filled: filled.collect() }
        }
        7..=8 => Input::PrepareLoad { session, request, layout, keys, deadline_ms: dice.roll(3) * 20 },
        9..=10 => {
            let (session, lease, asked) = take(dice, &mut world.loads)?;
            let corrupt = (0..asked as u32).filter(|_| dice.roll(10) == 0).collect();
            Input::CompleteLoad { session, request, lease, corrupt }
        }
        11 => Input::Lookup { session, request, layout, keys, until_miss: dice.roll(2) == 0 },
        12..=13 => {
            let result = [WriteResult::Written, WriteResult::Written, WriteResult::Written, WriteResult::Busy, WriteResult::Failed]
                [dice.roll(5) as usize];
            Input::WriteDone { op: take(dice, &mut world.writes)?, result }
        }
        14 => {
            let result =
                [ReadResult::Read, ReadResult::Read, ReadResult::Busy, ReadResult::Corrupt, ReadResult::Failed][dice.roll(5) as usize];
            Input::ReadDone { op: take(dice, &mut world.reads)?, result }
        }
        15 => {
            let result = [WriteResult::Written, WriteResult::Busy, WriteResult::Failed][dice.roll(3) as usize];
            Input::EraseDone { op: take(dice, &mut world.erases)?, result }
        }
        _ => match dice.roll(12) {
            0 => {
                world.purges += 1;
                Input::Purge { layout: Some(layout), generation: world.purges }
            }
            1..=2 => {
                world.stores.retain(|(of, ..)| *of != session);
                world.loads.retain(|(of, ..)| *of != session);
                Input::CloseSession { session }
            }
            3..=4 => Input::Pin { session, request, layout, keys, ttl_ms: dice.roll(2) * 50 },
            5..=6 => Input::Retain { session, request, layout, keys, priority: dice.roll(120) as u8, ttl_ms: dice.roll(3) * 40 },
            _ => Input::Tick,
        },
    };
    Some((input, asked))
}

fn pick<T: Copy, const N: usize>(from: [T; N], at: u64) -> T {
    from[at as usize % N]
}

/// Steps a ledger through random inputs about so many chains; returns what it did, and it.
fn run(seed: u64, chains: u64, steps: u64) -> (Vec<Action>, Ledger, World) {
    let page = kvd_block::PAGE_BYTES;
    let mut config = LedgerConfig::new(
        SpaceConfig { capacity_bytes: 4 * 16 * page, extent_bytes: 16 * page },
        Some(SpaceConfig { capacity_bytes: 6 * 16 * page, extent_bytes: 16 * page }),
    );
    (config.arena_eviction, config.nvme_eviction) = (pick(Eviction::ALL, seed), pick(Eviction::ALL, seed / 5));
    config.admission = pick(Admission::ALL, seed / 25);
    // A quarter of NVMe in the first hour.
    config.write_budget_dwpd = (seed.is_multiple_of(7)).then_some(24.0 / 4.0);
    (config.load_lease_ms, config.store_lease_ms, config.max_reads, config.max_writes) = (200, 150, 3, 3);
    let mut ledger = Ledger::new(config);
    let (mut dice, mut world, mut trace, mut now) = (Dice(seed), World::default(), Vec::new(), 0);
    for (at, slot_pages) in LAYOUT_PAGES.into_iter().enumerate() {
        ledger.step(Tick(0), Input::DefineLayout { layout: LayoutHandle(at as u16), slot_pages, ranks: 1, generation: 0 }, &mut Vec::new());
    }
    for _ in 0..steps {
        now += dice.roll(if seed.is_multiple_of(3) { 400 } else { 12 });
        for session in [0, 1].map(SessionId) {
            let mut actions = Vec::new();
            ledger.step(Tick(now), Input::OpenSession { session }, &mut actions);
            trace.extend(actions.iter().cloned());
            world.perform(actions, 0);
        }
        let Some((input, asked)) = next_input(&mut dice, &mut world, chains) else { continue };
        let mut actions = Vec::new();
        ledger.step(Tick(now), input, &mut actions);
        ledger.check();
        check_records(&ledger);
        trace.extend(actions.iter().cloned());
        world.perform(actions, asked);
        let resident: BTreeSet<_> =
            TierKind::ALL.into_iter().flat_map(|tier| ledger.resident(tier).map(move |row| (row.key, tier))).collect();
        assert_eq!(resident, world.resident, "replaying the events gives the residency");
    }
    (trace, ledger, world)
}

/// Every record is a block that is somewhere or in use, or one that comes before such a block in its sequence.
fn check_records(ledger: &Ledger) {
    let blocks: u64 = TierKind::ALL.into_iter().map(|tier| ledger.totals(tier).blocks).sum();
    let used = blocks as usize + ledger.open_transfers() + ledger.open_leases() * (LONGEST as usize + 4);
    let longest_sequence = LONGEST as usize + 4;
    assert!(ledger.records() <= used * longest_sequence, "{} records for {used} blocks", ledger.records());
}

/// Ends everything that is open and forgets everything.
fn empty(ledger: &mut Ledger, world: &mut World) {
    let mut now = 1 << 40;
    let mut tell = |input: Input, world: &mut World| {
        let mut actions = Vec::new();
        now += 100;
        ledger.step(Tick(now), input, &mut actions);
        ledger.check();
        world.perform(actions, 0);
    };
    for session in [0, 1].map(SessionId) {
        tell(Input::CloseSession { session }, world);
    }
    tell(Input::Purge { layout: None, generation: u64::MAX }, world);
    loop {
        let input = match (world.writes.pop(), world.reads.pop(), world.erases.pop()) {
            (Some(op), read, erase) => {
                world.reads.extend(read);
                world.erases.extend(erase);
                Input::WriteDone { op, result: WriteResult::Written }
            }
            (None, Some(op), erase) => {
                world.erases.extend(erase);
                Input::ReadDone { op, result: ReadResult::Failed }
            }
            (None, None, Some(op)) => Input::EraseDone { op, result: WriteResult::Written },
            (None, None, None) => break,
        };
        tell(input, world);
    }
}

#[test]
fn invariants_hold_for_many_seeds() {
    (0..400).for_each(|seed| {
        run(seed, 6, 600);
    });
}

#[test]
fn nothing_is_left_when_everything_ended_and_was_purged() {
    for seed in 1000..1100 {
        let (_, mut ledger, mut world) = run(seed, 6, 300);
        empty(&mut ledger, &mut world);
        assert_eq!((ledger.records(), ledger.open_leases(), ledger.open_transfers()), (0, 0, 0), "seed {seed}");
        assert_eq!(TierKind::ALL.map(|tier| ledger.totals(tier).used_bytes), [0, 0], "seed {seed}");
        assert_eq!(world.resident, BTreeSet::new());
    }
}

#[test]
fn records_do_not_grow_with_the_blocks_ever_seen() {
    let (trace, ledger, _) = run(1, 1_000_000, 30_000);
    let stored = trace.iter().filter(|action| matches!(action, Action::Seal(_))).count();
    assert!(stored > 5_000 && ledger.records() < 500, "{stored} blocks stored, {} records", ledger.records());
}

#[test]
fn a_seed_gives_the_same_actions_twice() {
    assert_eq!(run(7, 6, 600).0, run(7, 6, 600).0);
}
