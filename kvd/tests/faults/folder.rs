//! A data directory or a socket that somebody removes, and one that two daemons want.

use super::judge::Judge;
use super::place::{HANG, Place, stop};
use super::rot::stored;
use super::support::sequence;
use super::{Needs, Test};
use std::fs;

pub const TESTS: &[Test] = &[
    ("folder::a_data_directory_removed_under_a_running_daemon_costs_a_restart_its_blocks", Needs::Nothing, removed),
    ("folder::a_socket_removed_under_a_running_daemon_is_there_again_after_a_restart", Needs::Nothing, no_socket),
    ("folder::a_second_daemon_on_the_same_directory_is_refused_and_the_first_goes_on", Needs::Nothing, two),
];

fn removed() {
    let place = Place::new("");
    let (kvd, blocks) = stored(&place);
    fs::remove_dir_all(&place.data).unwrap();
    let mut judge = Judge::at(&place);
    assert_eq!(judge.load(&blocks).unwrap().hits, blocks.len(), "the files are open still");
    let fresh = sequence(2_000_000, 100);
    assert_eq!(judge.store(&fresh).unwrap(), 100);
    assert_eq!(judge.load(&fresh).unwrap().hits, 100);
    drop(judge);
    stop(kvd, HANG);
    let _kvd = place.start();
    let mut judge = Judge::at(&place);
    assert_eq!(judge.load(&blocks).unwrap().misses, blocks.len());
    assert_eq!(judge.store(&blocks).unwrap(), blocks.len());
    assert_eq!(judge.load(&blocks).unwrap().hits, blocks.len());
}

fn no_socket() {
    let place = Place::new("");
    let (kvd, blocks) = stored(&place);
    let mut judge = Judge::at(&place);
    fs::remove_file(place.socket()).unwrap();
    assert_eq!(judge.load(&blocks).unwrap().hits, blocks.len(), "who is connected is served");
    assert!(Judge::connect(&place.socket(), "late").is_err());
    drop(judge);
    stop(kvd, HANG);
    let _kvd = place.start();
    assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len());
}

fn two() {
    let first = Place::new("");
    let (_kvd, blocks) = stored(&first);
    let second = Place::with_data(first.data.clone(), "");
    let said = second.refusal();
    assert!(said.contains("in use by another running kvd"), "{said}");
    let mut judge = Judge::at(&first);
    assert_eq!(judge.load(&blocks).unwrap().hits, blocks.len());
    assert_eq!(judge.store(&sequence(2_000_000, 10)).unwrap(), 10);
}
