//! Rot is found before a reader finds it.

use super::follower::Follower;
use super::support::{Engine, Home, eventually, rot, runtime, sequence};
use kvd_block::BlockState;
use kvd_proto::wire::kv_event::KvEvent;

const EAGER: &str = "scrub.pass_days = 0";

#[test]
fn the_scrubber_finds_rot_in_a_running_daemon_and_publishes_the_loss() {
    let home = Home::new();
    home.write_config(EAGER);
    let kvd = home.start(&[]);
    let blocks = sequence(1, 40);
    let mut engine = Engine::connect(&home.socket(), "e");
    engine.store(&blocks);
    eventually("all is written", || (kvd.counter("written") == 40).then_some(()));
    assert!(rot(&home.data().join("blocks.kvd"), blocks[7].hash, 4096 + 777));
    let scrub = eventually("the rot is found", || kvd.status().scrub.filter(|scrub| scrub.corrupt_blocks > 0));
    assert_eq!((scrub.corrupt_blocks, scrub.unreadable), (1, 0));
    let tiers = kvd.status().tiers;
    assert_eq!((tiers[0].blocks, tiers[1].blocks), (40, 39), "the arena's copy and all others stay");
    let mut follower = Follower::default();
    runtime().block_on(follower.catch_up(&kvd));
    let removed: Vec<_> = follower
        .events
        .iter()
        .filter_map(|event| match event {
            KvEvent::BlockRemoved(run) if !run.block_hashes.is_empty() => Some((run.medium.clone(), run.block_hashes.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(removed, [("STORAGE".to_owned(), vec![blocks[7].hash])]);
    assert!(home.journal().contains("an image is corrupt: forgotten"), "{}", home.journal());
    assert!(kvd.http("/metrics").contains("kvd_scrub_corrupt_total 1\n"));
    let status = String::from_utf8(home.kvctl(&["status"]).stdout).unwrap();
    assert!(status.contains("1 corrupt"), "{status}");
    engine.load(&blocks);
}

#[test]
fn the_scrubber_finds_rot_planted_while_the_daemon_was_down() {
    let home = Home::new();
    home.write_config(EAGER);
    let kvd = home.start(&[]);
    let blocks = sequence(1, 20);
    Engine::connect(&home.socket(), "before").store(&blocks);
    kvd.stop();
    for (block, at) in [(3, 8), (11, 4096), (19, 4096 + 9000)] {
        assert!(rot(&home.data().join("blocks.kvd"), blocks[block].hash, at));
    }
    let kvd = home.start(&[]);
    eventually("the rot is found", || kvd.status().scrub.filter(|scrub| scrub.corrupt_blocks == 3));
    let states = Engine::connect(&home.socket(), "after").lookup(&blocks);
    let expected = (0..20).map(|block| if [3, 11, 19].contains(&block) { BlockState::Miss } else { BlockState::Nvme });
    assert_eq!(states, expected.collect::<Vec<_>>());
}

#[test]
fn the_scrubber_sleeps_when_nothing_is_at_rest() {
    let home = Home::new();
    home.write_config(EAGER);
    let kvd = home.start(&[]);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let scrub = kvd.status().scrub.unwrap();
    assert_eq!((scrub.enabled, scrub.passes, scrub.checked_blocks), (true, 0, 0));
}

#[test]
fn passes_go_on_while_blocks_come_and_go() {
    let home = Home::new();
    home.write_config(EAGER);
    let kvd = home.start(&[]);
    let mut engine = Engine::connect(&home.socket(), "e");
    engine.store(&sequence(1, 50));
    for piece in 0.. {
        let before = kvd.counter("written");
        let blocks = sequence(1_000_000 + piece * 1000, 100);
        engine.store(&blocks);
        eventually("a piece is written", || (kvd.counter("written") >= before + 100).then_some(()));
        engine.load(&blocks);
        if kvd.status().scrub.is_some_and(|scrub| scrub.passes >= 2) && piece >= 40 {
            break;
        }
        assert!(piece < 400, "no pass ends");
    }
    let status = kvd.status();
    assert_eq!((status.scrub.unwrap().corrupt_blocks, kvd.counter("corrupt")), (0, 0), "what moved is not called corrupt");
}

#[test]
fn it_can_be_switched_off() {
    let home = Home::new();
    home.write_config("scrub.enabled = false\nscrub.pass_days = 0");
    let kvd = home.start(&[]);
    Engine::connect(&home.socket(), "e").store(&sequence(1, 5));
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(kvd.status().scrub.unwrap().checked_blocks, 0);
    assert!(String::from_utf8(home.kvctl(&["status"]).stdout).unwrap().contains("scrub    off"));
}
