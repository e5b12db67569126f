//! An upgrade keeps what is in memory.

use super::support::{Engine, Home, sequence};
use kvd_block::BlockState;

#[test]
fn a_takeover_keeps_blocks_in_memory() {
    takeover_keeps_memory("");
}

#[test]
fn a_takeover_without_storage_keeps_blocks_in_memory() {
    takeover_keeps_memory("nvme.enabled = false");
}

fn takeover_keeps_memory(more: &str) {
    let home = Home::new();
    home.write_config(more);
    let mut old = home.start(&[]);
    let life = old.status().incarnation;
    let blocks = sequence(1, 100);
    let mut engine = Engine::connect(&home.socket(), "before");
    engine.store(&blocks);
    let new = home.start(&["--takeover"]);
    assert!(old.wait().success(), "the old daemon ends by itself");
    assert!(engine.is_closed(), "its engines are closed");
    assert_ne!(new.addresses.pid, old.addresses.pid);
    assert!(new.status().incarnation > life);
    let mut engine = Engine::connect(&home.socket(), "after");
    assert_eq!(engine.lookup(&blocks), vec![BlockState::Cpu; 100]);
    engine.load(&blocks);
    engine.store(&sequence(5000, 50));
    engine.load(&blocks);
    new.stop();
}

#[test]
fn a_takeover_while_an_engine_stores_is_refused_and_the_old_daemon_goes_on() {
    let home = Home::new();
    let old = home.start(&[]);
    let mut engine = Engine::connect(&home.socket(), "slow");
    let blocks = sequence(1, 3);
    let (_lease, _grants) = engine.prepare_store(&blocks);
    let error = home.fail(&["--takeover"]);
    assert!(error.contains("still storing into 3 slots"), "{error}");
    engine.store(&sequence(900, 3));
    assert!(!old.status().draining);
}

#[test]
fn there_must_be_someone_to_take_over_from() {
    let home = Home::new();
    home.write_config("");
    assert!(home.fail(&["--takeover"]).contains("start without `--takeover`"));
}
