//! What this router sent where: the index of `approximate`, and in every other mode the blocks that are coming.
//!
//! A prompt leaves **marks**: the hash of its prefix at each of its first blocks, at every multiple of a stride, and at its end.
//! Each mark names the workers it was sent to, and until when that is believed: `sent` for as long as a cache is thought to keep
//! blocks, `coming` only until events must have told of them. A second prompt that begins alike is thus sent after the first
//! while that is still being computed, before any event can say so.
//!
//! Marks age by time and are bounded in number, the oldest going first, and the end of a prompt before its beginning.

use super::request::WorkerId;
use kvd_block::LocalHash;
use smallvec::SmallVec;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// The hash of the first `blocks` blocks of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Of the prefix.
    pub hash: u64,
    /// Its length.
    pub blocks: u32,
}

/// Blocks at the beginning of a prompt that are marked one by one, as far as the stride is not shorter.
const DENSE_BLOCKS: usize = 16;

/// Appends the marks of a prompt to `marks`: at each of the first blocks, at each multiple of `stride`, and at the end.
pub fn mark(locals: &[LocalHash], stride: u32, marks: &mut Vec<Mark>) {
    let stride = stride.max(1) as usize;
    let dense = DENSE_BLOCKS.min(stride);
    let mut before = 0x9E37_79B9_7F4A_7C15u64;
    for (number, group) in locals.chunks(stride).enumerate() {
        let mut sum = before;
        for (offset, local) in group.iter().enumerate() {
            // Terms of a group do not wait for one another, only groups do: a prompt of 32k tokens is marked in microseconds.
            let place = (offset as u64 + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93);
            sum = sum.wrapping_add((local.0 ^ place).wrapping_mul(place | 1));
            let ends = offset + 1 == group.len();
            if ends || (number == 0 && offset < dense) {
                // Two unrelated prefixes meet with a probability of about 2^-64, and then a price is wrong once.
                let hash = fold(sum);
                marks.push(Mark { hash, blocks: (number * stride + offset + 1) as u32 });
                before = hash;
            }
        }
    }
}

fn fold(value: u64) -> u64 {
    let product = u128::from(value ^ 0xA076_1D64_78BD_642F) * u128::from(0xE703_7ED1_A0B4_28DBu64);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Marks are hashes already.
#[derive(Debug, Default, Clone)]
struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only whole hashes are looked up");
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

#[derive(Debug, Clone, Copy)]
struct Step {
    worker: WorkerId,
    /// The last request that left it; only that one may shorten its time.
    by: u64,
    coming_until_ms: f64,
    sent_until_ms: f64,
}

/// How far a prompt's prefix was sent to one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trail {
    /// Blocks that are being computed there, or were so lately that events may not have told yet.
    pub coming: u32,
    /// Blocks sent there lately.
    pub sent: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Footprints {
    marks: HashMap<u64, SmallVec<[Step; 1]>, BuildHasherDefault<Unhashed>>,
    /// In the order in which they were left, refreshed ones several times.
    order: VecDeque<(u64, WorkerId, f64)>,
    most: usize,
    ttl_ms: f64,
}

impl Footprints {
    /// Nothing was sent yet. Marks are believed for `ttl_ms`, and there are never more than `most`.
    pub fn new(ttl_ms: f64, most: usize) -> Footprints {
        Footprints { marks: HashMap::default(), order: VecDeque::new(), most, ttl_ms }
    }

    /// How far the prompt was sent to each worker, by id: `trails[worker]`. Workers beyond the slice are left out.
    pub fn follow(&self, now_ms: f64, marks: &[Mark], trails: &mut [Trail]) {
        for mark in marks {
            let Some(steps) = self.marks.get(&mark.hash) else { return };
            for step in steps {
                let Some(trail) = trails.get_mut(step.worker.0 as usize) else { continue };
                if step.coming_until_ms > now_ms {
                    trail.coming = mark.blocks;
                }
                if step.sent_until_ms > now_ms {
                    trail.sent = mark.blocks;
                }
            }
        }
    }

    /// A prompt was sent to `worker` by request `by`; its blocks come before `coming_until_ms`.
    pub fn leave(&mut self, now_ms: f64, marks: &[Mark], worker: WorkerId, by: u64, coming_until_ms: f64) {
        let sent_until_ms = now_ms + self.ttl_ms;
        // The end first: what is dropped for want of room must leave a prefix behind.
        for mark in marks.iter().rev() {
            let steps = self.marks.entry(mark.hash).or_default();
            match steps.iter_mut().find(|step| step.worker == worker) {
                Some(step) => {
                    step.by = by;
                    step.coming_until_ms = step.coming_until_ms.max(coming_until_ms);
                    step.sent_until_ms = sent_until_ms;
                }
                None => steps.push(Step { worker, by, coming_until_ms, sent_until_ms }),
            }
            self.order.push_back((mark.hash, worker, sent_until_ms));
        }
        self.trim(now_ms);
    }

    /// The blocks of `by` are there: events will tell of them before `until_ms`.
    pub fn arrived(&mut self, marks: &[Mark], worker: WorkerId, by: u64, until_ms: f64) {
        for mark in marks {
            let step =
                self.marks.get_mut(&mark.hash).and_then(|steps| steps.iter_mut().find(|step| step.worker == worker && step.by == by));
            if let Some(step) = step {
                step.coming_until_ms = until_ms;
            }
        }
    }

    /// The blocks of `by` will not come.
    pub fn withdraw(&mut self, marks: &[Mark], worker: WorkerId, by: u64) {
        for mark in marks {
            if let Some(steps) = self.marks.get_mut(&mark.hash) {
                steps.retain(|step| step.worker != worker || step.by != by);
                if steps.is_empty() {
                    self.marks.remove(&mark.hash);
                }
            }
        }
    }

    /// Nothing is believed of `worker` any more: it left, or lost its cache.
    pub fn forget(&mut self, worker: WorkerId) {
        self.marks.retain(|_, steps| {
            steps.retain(|step| step.worker != worker);
            !steps.is_empty()
        });
        self.order.retain(|(_, of, _)| *of != worker);
    }

    /// Marks held, counted once for each time they were left.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// True when nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn trim(&mut self, now_ms: f64) {
        while let Some((hash, worker, until_ms)) = self.order.front().copied() {
            if until_ms > now_ms && self.order.len() <= self.most {
                return;
            }
            self.order.pop_front();
            let Some(steps) = self.marks.get_mut(&hash) else { continue };
            // A step that was left again later has a later place in the order.
            steps.retain(|step| step.worker != worker || step.sent_until_ms > until_ms);
            if steps.is_empty() {
                self.marks.remove(&hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: WorkerId = WorkerId(1);

    fn marks(range: std::ops::Range<u64>, stride: u32) -> Vec<Mark> {
        let locals: Vec<LocalHash> = range.map(LocalHash).collect();
        let mut marks = Vec::new();
        mark(&locals, stride, &mut marks);
        marks
    }

    fn trail(footprints: &Footprints, now_ms: f64, marks: &[Mark]) -> Trail {
        let mut trails = [Trail::default(); 2];
        footprints.follow(now_ms, marks, &mut trails);
        assert_eq!(trails[0], Trail::default());
        trails[1]
    }

    #[test]
    fn a_prompt_is_marked_densely_at_its_beginning_then_by_strides_and_at_its_end() {
        let blocks: Vec<u32> = marks(0..11, 4).iter().map(|mark| mark.blocks).collect();
        assert_eq!(blocks, [1, 2, 3, 4, 8, 11]);
        assert_eq!(marks(0..8, 4)[4].hash, marks(0..11, 4)[4].hash);
        assert_ne!(marks(0..4, 4)[3].hash, marks(1..5, 4)[3].hash);
    }

    #[test]
    fn a_prompt_that_begins_alike_follows_while_blocks_are_coming() {
        let mut footprints = Footprints::new(1_000.0, 100);
        footprints.leave(0.0, &marks(0..10, 1), W, 7, 50.0);
        assert_eq!(trail(&footprints, 49.0, &marks(0..20, 1)), Trail { coming: 10, sent: 10 });
        assert_eq!(trail(&footprints, 50.0, &marks(0..20, 1)), Trail { coming: 0, sent: 10 });
        assert_eq!(trail(&footprints, 1_000.0, &marks(0..20, 1)), Trail::default());
    }

    #[test]
    fn blocks_that_arrived_are_coming_only_until_events_told() {
        let mut footprints = Footprints::new(1_000.0, 100);
        footprints.leave(0.0, &marks(0..10, 1), W, 7, 500.0);
        footprints.leave(1.0, &marks(0..5, 1), W, 8, 500.0);
        footprints.arrived(&marks(0..10, 1), W, 7, 100.0);
        assert_eq!(trail(&footprints, 200.0, &marks(0..10, 1)).coming, 5, "the second is still at it");
    }

    #[test]
    fn a_request_that_was_given_up_leaves_nothing() {
        let mut footprints = Footprints::new(1_000.0, 100);
        footprints.leave(0.0, &marks(0..10, 1), W, 7, 500.0);
        footprints.withdraw(&marks(0..10, 1), W, 7);
        assert_eq!(trail(&footprints, 1.0, &marks(0..10, 1)), Trail::default());
    }

    #[test]
    fn room_is_made_by_dropping_the_oldest_ends() {
        let mut footprints = Footprints::new(1_000.0, 15);
        footprints.leave(0.0, &marks(0..10, 1), W, 1, 500.0);
        footprints.leave(1.0, &marks(100..110, 1), W, 2, 500.0);
        assert_eq!(footprints.len(), 15);
        assert_eq!(trail(&footprints, 2.0, &marks(0..10, 1)).sent, 5);
        assert_eq!(trail(&footprints, 2.0, &marks(100..110, 1)).sent, 10);
    }

    #[test]
    fn a_worker_that_left_is_forgotten() {
        let mut footprints = Footprints::new(1_000.0, 100);
        footprints.leave(0.0, &marks(0..10, 1), W, 1, 500.0);
        footprints.forget(W);
        assert!(footprints.is_empty());
        assert_eq!(trail(&footprints, 2.0, &marks(0..10, 1)), Trail::default());
    }
}
