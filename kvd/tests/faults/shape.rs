//! Slot files of the wrong size, and files that are no slot files.

use super::judge::Judge;
use super::place::{HANG, Place, stop};
use super::rot::stored;
use super::{Needs, Test};
use std::fs;

pub const TESTS: &[Test] = &[
    ("shape::a_slot_file_cut_anywhere_is_made_whole_and_loses_what_was_cut_off", Needs::Nothing, cut),
    ("shape::a_slot_file_cut_while_it_is_in_use_costs_misses_at_most", Needs::Nothing, cut_in_use),
    ("shape::a_removed_slot_file_is_made_anew", Needs::Nothing, removed),
    ("shape::a_file_that_is_not_kvds_is_refused_and_left_untouched", Needs::Nothing, garbage),
];

fn truncate(place: &Place, length: u64) {
    fs::OpenOptions::new().write(true).open(place.slot_file()).unwrap().set_len(length).unwrap();
}

/// Lengths in the middle of everything: superblocks, the gap after them, labels, headers, payloads.
fn cut() {
    for length in [0, 100, 4095, 4096, 8191, 8192, 1 << 20, (1 << 20) + 4096, (1 << 20) + 100_000, (4 << 20) + 4097, 20 << 20] {
        let place = Place::new("scrub.enabled = false");
        let (kvd, blocks) = stored(&place);
        let whole = fs::metadata(place.slot_file()).unwrap().len();
        stop(kvd, HANG);
        truncate(&place, length);
        let kvd = place.start();
        let mut judge = Judge::at(&place);
        let loaded = judge.load(&blocks).unwrap();
        assert_eq!(loaded.corrupt, 0, "cut at {length}");
        assert!(length >= 4 << 20 || loaded.misses > 0, "cut at {length}");
        assert_eq!(judge.store(&blocks).unwrap(), loaded.misses, "cut at {length}: what is lost can be stored again");
        assert_eq!(fs::metadata(place.slot_file()).unwrap().len(), whole, "cut at {length}");
        stop(kvd, HANG);
        let _kvd = place.start();
        assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len(), "cut at {length}");
    }
}

fn cut_in_use() {
    let place = Place::new("scrub.enabled = false");
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    let kvd = place.start();
    let mut judge = Judge::at(&place);
    truncate(&place, (1 << 20) + 100_000);
    let loaded = judge.load(&blocks).unwrap();
    assert!(loaded.misses > 0 && loaded.corrupt == 0, "{loaded:?}");
    assert_eq!(judge.store(&blocks).unwrap(), loaded.misses);
    assert_eq!(judge.load(&blocks).unwrap().hits, blocks.len());
    stop(kvd, HANG);
    let _kvd = place.start();
    assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len());
}

fn removed() {
    let place = Place::new("");
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    fs::remove_file(place.slot_file()).unwrap();
    let _kvd = place.start();
    let mut judge = Judge::at(&place);
    assert_eq!(judge.load(&blocks).unwrap().misses, blocks.len(), "the catalog of the other file is not believed");
    assert_eq!(judge.store(&blocks).unwrap(), blocks.len());
    assert_eq!(judge.load(&blocks).unwrap().hits, blocks.len());
}

fn garbage() {
    let garbage: Vec<Vec<u8>> = vec![b"a thesis, the only copy".to_vec(), vec![0; 100_000], vec![0xA5; 3 << 20]];
    for bytes in garbage {
        let place = Place::new("");
        fs::create_dir_all(&place.data).unwrap();
        fs::write(place.slot_file(), &bytes).unwrap();
        let said = place.refusal();
        assert!(said.contains("left untouched") && said.contains("blocks.kvd") && said.contains("set another path"), "{said}");
        assert!(fs::read(place.slot_file()).unwrap() == bytes, "it was touched");
    }
}
