//! Media for measuring: what they keep, and that they cost the slot file nothing.

use super::support::{Engine, Home, eventually, sequence};
use kvd_block::BlockState;

const BLOCKS: u32 = 60;

#[test]
fn a_memory_medium_gives_blocks_back_until_the_daemon_ends() {
    let home = Home::new();
    home.write_config("nvme.medium = \"memory\"");
    let kvd = home.start(&[]);
    assert!(kvd.banner.contains("nothing survives a restart"), "{}", kvd.banner);
    let blocks = sequence(1, BLOCKS);
    let mut engine = Engine::connect(&home.socket(), "measuring");
    engine.store(&blocks);
    eventually("all is written", || (kvd.counter("written") == u64::from(BLOCKS)).then_some(()));
    engine.load(&blocks);
    drop(engine);
    kvd.stop();
    let _kvd = home.start(&[]);
    let mut engine = Engine::connect(&home.socket(), "after");
    assert_eq!(engine.lookup(&blocks), vec![BlockState::Miss; blocks.len()]);
}

#[test]
fn a_null_medium_takes_writes_and_makes_no_slot_file() {
    let home = Home::new();
    home.write_config("nvme.medium = \"null\"");
    let kvd = home.start(&[]);
    Engine::connect(&home.socket(), "measuring").store(&sequence(1, BLOCKS));
    eventually("all is written", || (kvd.counter("written") == u64::from(BLOCKS)).then_some(()));
    assert!(!home.data().join("blocks.kvd").exists());
}

#[test]
fn measuring_costs_no_block_of_the_slot_file() {
    let home = Home::new();
    let blocks = sequence(1, BLOCKS);
    let kvd = home.start(&[]);
    Engine::connect(&home.socket(), "before").store(&blocks);
    kvd.stop();
    home.write_config("nvme.medium = \"null\"");
    home.start(&[]).stop();
    home.write_config("");
    let _kvd = home.start(&[]);
    let mut engine = Engine::connect(&home.socket(), "after");
    assert_eq!(engine.lookup(&blocks), vec![BlockState::Nvme; blocks.len()]);
    engine.load(&blocks);
}
