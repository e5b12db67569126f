//! The memory limit: what was of use longest ago is forgotten, and counted.

use super::held::Held;
use super::tree::Index;
use smallvec::SmallVec;
use std::collections::HashSet;
use std::sync::atomic::Ordering;

/// Runs looked at to choose one of them.
const SAMPLE: usize = 16;
/// Numbers passed in search of a sample before giving up for this time.
const PATIENCE: usize = 4096;

impl Index {
    /// Forgets runs until the limit is kept.
    pub(super) fn make_room(&mut self) {
        while self.bytes_now() > self.limits.most_bytes {
            let Some(number) = self.least_useful() else { return };
            self.evict_run(number);
        }
    }

    /// Cheaper than [`Index::bytes`]: tables say their size, and the rest is counted.
    fn bytes_now(&self) -> usize {
        self.run_bytes + self.runs.bytes() + self.names.iter().map(|table| table.bytes()).sum::<usize>() + self.heads.bytes()
    }

    /// Of the next runs that nothing hangs on, the one stored to or looked up longest ago.
    fn least_useful(&mut self) -> Option<u32> {
        let end = self.runs.end();
        let mut seen = 0;
        let mut oldest: Option<(u32, u32)> = None;
        for _ in 0..PATIENCE.max(end as usize) {
            self.hand = if self.hand + 1 >= end { 1 } else { self.hand + 1 };
            let Some(run) = self.runs.find(self.hand).filter(|run| run.is_leaf()) else { continue };
            let age = self.tick.wrapping_sub(run.touched.load(Ordering::Relaxed));
            if oldest.is_none_or(|(_, oldest)| age > oldest) {
                oldest = Some((self.hand, age));
            }
            seen += 1;
            if seen == SAMPLE {
                break;
            }
        }
        oldest.map(|(number, _)| number)
    }

    fn evict_run(&mut self, number: u32) {
        let held: SmallVec<[Held; 8]> = self.runs.get(number).held.iter().copied().collect();
        let holders: HashSet<_> = held.iter().map(|held| held.holder).collect();
        for stretch in &held {
            let memberships = u64::from(stretch.to - stretch.from) * stretch.media.len() as u64;
            self.holder_mut(stretch.holder).evicted += memberships;
            self.stats.evicted += memberships;
        }
        let mut left: SmallVec<[(u16, u16); 4]> = SmallVec::new();
        self.with_run(number, |run| {
            let (list, counts) = run.held_and_counts();
            for holder in &holders {
                list.drop_holder(*holder, |_| {});
            }
            let mut open: Option<u16> = None;
            for (offset, count) in (0u16..).zip(counts.iter_mut()) {
                match (*count > 0, open) {
                    (true, None) => open = Some(offset),
                    (false, Some(from)) => {
                        left.push((from, offset));
                        open = None;
                    }
                    _ => {}
                }
                *count = 0;
            }
            left.extend(open.map(|from| (from, counts.len() as u16)));
        });
        for holder in holders {
            self.holder_mut(holder).aliases.forget_run(number);
        }
        self.bury(number, &left);
    }
}
