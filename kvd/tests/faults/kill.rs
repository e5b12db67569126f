//! `kill -9`, at any moment.

use super::judge::Judge;
use super::launch;
use super::place::{HANG, Place, ended};
use super::support::{Kvd, eventually, layout};
use super::workload::{Pool, Workload, random};
use super::{Needs, Test};
use kvd_proto::admin::VerifyRequest;
use rand::RngExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("kill::a_daemon_killed_at_any_moment_under_load_serves_right_bytes_again", Needs::Nothing, killed_daemons),
    ("kill::engines_killed_mid_store_and_mid_load_leave_nothing_behind", Needs::Nothing, killed_engines),
];

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Reads everything on storage; returns how many images are not what the catalog says.
fn stale(kvd: &Kvd) -> u64 {
    kvd.with_client(async |mut client| {
        let request = VerifyRequest { medium: "STORAGE".into(), bytes_per_second: u64::MAX, ..Default::default() };
        let mut progress = client.verify(request).await.unwrap().into_inner();
        let mut last = None;
        while let Some(message) = progress.message().await.unwrap() {
            last = Some(message);
        }
        last.filter(|last| last.done).expect("it ends").corrupt_blocks
    })
}

fn killed_daemons() {
    let (cycles, seed) = (from_environment("KVD_FAULT_CYCLES", 200), from_environment("KVD_FAULT_SEED", 1));
    let place = Place::new("");
    let pool = Arc::new(Pool::large());
    let mut random = random(seed);
    let load = Workload::start(place.socket(), pool.clone(), 4, seed);
    let (mut starts, mut found, mut early, mut stale_rows) = (Vec::new(), 0, 0, 0);
    for cycle in 0..cycles {
        assert!(!load.has_failed(), "an engine judged badly in cycle {cycle} of seed {seed}");
        if random.random_range(0..4) == 0 {
            // Also while it starts.
            let mut child = place.spawn();
            std::thread::sleep(Duration::from_micros(random.random_range(0..150_000)));
            child.kill().unwrap();
            ended(&mut child, HANG);
            early += 1;
            continue;
        }
        let began = Instant::now();
        let kvd = place.start();
        starts.push(began.elapsed());
        let mut judge = Judge::at(&place);
        let some = random.random_range(0..pool.0.len());
        for blocks in pool.0.iter().cycle().skip(some).take(8) {
            found += judge.load(blocks).expect("nobody kills it yet").hits;
        }
        if cycle % 16 == 5 {
            stale_rows += stale(&kvd);
        }
        std::thread::sleep(Duration::from_micros(random.random_range(0..400_000)));
        kvd.kill();
    }
    let tally = load.finish();
    let kvd = place.start();
    stale_rows += stale(&kvd);
    assert_eq!(stale(&kvd), 0, "what was stale is forgotten");
    let storage = kvd.status().tiers[1].clone();
    assert!(storage.blocks > 0, "nothing survived");
    assert_eq!(storage.used_bytes, storage.blocks * layout().slot_bytes(), "space of storage leaked");
    let catalog: u64 = std::fs::read_dir(place.catalog()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(catalog < 64 << 20, "the catalog grew to {catalog} bytes");
    starts.sort();
    let at = |share: usize| starts[(starts.len() - 1) * share / 100];
    eprintln!(
        "kills: {cycles} (seed {seed}, {early} during the start); starts: median {:?}, p99 {:?}; blocks found right after a start: {found}; \
         under load: {tally:?}; rows that named a replaced image: {stale_rows}; catalog: {catalog} bytes",
        at(50),
        at(99)
    );
    let mut judge = Judge::at(&place);
    let blocks = &pool.0[0];
    judge.store(blocks).unwrap();
    assert_eq!(judge.load(blocks).unwrap().hits, blocks.len());
}

fn killed_engines() {
    let place = Place::new("");
    let kvd = place.start();
    let mut random = random(from_environment("KVD_FAULT_SEED", 1));
    for round in 0..12 {
        let mut engines: Vec<_> = (0..3).map(|number| launch::engine(&place.socket(), round * 3 + number).spawn().unwrap()).collect();
        std::thread::sleep(Duration::from_micros(random.random_range(20_000..250_000)));
        for engine in &mut engines {
            engine.kill().unwrap();
            engine.wait().unwrap();
        }
        eventually("their leases end", || {
            let status = kvd.status();
            (status.engines == 0 && status.open_leases == 0 && status.slots_being_filled == 0).then_some(())
        });
    }
    assert!(kvd.counter("stored") > 0 && kvd.counter("loaded_cpu") > 0, "the engines did something");
    eventually("writes end", || (kvd.status().open_transfers == 0).then_some(()));
    let arena = kvd.status().tiers[0].clone();
    assert_eq!(arena.used_bytes, arena.blocks * layout().slot_bytes(), "slots of the arena leaked");
    let pool = Pool::small();
    let mut judge = Judge::at(&place);
    for blocks in &pool.0 {
        assert_eq!(judge.load(blocks).unwrap().corrupt, 0);
    }
}
