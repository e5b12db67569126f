//! Engines that store, look up and load, from a seed.

use super::judge::{Gone, Judge, Loaded};
use super::support::sequence;
use kvd_block::NewBlock;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Blocks of one sequence.
pub const LENGTH: u32 = 32;

pub fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// The sequences that engines use.
pub struct Pool(pub Vec<Vec<NewBlock>>);

impl Pool {
    /// More than storage holds in these tests: blocks come and go in both tiers.
    pub fn large() -> Pool {
        Pool::of(112)
    }

    /// Less than storage holds.
    pub fn small() -> Pool {
        Pool::of(24)
    }

    fn of(count: u32) -> Pool {
        Pool((0..count).map(|index| sequence(1 + index * 100_000, LENGTH)).collect())
    }
}

/// Stores, looks up or loads one sequence, or a part of it.
pub fn one_step(judge: &mut Judge, pool: &Pool, random: &mut StdRng) -> Result<(usize, Loaded), Gone> {
    let blocks = &pool.0[random.random_range(0..pool.0.len())];
    let part = &blocks[..random.random_range(1..=blocks.len())];
    match random.random_range(0..10) {
        0..4 => Ok((judge.store(part)?, Loaded::default())),
        4..5 => judge.lookup(part).map(|_| (0, Loaded::default())),
        _ => Ok((0, judge.load(part)?)),
    }
}

/// What engines did together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub stored: usize,
    pub loaded: Loaded,
    pub connections: usize,
    pub longest: Duration,
}

/// Engines that go on, through restarts of the daemon, until they are told to end.
pub struct Workload {
    end: Arc<AtomicBool>,
    engines: Vec<JoinHandle<Tally>>,
}

impl Workload {
    pub fn start(socket: PathBuf, pool: Arc<Pool>, engines: u64, seed: u64) -> Workload {
        let end = Arc::new(AtomicBool::new(false));
        let engine = |number: u64| {
            let (socket, pool, end) = (socket.clone(), pool.clone(), end.clone());
            std::thread::spawn(move || {
                let mut random = random(seed.wrapping_mul(1000) + number);
                let mut tally = Tally::default();
                while !end.load(Ordering::Relaxed) {
                    let Ok(mut judge) = Judge::connect(&socket, &format!("engine-{number}")) else {
                        std::thread::sleep(Duration::from_millis(5));
                        continue;
                    };
                    tally.connections += 1;
                    while let (false, Ok((stored, loaded))) = (end.load(Ordering::Relaxed), one_step(&mut judge, &pool, &mut random)) {
                        tally.stored += stored;
                        tally.loaded.hits += loaded.hits;
                        tally.loaded.misses += loaded.misses;
                        tally.loaded.corrupt += loaded.corrupt;
                    }
                    tally.longest = tally.longest.max(judge.longest);
                }
                tally
            })
        };
        Workload { engines: (0..engines).map(engine).collect(), end }
    }

    /// Ends the engines. Panics when one of them judged badly.
    pub fn finish(self) -> Tally {
        self.end.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for engine in self.engines {
            let tally = engine.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.stored += tally.stored;
            all.loaded.hits += tally.loaded.hits;
            all.loaded.misses += tally.loaded.misses;
            all.loaded.corrupt += tally.loaded.corrupt;
            all.connections += tally.connections;
            all.longest = all.longest.max(tally.longest);
        }
        all
    }

    /// True when an engine has judged badly already.
    pub fn has_failed(&self) -> bool {
        self.engines.iter().any(JoinHandle::is_finished)
    }
}
