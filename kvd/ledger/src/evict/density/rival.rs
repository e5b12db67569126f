//! What plain recency would have hit in the same room, counted on a sample of blocks.
//!
//! The sample is cached as the least recently used policy would, in its share of the tier's room. Where it hits more than the
//! tier did, learning has failed for now, and recency decides for some time; each failure in a row doubles that time.

use crate::evict::density::watch::{sampled, shift_for};
use std::collections::{HashMap, VecDeque};

/// Hits counted before the two are compared, in rooms full of blocks.
const ROOMS_COMPARED: f64 = 4.0;
/// … and at least so many.
const LEAST_COMPARED: f64 = 200.0;
/// Recency is ahead when it leads by this part of the hits compared.
const LEAD: f64 = 0.002;
/// … and by so many.
const LEAST_LEAD: f64 = 8.0;
/// What is learnt while a tier fills up says little of what happens when it is full: recency decides until so many times the uses
/// that filled it have passed.
const FILLS_TO_LEARN: u64 = 2;
/// Time out after the first failure, in rooms full of uses.
const ROOMS_OUT: u64 = 4;
const LEAST_OUT: u64 = 500;
const MOST_DOUBLINGS: u32 = 12;
const SLACK: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Rival {
    shift: u32,
    /// Names each use, so that older entries of the queue are recognised.
    turn: u64,
    /// Uses of blocks that are in the sample as it is now.
    uses: u64,
    cached: HashMap<u64, u64>,
    recency: VecDeque<(u64, u64)>,
    own_hits: f64,
    rival_hits: f64,
    out_until: u64,
    /// Uses until the tier was full for the first time.
    filled: u64,
    failures: u32,
}

impl Rival {
    /// Whether recency decides for now.
    pub fn is_ahead(&self) -> bool {
        self.uses < self.out_until.max(FILLS_TO_LEARN * self.filled)
    }

    /// A block was used that was (`hit`) or was not in this tier, which holds `blocks`, and is `full` or has yet to fill up.
    pub fn used(&mut self, name: u64, hit: bool, blocks: u64, full: bool) {
        if !sampled(name, self.shift) {
            return;
        }
        self.narrow(blocks);
        self.turn += 1;
        self.uses += 1;
        let rival_hit = self.cached.insert(name, self.turn).is_some();
        self.recency.push_back((name, self.turn));
        let room = ((blocks >> self.shift) as usize).max(1);
        self.shrink(room);
        if !full {
            self.filled = self.uses;
        }
        if full && !self.is_ahead() {
            self.own_hits += f64::from(u8::from(hit));
            self.rival_hits += f64::from(u8::from(rival_hit));
            self.compare(room as u64);
        }
    }

    fn narrow(&mut self, blocks: u64) {
        let shift = shift_for(blocks);
        if shift > self.shift {
            let halvings = shift - self.shift;
            self.shift = shift;
            self.cached.retain(|name, _| sampled(*name, shift));
            // Uses are counted in the sample, of which a part is left.
            [&mut self.uses, &mut self.filled, &mut self.out_until].into_iter().for_each(|uses| *uses >>= halvings);
            (self.own_hits, self.rival_hits) = (0.0, 0.0);
        }
    }

    fn shrink(&mut self, room: usize) {
        while self.cached.len() > room {
            let (name, turn) = self.recency.pop_front().expect("every block was used");
            if self.cached.get(&name) == Some(&turn) {
                self.cached.remove(&name);
            }
        }
        if self.recency.len() > 2 * self.cached.len() + SLACK {
            let cached = &self.cached;
            self.recency.retain(|(name, turn)| cached.get(name) == Some(turn));
        }
    }

    fn compare(&mut self, room: u64) {
        let enough = (ROOMS_COMPARED * room as f64).max(LEAST_COMPARED);
        if self.rival_hits - self.own_hits >= (LEAD * enough).max(LEAST_LEAD) {
            self.out_until = self.uses + ((ROOMS_OUT * room).max(LEAST_OUT) << self.failures);
            self.failures = (self.failures + 1).min(MOST_DOUBLINGS);
            (self.own_hits, self.rival_hits) = (0.0, 0.0);
        } else if self.own_hits.max(self.rival_hits) > enough {
            if self.own_hits > self.rival_hits {
                self.failures = self.failures.saturating_sub(1);
            }
            self.own_hits /= 2.0;
            self.rival_hits /= 2.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_that_misses_what_recency_hits_is_overruled_for_a_while() {
        let mut rival = Rival::default();
        (0..8).for_each(|name| rival.used(name, false, 8, true));
        assert!(!rival.is_ahead(), "nobody has hit yet");
        (0..8).for_each(|name| rival.used(name, false, 8, true));
        assert!(rival.is_ahead());
        (0..LEAST_OUT).for_each(|at| rival.used(at % 8, true, 8, true));
        assert!(!rival.is_ahead(), "its time is over");
    }

    #[test]
    fn a_tier_that_hits_as_much_keeps_deciding() {
        let mut rival = Rival::default();
        for at in 0..10_000u64 {
            rival.used(at % 8, at >= 8, 8, true);
            assert!(!rival.is_ahead());
        }
    }
}
