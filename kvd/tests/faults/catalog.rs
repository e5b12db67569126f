//! A damaged catalog: every kind of its files changed, cut short, emptied and removed.

use super::judge::Judge;
use super::place::{HANG, Place, stop};
use super::rot::stored;
use super::support::sequence;
use super::workload::random;
use super::{Needs, Test};
use rand::RngExt;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub const TESTS: &[Test] = &[
    ("catalog::any_damaged_file_of_the_catalog_costs_misses_at_most", Needs::Nothing, damaged_files),
    ("catalog::a_catalog_that_lags_behind_the_slot_file_costs_misses_at_most", Needs::Nothing, lagging),
];

/// One file of each kind RocksDB keeps: `CURRENT`, `MANIFEST`, `log`, `sst` and so on.
fn kinds(catalog: &Path) -> BTreeMap<String, PathBuf> {
    let files = fs::read_dir(catalog).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let kind = |path: &Path| match path.extension() {
        Some(extension) if path.file_stem().is_some_and(|stem| stem.to_string_lossy().parse::<u64>().is_ok()) => {
            extension.to_string_lossy().into_owned()
        }
        _ => path.file_name().unwrap().to_string_lossy().split('-').next().unwrap().to_owned(),
    };
    files.map(|path| (kind(&path), path)).collect()
}

fn copy_dir(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn damaged_files() {
    let place = Place::new("scrub.enabled = false");
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    // A second life makes a table of what was in the log of the first.
    stop(place.start(), HANG);
    let whole = place.path().join("whole");
    copy_dir(&place.catalog(), &whole);
    let mut random = random(7);
    let mut told = String::new();
    for (kind, path) in kinds(&whole) {
        let bytes = fs::read(&path).unwrap();
        let mut flipped = bytes.clone();
        for _ in 0..3 {
            let at = random.random_range(0..bytes.len().max(1));
            flipped.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << random.random_range(0..8));
        }
        let damages =
            [("flipped", Some(flipped)), ("cut", Some(bytes[..bytes.len() / 2].to_vec())), ("empty", Some(vec![])), ("gone", None)];
        for (damage, content) in damages {
            copy_dir(&whole, &place.catalog());
            let target = place.catalog().join(path.file_name().unwrap());
            match content {
                Some(content) => fs::write(&target, content).unwrap(),
                None => fs::remove_file(&target).unwrap(),
            }
            let kvd = place.start();
            let loaded = Judge::at(&place).load(&blocks).unwrap();
            assert_eq!(loaded.corrupt, 0);
            told += &format!(" {kind} {damage}: {} of {};", loaded.hits, blocks.len());
            stop(kvd, HANG);
            for aside in fs::read_dir(&place.data).unwrap().map(|entry| entry.unwrap().path()) {
                if aside.is_dir() && aside != place.catalog() {
                    fs::remove_dir_all(aside).unwrap();
                }
            }
        }
    }
    eprintln!("hits after damage to the catalog:{told}");
}

/// As after a crash that lost the catalog's last rows, but all of them: rows name images that were replaced.
fn lagging() {
    let place = Place::new("scrub.enabled = false");
    let (kvd, old) = stored(&place);
    stop(kvd, HANG);
    let whole = place.path().join("whole");
    copy_dir(&place.catalog(), &whole);
    let kvd = place.start();
    let mut judge = Judge::at(&place);
    // More than storage holds: every image is replaced.
    let capacity = kvd.status().tiers[1].capacity_bytes / super::support::layout().slot_bytes();
    for piece in 0..(capacity as u32 / 100 + 4) {
        let before = kvd.counter("written");
        assert_eq!(judge.store(&sequence(1_000_000 + piece * 1000, 100)).unwrap(), 100);
        super::support::eventually("a piece is written", || (kvd.counter("written") >= before + 100).then_some(()));
    }
    stop(kvd, HANG);
    copy_dir(&whole, &place.catalog());
    let kvd = place.start();
    let mut judge = Judge::at(&place);
    let loaded = judge.load(&old).unwrap();
    assert_eq!((loaded.misses, loaded.corrupt), (old.len(), 0), "images of other blocks are not taken for these");
    assert_eq!(judge.store(&old).unwrap(), old.len());
    assert_eq!(judge.load(&old).unwrap().hits, old.len());
    stop(kvd, HANG);
}
