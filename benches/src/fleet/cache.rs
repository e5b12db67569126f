//! A cache of blocks ordered by last use, in which blocks in use are not evicted.
//!
//! Prompts are touched from their end to their beginning, so that a block is always used later than those behind it: leaves go first.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

const NONE: u32 = u32::MAX;

/// Names of blocks are hashes already.
#[derive(Debug, Default, Clone)]
pub struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only whole names are looked up");
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    block: u64,
    older: u32,
    newer: u32,
    pins: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Cache {
    capacity: usize,
    /// Room promised to blocks that are not computed yet.
    reserved: usize,
    pinned: usize,
    at: HashMap<u64, u32, BuildHasherDefault<Unhashed>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
}

impl Cache {
    pub fn new(capacity: usize) -> Cache {
        let at = HashMap::default();
        Cache { capacity, reserved: 0, pinned: 0, at, slots: Vec::new(), free: Vec::new(), oldest: NONE, newest: NONE }
    }

    /// Leading blocks that are there.
    pub fn prefix(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|block| self.at.contains_key(block)).count()
    }

    pub fn contains(&self, block: u64) -> bool {
        self.at.contains_key(&block)
    }

    /// Blocks in use or promised.
    pub fn in_use(&self) -> usize {
        self.pinned + self.reserved
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes `blocks` the most recently used; those not there are added. What had to go is appended to `evicted`.
    pub fn insert(&mut self, blocks: &[u64], evicted: &mut Vec<u64>) {
        for block in blocks.iter().rev() {
            match self.at.get(block).copied() {
                Some(slot) if self.slots[slot as usize].pins == 0 => {
                    self.unlink(slot);
                    self.link(slot);
                }
                Some(_) => {}
                None => {
                    let slot = self.occupy(*block);
                    self.link(slot);
                }
            }
        }
        self.shrink(evicted);
    }

    /// Adds `blocks` in use: each takes a promised place if it is new.
    pub fn pin(&mut self, blocks: &[u64]) {
        for block in blocks {
            let slot = match self.at.get(block).copied() {
                Some(slot) => {
                    if self.slots[slot as usize].pins == 0 {
                        self.unlink(slot);
                        self.pinned += 1;
                    }
                    slot
                }
                None => {
                    self.pinned += 1;
                    self.occupy(*block)
                }
            };
            self.slots[slot as usize].pins += 1;
        }
    }

    /// `blocks` are no longer in use by one request.
    pub fn unpin(&mut self, blocks: &[u64]) {
        for block in blocks.iter().rev() {
            let slot = self.at[block];
            self.slots[slot as usize].pins -= 1;
            if self.slots[slot as usize].pins == 0 {
                self.pinned -= 1;
                self.link(slot);
            }
        }
    }

    /// Promises room for so many blocks more, evicting what is needed.
    pub fn reserve(&mut self, blocks: usize, evicted: &mut Vec<u64>) {
        self.reserved += blocks;
        self.shrink(evicted);
    }

    /// Gives promised room back.
    pub fn release(&mut self, blocks: usize) {
        self.reserved -= blocks;
    }

    fn shrink(&mut self, evicted: &mut Vec<u64>) {
        while self.at.len() + self.reserved > self.capacity && self.oldest != NONE {
            let slot = self.oldest;
            self.unlink(slot);
            let block = self.slots[slot as usize].block;
            self.at.remove(&block);
            self.free.push(slot);
            evicted.push(block);
        }
    }

    fn occupy(&mut self, block: u64) -> u32 {
        let fresh = Slot { block, older: NONE, newer: NONE, pins: 0 };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = fresh;
                slot
            }
            None => {
                self.slots.push(fresh);
                (self.slots.len() - 1) as u32
            }
        };
        self.at.insert(block, slot);
        slot
    }

    fn link(&mut self, slot: u32) {
        let last = self.newest;
        self.slots[slot as usize].older = last;
        self.slots[slot as usize].newer = NONE;
        if last == NONE {
            self.oldest = slot
        } else {
            self.slots[last as usize].newer = slot
        }
        self.newest = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { older, newer, .. } = self.slots[slot as usize];
        if older == NONE {
            self.oldest = newer
        } else {
            self.slots[older as usize].newer = newer
        }
        if newer == NONE { self.newest = older } else { self.slots[newer as usize].older = older }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inserted(cache: &mut Cache, blocks: &[u64]) -> Vec<u64> {
        let mut evicted = Vec::new();
        cache.insert(blocks, &mut evicted);
        evicted
    }

    #[test]
    fn the_end_of_the_prompt_used_least_recently_goes_first() {
        let mut cache = Cache::new(4);
        inserted(&mut cache, &[1, 2, 3]);
        assert_eq!(inserted(&mut cache, &[9, 8]), [3]);
        assert_eq!(cache.prefix(&[1, 2, 3]), 2);
    }

    #[test]
    fn blocks_in_use_stay() {
        let mut cache = Cache::new(3);
        cache.pin(&[1, 2]);
        assert_eq!(inserted(&mut cache, &[7, 8]), [8], "only one place is left");
        cache.unpin(&[1, 2]);
        assert_eq!(inserted(&mut cache, &[5]), [7]);
        assert_eq!(cache.in_use(), 0);
    }

    #[test]
    fn a_promise_makes_room() {
        let mut cache = Cache::new(3);
        inserted(&mut cache, &[1, 2, 3]);
        let mut evicted = Vec::new();
        cache.reserve(2, &mut evicted);
        assert_eq!(evicted, [3, 2]);
        cache.release(1);
        cache.pin(&[4]);
        assert_eq!(cache.in_use(), 2);
    }
}
