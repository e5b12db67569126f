//! A daemon that is denied io_uring, locked memory or descriptors.

use super::judge::Judge;
use super::launch::Without;
use super::place::{HANG, Place, stop};
use super::rot::stored;
use super::support::{eventually, sequence};
use super::{Needs, Test};
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("limits::where_io_uring_is_forbidden_it_says_so_and_uses_pread", Needs::Nothing, no_uring),
    ("limits::where_io_uring_is_demanded_and_forbidden_it_refuses_with_the_way_out", Needs::Nothing, uring_demanded),
    ("limits::without_locked_memory_it_says_so_and_serves", Needs::Nothing, no_locked_memory),
    ("limits::out_of_descriptors_it_serves_who_is_connected_and_others_later", Needs::Nothing, no_descriptors),
    ("limits::too_few_descriptors_to_start_are_refused_with_a_reason", Needs::Nothing, hardly_any_descriptors),
];

fn all_is_well(place: &Place) {
    let (kvd, blocks) = stored(place);
    stop(kvd, HANG);
    let kvd = place.start();
    assert_eq!(Judge::at(place).load(&blocks).unwrap().hits, blocks.len());
    stop(kvd, HANG);
}

fn no_uring() {
    let mut place = Place::new("");
    place.without = Without { uring: true, ..Without::default() };
    all_is_well(&place);
    assert!(place.journal().contains("io_uring cannot be used: blocks are moved by pread and pwrite"), "{}", place.journal());
    let kvd = place.start();
    assert!(kvd.banner.contains("pread/pwrite (io_uring cannot be used"), "{}", kvd.banner);
}

fn uring_demanded() {
    let mut place = Place::new("nvme.io = \"uring\"");
    place.without = Without { uring: true, ..Without::default() };
    let said = place.refusal();
    assert!(said.contains("seccomp profile") && said.contains("`auto` or `posix`"), "{said}");
}

fn no_locked_memory() {
    // None at all: not even io_uring's own. And a little: some of the arena.
    for bytes in [0, 1 << 20] {
        let mut place = Place::new("");
        place.without = Without { memlock: Some(bytes), ..Without::default() };
        all_is_well(&place);
        assert!(place.journal().contains("raise RLIMIT_MEMLOCK"), "{bytes}: {}", place.journal());
    }
}

fn no_descriptors() {
    let mut place = Place::new("");
    place.without = Without { descriptors: Some(128), ..Without::default() };
    let (kvd, blocks) = stored(&place);
    let mut judge = Judge::at(&place);
    let crowd: Vec<_> = (0..200).filter_map(|_| UnixStream::connect(place.socket()).ok()).collect();
    eventually("it runs out", || place.journal().contains("could not be accepted").then_some(()));
    let fresh = sequence(2_000_000, 50);
    assert_eq!(judge.store(&fresh).unwrap(), 50, "who is connected is served");
    assert_eq!(judge.load(&blocks).unwrap().hits, blocks.len());
    drop(crowd);
    let mut late = eventually("others are served when there is room again", || {
        std::thread::sleep(Duration::from_millis(50));
        Judge::connect(&place.socket(), "late").ok()
    });
    assert_eq!(late.load(&blocks).unwrap().hits, blocks.len());
    drop((judge, late));
    assert!(place.journal().matches("could not be accepted").count() < 200, "the journal is not flooded");
    stop(kvd, HANG);
    let _kvd = place.start();
    assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len());
}

fn hardly_any_descriptors() {
    let mut place = Place::new("");
    for descriptors in [6, 10, 16, 24] {
        place.without = Without { descriptors: Some(descriptors), ..Without::default() };
        let said = place.refusal();
        assert!(said.contains("Too many open files") || said.contains("descriptors"), "{descriptors}: {said}");
    }
    place.without = Without::default();
    all_is_well(&place);
}
