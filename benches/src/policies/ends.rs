//! The two ends: a cache of single blocks that knows nothing but recency, and Belady's, that knows the future.
//!
//! A block is found only if all blocks before it in the request are. For Belady's that makes no difference: a block's next use is never later than
//! that of a block behind it, so evicting the farthest next use, and of equal ones the deepest, keeps prefixes whole.

use super::Hits;
use crate::traces::Trace;
use std::collections::{BTreeSet, HashMap};

/// Hits of a cache that evicts the block least recently used, one at a time, parents or not.
pub fn lru(trace: &Trace, capacity: usize) -> Hits {
    let (mut hits, mut stamp) = (Hits::default(), 0u64);
    let (mut used, mut order): (HashMap<u64, u64>, BTreeSet<(u64, u64)>) = Default::default();
    for (at, request) in trace.requests.iter().enumerate() {
        let found = request.blocks.iter().take_while(|block| used.contains_key(block)).count();
        hits.count(at >= trace.requests.len() / 2, request, found);
        for block in &request.blocks {
            stamp += 1;
            if let Some(before) = used.insert(*block, stamp) {
                order.remove(&(before, *block));
            }
            order.insert((stamp, *block));
            if order.len() > capacity {
                let (_, oldest) = order.pop_first().expect("it is full");
                used.remove(&oldest);
            }
        }
    }
    hits
}

/// Hits of the best cache of this capacity: it evicts, or does not take, the block whose next use is farthest.
pub fn belady(trace: &Trace, capacity: usize) -> Hits {
    let next = next_uses(trace);
    let mut hits = Hits::default();
    // By next use and depth; a block that is not used again is not kept.
    let mut kept: HashMap<u64, (u32, usize)> = HashMap::new();
    let mut order: BTreeSet<(u32, usize, u64)> = BTreeSet::new();
    for (at, request) in trace.requests.iter().enumerate() {
        let found = request.blocks.iter().take_while(|block| kept.contains_key(block)).count();
        hits.count(at >= trace.requests.len() / 2, request, found);
        for (depth, block) in request.blocks.iter().enumerate() {
            if let Some((use_at, depth)) = kept.remove(block) {
                order.remove(&(use_at, depth, *block));
            }
            if let Some(use_at) = next[at][depth] {
                kept.insert(*block, (use_at, depth));
                order.insert((use_at, depth, *block));
            }
        }
        while order.len() > capacity {
            let (.., farthest) = order.pop_last().expect("it is full");
            kept.remove(&farthest);
        }
    }
    hits
}

/// For each block of each request, the next request that has it.
fn next_uses(trace: &Trace) -> Vec<Vec<Option<u32>>> {
    let mut coming: HashMap<u64, u32> = HashMap::new();
    let mut next: Vec<Vec<Option<u32>>> = Vec::with_capacity(trace.requests.len());
    for (at, request) in trace.requests.iter().enumerate().rev() {
        next.push(request.blocks.iter().map(|block| coming.get(block).copied()).collect());
        request.blocks.iter().for_each(|block| {
            coming.insert(*block, at as u32);
        });
    }
    next.reverse();
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::Request;

    fn trace(prompts: &[&[u64]]) -> Trace {
        let request = |(at, blocks): (usize, &&[u64])| Request {
            at_ms: at as u64,
            blocks: blocks.to_vec(),
            block_tokens: 1,
            input_tokens: blocks.len() as u32,
            output_tokens: 0,
            session: 0,
        };
        Trace { name: "made up".into(), requests: prompts.iter().enumerate().map(request).collect() }
    }

    #[test]
    fn belady_keeps_what_recency_loses() {
        let trace = trace(&[&[1], &[2], &[3], &[1], &[2], &[3]]);
        assert_eq!(lru(&trace, 2).percent(), 0.0);
        assert_eq!(belady(&trace, 2).percent().round(), 33.0, "two of six");
        assert_eq!(belady(&trace, 3).percent(), 50.0);
    }

    #[test]
    fn a_block_behind_a_missing_one_is_not_found() {
        let trace = trace(&[&[1, 2, 3], &[4], &[1, 2, 3]]);
        assert_eq!(lru(&trace, 3).percent(), 0.0, "block 1 went for block 4");
        assert_eq!(belady(&trace, 3).percent().round(), 43.0, "three of seven");
    }
}
