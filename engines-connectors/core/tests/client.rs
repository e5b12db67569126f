//! The client against a daemon that behaves, dies, stalls, refuses, or is not kvd at all.

mod fake_daemon;

use fake_daemon::{Answers, FakeDaemon, always, eventually, layout, silent};
use kvd_block::{LeaseId, SequenceHash, SlotIndex};
use kvd_connector::{Client, ClientOptions, Level, Unavailable};
use kvd_proto::local::{BlockState, LoadGrant, NewBlock, Reply, Request, Role, StoreGrant};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(5);
const HASHES: [SequenceHash; 2] = [SequenceHash([1; 16]), SequenceHash([2; 16])];

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("kvd.sock");
    (dir, socket)
}

fn client(socket: &Path, timeout_ms: u64) -> Client {
    Client::connect(ClientOptions {
        socket: socket.into(),
        engine: "e1".into(),
        software: "test".into(),
        layouts: vec![layout(1, 4096)],
        timeout: Duration::from_millis(timeout_ms),
    })
}

fn connected(socket: &Path, timeout_ms: u64) -> Client {
    let client = client(socket, timeout_ms);
    assert!(client.wait_connected(LONG), "{:?}", client.last_error());
    client
}

fn new_block() -> NewBlock {
    NewBlock { hash: HASHES[0], parent: SequenceHash::ROOT, local: kvd_block::LocalHash(0), position: 0, tokens: vec![] }
}

fn load_lease(grants: Vec<LoadGrant>) -> Reply {
    Reply::LoadLease { lease: LeaseId(7), grants }
}

#[test]
fn a_lookup_is_answered() {
    let (_dir, socket) = place();
    let daemon = FakeDaemon::start(&socket, 9, always(Reply::Found { states: vec![2, 3] }));
    let client = connected(&socket, 5000);
    assert_eq!(client.lookup(0, &HASHES, true), Ok(vec![BlockState::Cpu, BlockState::Nvme]));
    assert_eq!((client.incarnation(), client.generation(), client.last_error()), (9, 1, None));
    let hello = &daemon.hellos()[0];
    assert_eq!((hello.role, hello.engine.as_str(), hello.layouts.len()), (Role::Control, "e1", 1));
}

#[test]
fn without_a_daemon_calls_fail_at_once_and_the_error_names_the_way_out() {
    let (_dir, socket) = place();
    let client = client(&socket, 5000);
    eventually("an error", || client.last_error().is_some());
    assert_eq!(client.lookup(0, &HASHES, true), Err(Unavailable::NotConnected));
    let error = client.last_error().unwrap();
    assert!(error.contains(socket.to_str().unwrap()) && error.contains("kvd serve"), "{error}");
}

#[test]
fn a_call_to_a_silent_daemon_ends_and_the_next_one_does_not_wait() {
    let (_dir, socket) = place();
    let _daemon = FakeDaemon::start(&socket, 1, silent());
    let client = connected(&socket, 100);
    let since = Instant::now();
    let timed_out = Err(Unavailable::TimedOut(Duration::from_millis(100)));
    assert_eq!(client.lookup(0, &HASHES, true), timed_out);
    assert!(since.elapsed() >= Duration::from_millis(100));
    let since = Instant::now();
    assert_eq!(client.lookup(0, &HASHES, true), timed_out);
    assert!(since.elapsed() < Duration::from_millis(90), "waited again for a daemon known to be stalled");
}

#[test]
fn a_lease_that_comes_after_its_call_gave_up_is_given_back() {
    let (_dir, socket) = place();
    let late: Answers = Box::new(|request| match request {
        Request::PrepareLoad { .. } => {
            thread::sleep(Duration::from_millis(150));
            (Some(load_lease(vec![LoadGrant::Ready(SlotIndex(1))])), vec![])
        }
        _ => (Some(Reply::Done), vec![]),
    });
    let daemon = FakeDaemon::start(&socket, 1, late);
    let client = connected(&socket, 50);
    assert!(client.prepare_load(0, &HASHES[..1], 0).is_err());
    eventually("the lease is given back", || daemon.heard().contains(&Request::CompleteLoad { lease: LeaseId(7), corrupt: vec![] }));
    assert_eq!(client.generation(), 1);
}

#[test]
fn a_daemon_that_dies_ends_waiting_calls_and_the_client_finds_the_next_one() {
    let (_dir, socket) = place();
    let daemon = FakeDaemon::start(&socket, 1, silent());
    let client = connected(&socket, 60_000);
    let since = Instant::now();
    thread::scope(|scope| {
        let call = scope.spawn(|| client.lookup(0, &HASHES, true));
        eventually("the request arrives", || !daemon.heard().is_empty());
        daemon.kill();
        assert_eq!(call.join().unwrap(), Err(Unavailable::NotConnected));
    });
    assert!(since.elapsed() < LONG);
    let _next = FakeDaemon::start(&socket, 2, always(Reply::Found { states: vec![0] }));
    eventually("connected again", || client.connected());
    assert_eq!((client.incarnation(), client.generation()), (2, 2));
    assert_eq!(client.lookup(0, &HASHES[..1], false), Ok(vec![BlockState::Miss]));
    let levels: Vec<Level> = client.journal().take().iter().map(|event| event.level).collect();
    assert_eq!(levels, [Level::Info, Level::Warning, Level::Info], "said once each: connected, lost, back");
}

#[test]
fn a_load_settles_as_blocks_arrive_from_below() {
    let (_dir, socket) = place();
    let staged = Reply::Staged { lease: LeaseId(7), ready: vec![(1, SlotIndex(30))], missing: vec![2] };
    let grants = vec![LoadGrant::Ready(SlotIndex(10)), LoadGrant::Staging, LoadGrant::Staging];
    let answers: Answers = Box::new(move |request| match request {
        Request::PrepareLoad { .. } => (Some(load_lease(grants.clone())), vec![staged.clone()]),
        _ => (Some(Reply::Done), vec![]),
    });
    let daemon = FakeDaemon::start(&socket, 1, answers);
    let client = connected(&socket, 5000);
    let load = client.prepare_load(0, &[HASHES[0]; 3], 0).unwrap();
    assert!(load.wait(LONG));
    assert_eq!(load.grants(), [LoadGrant::Ready(SlotIndex(10)), LoadGrant::Ready(SlotIndex(30)), LoadGrant::Miss]);
    load.complete(vec![1]);
    drop(load);
    client.touch(0, &HASHES);
    eventually("both arrive", || daemon.heard().len() >= 3);
    let heard = daemon.heard();
    assert_eq!(heard[1], Request::CompleteLoad { lease: LeaseId(7), corrupt: vec![1] });
    assert!(matches!(heard[2], Request::Touch { .. }), "completed once although dropped too");
}

#[test]
fn a_load_under_way_when_the_daemon_dies_is_missing_and_nobody_waits() {
    let (_dir, socket) = place();
    let daemon = FakeDaemon::start(&socket, 1, always(load_lease(vec![LoadGrant::Staging, LoadGrant::Ready(SlotIndex(1))])));
    let client = connected(&socket, 5000);
    let load = client.prepare_load(0, &HASHES, 0).unwrap();
    assert!(!load.wait(Duration::from_millis(10)));
    daemon.kill();
    assert!(load.wait(LONG));
    assert_eq!(load.grants(), [LoadGrant::Miss; 2]);
}

#[test]
fn a_lease_says_nothing_to_the_next_daemon() {
    let (_dir, socket) = place();
    let lease = Reply::StoreLease { lease: LeaseId(7), grants: vec![StoreGrant::Write(SlotIndex(1))] };
    let daemon = FakeDaemon::start(&socket, 1, always(lease));
    let client = connected(&socket, 5000);
    let store = client.prepare_store(0, vec![new_block()]).unwrap();
    assert_eq!((store.incarnation(), store.grants()), (1, &[StoreGrant::Write(SlotIndex(1))][..]));
    daemon.kill();
    let next = FakeDaemon::start(&socket, 2, always(Reply::Found { states: vec![] }));
    eventually("connected again", || client.generation() == 2 && client.connected());
    drop(store);
    client.lookup(0, &HASHES, true).unwrap();
    assert!(matches!(next.heard()[..], [Request::Lookup { .. }]));
}

#[test]
fn a_store_that_is_dropped_is_given_up() {
    let (_dir, socket) = place();
    let lease = Reply::StoreLease { lease: LeaseId(8), grants: vec![StoreGrant::Write(SlotIndex(1)), StoreGrant::Busy] };
    let daemon = FakeDaemon::start(&socket, 1, always(lease));
    let client = connected(&socket, 5000);
    drop(client.prepare_store(0, vec![new_block(), new_block()]).unwrap());
    eventually("given up", || daemon.heard().contains(&Request::CompleteStore { lease: LeaseId(8), filled: vec![] }));
}

#[test]
fn busy_and_invalid_are_told_apart() {
    for (reply, expected) in [
        (Reply::Busy { what: "leases".into() }, Unavailable::Busy("leases".into())),
        (Reply::Invalid { why: "no".into() }, Unavailable::Invalid("no".into())),
    ] {
        let (_dir, socket) = place();
        let _daemon = FakeDaemon::start(&socket, 1, always(reply));
        assert_eq!(connected(&socket, 5000).pin(0, &HASHES, 5).unwrap_err(), expected);
    }
}

#[test]
fn a_refusal_is_kept_word_for_word() {
    let (_dir, socket) = place();
    let _daemon = FakeDaemon::refusing(&socket, kvd_proto::PROTOCOL_VERSION, "layout `m` needs 9 GiB slots");
    let client = client(&socket, 100);
    assert!(!client.wait_connected(LONG));
    assert!(client.last_error().unwrap().contains("layout `m` needs 9 GiB slots"));
}

#[test]
fn another_protocol_version_names_both_versions() {
    let (_dir, socket) = place();
    let _daemon = FakeDaemon::refusing(&socket, 1000, "too old");
    let client = client(&socket, 100);
    assert!(!client.wait_connected(LONG));
    let error = client.last_error().unwrap();
    assert!(error.contains("1000") && error.contains("upgrade"), "{error}");
}

#[test]
fn a_socket_of_something_else_is_recognised() {
    let (_dir, socket) = place();
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        use std::io::Write;
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        }
    });
    let client = client(&socket, 100);
    assert!(!client.wait_connected(LONG));
    assert!(client.last_error().unwrap().contains("is not kvd's socket"), "{:?}", client.last_error());
}

#[test]
fn a_closed_client_stays_closed() {
    let (_dir, socket) = place();
    let daemon = FakeDaemon::start(&socket, 1, silent());
    let client = connected(&socket, 5000);
    client.close();
    eventually("calls fail", || client.lookup(0, &HASHES, true) == Err(Unavailable::NotConnected));
    thread::sleep(Duration::from_millis(200));
    assert_eq!((client.connected(), daemon.hellos().len()), (false, 1));
}
