//! What is known of the time until a block is used again.
//!
//! Time since the last use is cut into buckets, two to an octave from half a second to six days. For each class and bucket the
//! model counts reuses and the time that blocks spent waiting in it; their quotient is the rate of reuse there. A class that was
//! seen little borrows from all classes with as many reuses, those from all blocks, and those from the guess that the rate falls
//! as one over the idle time, which makes the policy plain recency until it knows better. Counts fade, so that it follows the
//! traffic.

use crate::evict::density::CLASSES;

pub(crate) const BUCKETS: usize = 40;
/// First classes of the groups that lend to their members: as many reuses.
const GROUPS: [usize; 5] = [0, 4, 12, 20, CLASSES];
/// Reuses that the more general estimate counts for, when every block is watched.
const BORROWED: f64 = 20.0;
/// … and the guess.
const GUESSED: f64 = 200.0;
/// The guess: rate × idle time.
const GUESS: f64 = 0.05;
/// What is left of a count after each refresh.
const FADE: f64 = 0.98;
/// Watched uses between refreshes; the first ones come sooner.
const REFRESH_USES: u32 = 2048;

type PerBucket = [f64; BUCKETS];

#[derive(Debug)]
pub(crate) struct Model {
    reuses: Vec<PerBucket>,
    waited_ms: Vec<PerBucket>,
    value: Vec<PerBucket>,
    since_refresh: u32,
    refresh_after: u32,
}

impl Default for Model {
    fn default() -> Model {
        let none = || vec![[0.0; BUCKETS]; CLASSES];
        Model { reuses: none(), waited_ms: none(), value: none(), since_refresh: 0, refresh_after: 64 }
    }
}

/// Idle milliseconds at which a bucket starts.
pub(crate) fn start_ms(bucket: usize) -> u64 {
    match bucket {
        0 => 0,
        bucket if bucket.is_multiple_of(2) => 500 << (bucket / 2),
        bucket => 750 << (bucket / 2),
    }
}

pub(crate) fn bucket_of(idle_ms: u64) -> usize {
    let octave = (idle_ms / 500).max(1).ilog2() as usize;
    let bucket = 2 * octave + usize::from(idle_ms >= 750 << octave);
    bucket.min(BUCKETS - 1)
}

fn width_ms(bucket: usize) -> f64 {
    (start_ms(bucket + 1) - start_ms(bucket)) as f64
}

impl Model {
    /// A watched block was used `idle_ms` after its last use.
    pub fn reused(&mut self, class: u8, idle_ms: u64) {
        let bucket = bucket_of(idle_ms);
        self.reuses[usize::from(class)][bucket] += 1.0;
        self.waited_ms[usize::from(class)][bucket] += (idle_ms - start_ms(bucket)) as f64;
    }

    /// A watched block stayed unused through a whole bucket.
    pub fn waited(&mut self, class: u8, bucket: usize) {
        self.waited_ms[usize::from(class)][bucket] += width_ms(bucket);
    }

    /// Counts a watched use; now and then computes all values anew. `share` of all blocks are watched.
    pub fn count(&mut self, share: f64) {
        self.since_refresh += 1;
        if self.since_refresh >= self.refresh_after {
            self.since_refresh = 0;
            self.refresh_after = (self.refresh_after * 2).min(REFRESH_USES);
            self.refresh(share.max(0.2));
        }
    }

    /// Most hits per millisecond that keeping a block of this class for some time can be expected to give.
    pub fn value(&self, class: u8, idle_ms: u64) -> f64 {
        self.value[usize::from(class)][bucket_of(idle_ms)]
    }

    fn refresh(&mut self, share: f64) {
        let all = blend(&self.reuses, &self.waited_ms, &std::array::from_fn(|bucket| GUESS / middle_ms(bucket)), GUESSED * share);
        for group in GROUPS.windows(2).map(|ends| ends[0]..ends[1]) {
            let shared = blend(&self.reuses[group.clone()], &self.waited_ms[group.clone()], &all, BORROWED * share);
            for class in group {
                let own = class..class + 1;
                let rates = blend(&self.reuses[own.clone()], &self.waited_ms[own], &shared, BORROWED * share);
                self.value[class] = values(&rates);
            }
        }
        self.reuses.iter_mut().chain(&mut self.waited_ms).flatten().for_each(|count| *count *= FADE);
    }
}

fn middle_ms(bucket: usize) -> f64 {
    start_ms(bucket) as f64 + 0.3 * width_ms(bucket) + 100.0
}

/// Rates of reuse per millisecond of these classes together, where `weight` reuses at the rates of `prior` are counted in.
fn blend(reuses: &[PerBucket], waited_ms: &[PerBucket], prior: &PerBucket, weight: f64) -> PerBucket {
    std::array::from_fn(|bucket| {
        let sum = |counts: &[PerBucket]| counts.iter().map(|class| class[bucket]).sum::<f64>();
        (sum(reuses) + weight) / (sum(waited_ms) + weight / prior[bucket])
    })
}

/// For a block at the start of each bucket: over all times to give up at, the most hits expected per time expected.
fn values(rates: &PerBucket) -> PerBucket {
    std::array::from_fn(|from| {
        let (mut hits, mut time, mut waiting, mut best) = (0.0, 0.0, 1.0, 0.0f64);
        for (bucket, rate) in rates.iter().enumerate().skip(from) {
            let hit = rate * width_ms(bucket) / (1.0 + rate * width_ms(bucket));
            hits += waiting * hit;
            time += waiting * hit / rate;
            waiting *= 1.0 - hit;
            best = best.max(hits / time);
        }
        best
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        for bucket in 0..BUCKETS - 1 {
            assert_eq!(bucket_of(start_ms(bucket)), bucket);
            assert_eq!(bucket_of(start_ms(bucket + 1) - 1), bucket);
        }
        assert_eq!(bucket_of(u64::MAX / 2), BUCKETS - 1);
    }

    #[test]
    fn a_class_that_always_comes_back_is_worth_more_than_one_that_never_does() {
        let mut model = Model::default();
        for _ in 0..10_000 {
            model.reused(4, 10_000);
            (0..bucket_of(10_000)).for_each(|bucket| model.waited(4, bucket));
            (0..20).for_each(|bucket| model.waited(0, bucket));
            model.count(1.0);
        }
        assert!(model.value(4, 0) > 5.0 * model.value(0, 0), "{} and {}", model.value(4, 0), model.value(0, 0));
    }

    #[test]
    fn a_block_that_waits_for_its_usual_time_gains_value() {
        let mut model = Model::default();
        for _ in 0..256 {
            model.reused(5, 60_000);
            (0..bucket_of(60_000)).for_each(|bucket| model.waited(5, bucket));
            model.count(1.0);
        }
        assert!(model.value(5, 50_000) > model.value(5, 1_000));
        assert!(model.value(5, 50_000) > model.value(5, 500_000));
    }

    #[test]
    fn without_knowledge_value_falls_with_idle_time() {
        let mut model = Model::default();
        model.refresh(1.0);
        for bucket in 1..BUCKETS - 1 {
            assert!(model.value(0, start_ms(bucket)) < model.value(0, start_ms(bucket - 1)));
        }
    }
}
