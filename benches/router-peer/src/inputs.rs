//! The traffic both indexes see: sequences that share prefixes, stored by workers and evicted again from their ends.

use kvd_block::LocalHash;
use kvd_block::digest::mix;
use kvd_index::BlockName;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

/// Blocks of one message, as engines send them for long prompts.
const MESSAGE_BLOCKS: usize = 128;
/// Different prefixes that sequences share.
const PREFIXES: usize = 16;

/// One shape of traffic.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Workers that store.
    pub workers: usize,
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Tokens of a block.
    pub block_tokens: usize,
    /// How much of a sequence is one of the shared prefixes.
    pub shared: f64,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shape { workers, tokens, block_tokens, shared } = self;
        write!(f, "{workers} workers, {}k tokens / {block_tokens}, {:.0} % shared", tokens / 1024, shared * 100.0)
    }
}

/// Blocks a worker gained or lost.
#[derive(Debug, Clone)]
pub struct Message {
    /// Who.
    pub worker: usize,
    /// The block before the first.
    pub parent: Option<BlockName>,
    /// What the worker calls them.
    pub names: Vec<BlockName>,
    /// Their own hashes; empty when they are lost.
    pub locals: Vec<LocalHash>,
}

/// Events in three phases, and prompts to look up after the first.
#[derive(Debug)]
pub struct Traffic {
    /// Everything is stored.
    pub stores: Vec<Message>,
    /// The ends of all sequences go, last block first, then the prefixes.
    pub removes: Vec<Message>,
    /// Prompts: half are known to their end, half have a new turn.
    pub prompts: Vec<Vec<LocalHash>>,
    /// (block, worker) pairs after the first phase.
    pub memberships: usize,
}

fn fresh(rng: &mut SmallRng, blocks: usize) -> Vec<LocalHash> {
    (0..blocks).map(|_| LocalHash(rng.next_u64())).collect()
}

fn names(locals: &[LocalHash]) -> Vec<BlockName> {
    let mut name = 0u64;
    locals
        .iter()
        .map(|local| {
            name = mix(name.rotate_left(17) ^ local.0);
            BlockName(name)
        })
        .collect()
}

/// Traffic of about `memberships` (block, worker) pairs.
pub fn traffic(shape: Shape, memberships: usize, seed: u64) -> Traffic {
    let mut rng = SmallRng::seed_from_u64(seed);
    let blocks = shape.tokens / shape.block_tokens;
    let shared = (blocks as f64 * shape.shared) as usize;
    let prefixes: Vec<Vec<LocalHash>> = (0..PREFIXES).map(|_| fresh(&mut rng, shared)).collect();
    let mut has = vec![[false; PREFIXES]; shape.workers];
    let mut traffic = Traffic { stores: Vec::new(), removes: Vec::new(), prompts: Vec::new(), memberships: 0 };
    let mut prefix_removes = Vec::new();
    while traffic.memberships < memberships {
        let (worker, prefix) = (rng.random_range(0..shape.workers), rng.random_range(0..PREFIXES));
        let mut locals = prefixes[prefix].clone();
        locals.extend(fresh(&mut rng, blocks - shared));
        let called = names(&locals);
        let from = if has[worker][prefix] { shared } else { 0 };
        for at in (from..blocks).step_by(MESSAGE_BLOCKS) {
            let to = (at + MESSAGE_BLOCKS).min(blocks);
            let parent = at.checked_sub(1).map(|before| called[before]);
            traffic.stores.push(Message { worker, parent, names: called[at..to].to_vec(), locals: locals[at..to].to_vec() });
        }
        removes(&mut traffic.removes, worker, &called[shared..]);
        if from == 0 {
            removes(&mut prefix_removes, worker, &called[..shared]);
        }
        has[worker][prefix] = true;
        traffic.memberships += blocks - from;
        if rng.random_bool(0.5) {
            let known = rng.random_range(shared..=blocks);
            locals.truncate(known);
            locals.extend(fresh(&mut rng, blocks - known));
        }
        traffic.prompts.push(locals);
    }
    shuffle(&mut traffic.prompts, &mut rng);
    shuffle(&mut traffic.removes, &mut rng);
    traffic.removes.extend(prefix_removes);
    traffic
}

fn removes(into: &mut Vec<Message>, worker: usize, names: &[BlockName]) {
    let backwards: Vec<BlockName> = names.iter().rev().copied().collect();
    // One message a sequence's end at a time: eviction takes leaves first.
    for chunk in backwards.chunks(MESSAGE_BLOCKS) {
        into.push(Message { worker, parent: None, names: chunk.to_vec(), locals: Vec::new() });
    }
}

fn shuffle<T>(all: &mut [T], rng: &mut SmallRng) {
    for at in (1..all.len()).rev() {
        all.swap(at, rng.random_range(0..=at));
    }
}
