//! What engines do.

use super::support::{Engine, Home, eventually, greet, hello, layout, sequence};
use kvd_block::{BlockState, StoreGrant};
use kvd_proto::frame;
use kvd_proto::local::{HelloAnswer, Reply, Request, Role};

#[test]
fn what_is_stored_is_loaded_by_another_engine() {
    let home = Home::new();
    let _kvd = home.start(&[]);
    let blocks = sequence(1, 20);
    let mut first = Engine::connect(&home.socket(), "first");
    assert_eq!(first.lookup(&blocks), vec![BlockState::Miss; 20]);
    first.store(&blocks);
    drop(first);
    let mut second = Engine::connect(&home.socket(), "second");
    assert_eq!(second.lookup(&blocks), vec![BlockState::Cpu; 20]);
    second.load(&blocks);
    assert_eq!(second.prepare_store(&blocks).1, vec![StoreGrant::Present; 20]);
}

#[test]
fn blocks_that_left_the_arena_come_back_from_storage() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let mut engine = Engine::connect(&home.socket(), "e");
    let slots = (32 << 20) / layout().slot_bytes();
    let old = sequence(1, 50);
    engine.store(&old);
    // Twice as much as the arena holds, in pieces that leave time to be written.
    for piece in 0..(2 * slots / 100) as u32 {
        let before = kvd.counter("written");
        engine.store(&sequence(1_000_000 + piece * 1000, 100));
        eventually("a piece is written", || (kvd.counter("written") >= before + 100).then_some(()));
    }
    assert!(engine.lookup(&old).contains(&BlockState::Nvme), "nothing was evicted");
    engine.load(&old);
    assert!(kvd.counter("loaded_nvme") > 0);
}

#[test]
fn a_killed_engine_leaks_no_slots() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let mut engine = Engine::connect(&home.socket(), "e");
    let worker = Engine::connect_as(&home.socket(), Role::Worker, "e");
    assert_eq!(worker.welcome.session, engine.welcome.session);
    let (_, grants) = engine.prepare_store(&sequence(1, 10));
    assert!(grants.iter().all(|grant| matches!(grant, StoreGrant::Write(_))));
    assert_eq!(kvd.status().slots_being_filled, 10);
    drop(engine);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(kvd.status().slots_being_filled, 10, "the worker may still be copying");
    drop(worker);
    let status = eventually("the session ends", || Some(kvd.status()).filter(|status| status.engines == 0 && status.open_leases == 0));
    assert_eq!(status.slots_being_filled, 0);
    assert_eq!(status.tiers[0].used_bytes, 0, "every slot is free again");
}

#[test]
fn a_layout_the_engine_did_not_declare_is_invalid() {
    let home = Home::new();
    let _kvd = home.start(&[]);
    let mut engine = Engine::connect(&home.socket(), "e");
    let request = Request::Lookup { layout: kvd_block::LayoutHandle(77), keys: Default::default(), until_miss: false };
    assert!(matches!(engine.ask(request), Reply::Invalid { why } if why.contains("77")));
}

#[test]
fn an_impossible_layout_is_refused() {
    let home = Home::new();
    let _kvd = home.start(&[]);
    let mut hello = hello(Role::Control, "e");
    hello.layouts[0].ranks = 65;
    let (_, answer, _) = greet(&home.socket(), &hello);
    assert!(matches!(answer, HelloAnswer::Refusal(refusal) if refusal.why.contains("`ranks` is 65")));
}

#[test]
fn a_broken_message_ends_only_its_connection() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let bad = Engine::connect(&home.socket(), "bad");
    let mut good = Engine::connect(&home.socket(), "good");
    frame::write(&mut &bad.socket, &"not a request").unwrap();
    eventually("the connection is closed", || bad.is_closed().then_some(()));
    good.store(&sequence(1, 3));
    eventually("the session ends", || (kvd.status().engines == 1).then_some(()));
}

#[test]
fn an_engine_that_does_not_read_is_closed_and_the_others_are_served() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let deaf = Engine::connect(&home.socket(), "deaf");
    deaf.socket.set_write_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    let keys = kvd_proto::local::Keys::from_hashes(&vec![kvd_block::SequenceHash([1; 16]); 2000]);
    let body = Request::Lookup { layout: deaf.layout(), keys, until_miss: false };
    let message = frame::encode(&kvd_proto::local::ToDaemon { id: kvd_block::RequestId(1), body }).unwrap();
    use std::io::Write;
    let sent = (0..20_000).take_while(|_| (&deaf.socket).write_all(&message).is_ok()).count();
    assert!(sent < 20_000, "the daemon read everything and kept the answers");
    let mut good = Engine::connect(&home.socket(), "good");
    good.store(&sequence(1, 3));
    eventually("the deaf engine is gone", || (kvd.status().engines == 1).then_some(()));
}
