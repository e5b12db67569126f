//! An hour of a fleet's traffic at 5,000 edges a second: 18 million.

use kvd_block::LocalHash;
use kvd_block::digest::mix;
use kvd_index::{BlockName, HolderId, Index, IndexLimits, Medium, NameDomain};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::VecDeque;

const WORKERS: usize = 16;
const EDGES: usize = 18_000_000;
/// Blocks each worker has room for.
const ROOM: usize = 8_000;

/// One worker's cache: the sequences it computed, oldest first.
struct Worker {
    holder: HolderId,
    sequences: VecDeque<Vec<BlockName>>,
    blocks: usize,
}

#[test]
fn an_hour_of_churn_leaves_memory_flat() {
    let mut rng = SmallRng::seed_from_u64(5);
    let mut index = Index::new(IndexLimits::default());
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|_| Worker { holder: index.add_holder(NameDomain(0), 0).unwrap(), sequences: VecDeque::new(), blocks: 0 })
        .collect();
    let (mut edges, mut settled, mut most) = (0, 0, 0);
    while edges < EDGES {
        let worker = &mut workers[rng.random_range(0..WORKERS)];
        edges += serve(worker, &mut index, &mut rng);
        if settled == 0 && edges > EDGES / 10 {
            settled = index.bytes();
        }
        most = most.max(index.bytes());
    }
    let held: usize = workers.iter().map(|worker| worker.blocks).sum();
    assert_eq!(index.stats().memberships as usize, held);
    assert!(most < settled * 5 / 4, "{settled} bytes became {most}");
    for worker in workers {
        for sequence in worker.sequences {
            index.remove(worker.holder, Medium::Device, &sequence);
        }
    }
    assert_eq!((index.stats().blocks, index.stats().runs), (0, 0));
}

/// One request: a sequence of 8 to 400 blocks that extends what the worker computed last, or begins anew. Says how many edges.
fn serve(worker: &mut Worker, index: &mut Index, rng: &mut SmallRng) -> usize {
    let parent = worker.sequences.back().and_then(|last| last.last().copied()).filter(|_| rng.random_bool(0.5));
    let mut name = parent.map_or(rng.next_u64(), |parent| parent.0);
    let locals: Vec<LocalHash> = (0..rng.random_range(8..400)).map(|_| LocalHash(rng.next_u64())).collect();
    let names: Vec<BlockName> = locals
        .iter()
        .map(|local| {
            name = mix(name ^ local.0);
            BlockName(name)
        })
        .collect();
    let stored = index.store(worker.holder, Medium::Device, parent, &names, &locals);
    let mut edges = names.len();
    worker.blocks += (stored.added + stored.orphaned) as usize;
    worker.sequences.push_back(names);
    while worker.blocks > ROOM {
        let oldest = worker.sequences.pop_front().expect("it has blocks");
        let removed = index.remove(worker.holder, Medium::Device, &oldest);
        assert_eq!(removed.unknown, 0);
        worker.blocks -= oldest.len();
        edges += oldest.len();
    }
    edges
}
