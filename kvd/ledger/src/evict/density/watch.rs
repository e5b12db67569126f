//! Follows a sample of blocks from use to use, whether they are here or not.
//!
//! A block is watched when its name is below a limit. The limit is halved when more than [`RESIDENT`] of the blocks that the ledger
//! holds are watched, so the work and the memory are bounded whatever the size; names are hashes, so the sample is fair. Of
//! watched blocks the least recently used are dropped beyond [`MOST`]: eight times what fits, far beyond what eviction can use.

use crate::evict::density::model::{BUCKETS, Model, start_ms};
use kvd_block::Tick;
use std::collections::{HashMap, VecDeque};

/// Blocks of the ledger that are watched at most.
pub(crate) const RESIDENT: u64 = 8192;
/// Blocks that are watched at most.
const MOST: usize = 8 * RESIDENT as usize;
/// Stale entries of a queue that are not worth cleaning it.
const SLACK: usize = 64;

/// Whether a block is in a sample of one in 2^`shift`.
pub(crate) fn sampled(name: u64, shift: u32) -> bool {
    // The low bits choose the bucket of hash tables; the high ones are as good.
    name.leading_zeros() >= shift
}

/// A sample small enough that of `blocks` at most [`RESIDENT`] are in it.
pub(crate) fn shift_for(blocks: u64) -> u32 {
    blocks.div_ceil(RESIDENT).max(1).next_power_of_two().ilog2()
}

#[derive(Debug, Clone, Copy)]
struct Watched {
    last: Tick,
    class: u8,
    /// Counts uses, so that older entries of the queues are recognised.
    turn: u64,
}

#[derive(Debug)]
pub(crate) struct Watch {
    shift: u32,
    turn: u64,
    blocks: HashMap<u64, Watched>,
    /// By last use.
    recency: VecDeque<(u64, u64)>,
    /// By bucket, each by the time its end is reached.
    waiting: Vec<VecDeque<(Tick, u64, u64)>>,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch { shift: 0, turn: 0, blocks: HashMap::new(), recency: VecDeque::new(), waiting: vec![VecDeque::new(); BUCKETS] }
    }
}

impl Watch {
    pub fn used(&mut self, now: Tick, name: u64, class: u8, blocks: u64, model: &mut Model) {
        if !sampled(name, self.shift) {
            return;
        }
        self.narrow(blocks);
        self.grow_older(now, model);
        self.turn += 1;
        let watched = Watched { last: now, class, turn: self.turn };
        if let Some(before) = self.blocks.insert(name, watched) {
            model.reused(before.class, now.since_ms(before.last));
        }
        self.recency.push_back((name, self.turn));
        self.waiting[0].push_back((now.after_ms(start_ms(1)), name, self.turn));
        self.tidy();
        model.count(1.0 / (1u64 << self.shift) as f64);
    }

    fn narrow(&mut self, blocks: u64) {
        let shift = shift_for(blocks);
        if shift > self.shift {
            self.shift = shift;
            self.blocks.retain(|name, _| sampled(*name, shift));
        }
    }

    /// Counts the buckets that blocks have left unused.
    fn grow_older(&mut self, now: Tick, model: &mut Model) {
        for bucket in 0..BUCKETS - 1 {
            while let Some((_, name, turn)) = self.waiting[bucket].front().copied().filter(|(due, ..)| *due <= now) {
                self.waiting[bucket].pop_front();
                if let Some(watched) = self.blocks.get(&name).filter(|watched| watched.turn == turn) {
                    model.waited(watched.class, bucket);
                    self.waiting[bucket + 1].push_back((watched.last.after_ms(start_ms(bucket + 2)), name, turn));
                }
            }
        }
    }

    /// Drops blocks beyond the limit, and entries of queues that mean nothing any more.
    fn tidy(&mut self) {
        while self.blocks.len() > MOST {
            let (name, turn) = self.recency.pop_front().expect("every block was used");
            if self.blocks.get(&name).is_some_and(|watched| watched.turn == turn) {
                self.blocks.remove(&name);
            }
        }
        let (blocks, limit) = (&self.blocks, 2 * self.blocks.len() + SLACK);
        let current = |name: &u64, turn: &u64| blocks.get(name).is_some_and(|watched| watched.turn == *turn);
        if self.recency.len() > limit {
            self.recency.retain(|(name, turn)| current(name, turn));
        }
        for queue in self.waiting.iter_mut().filter(|queue| queue.len() > limit) {
            queue.retain(|(_, name, turn)| current(name, turn));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_stays_small_however_many_blocks_there_are() {
        let (mut watch, mut model) = (Watch::default(), Model::default());
        for name in 0..200_000u64 {
            watch.used(Tick(name), name.wrapping_mul(0x9E37_79B9_7F4A_7C15), 0, 1 << 20, &mut model);
        }
        let watched = watch.blocks.len();
        assert!((1_000..3_000).contains(&watched), "one in 128 of 200,000, not {watched}");
        assert!(watch.recency.len() <= 2 * watched + SLACK);
    }

    #[test]
    fn a_block_used_over_and_over_takes_the_room_of_one() {
        let (mut watch, mut model) = (Watch::default(), Model::default());
        (0..100_000u64).for_each(|at| watch.used(Tick(at), at % 2, 0, 2, &mut model));
        assert_eq!(watch.blocks.len(), 2);
        assert!(watch.recency.len() <= 2 * 2 + SLACK && watch.waiting[0].len() <= 2 * 2 + SLACK);
    }
}
