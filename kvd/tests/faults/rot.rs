//! Flipped bits in the slot file: in headers, payloads, labels and superblocks.

use super::judge::Judge;
use super::place::{HANG, Place, stop};
use super::support::{Kvd, eventually, layout, rot, sequence};
use super::{Needs, Test};
use kvd_block::{BlockState, NewBlock};
use std::fs;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = &[
    ("rot::flipped_bits_while_it_is_down_are_misses_and_all_other_blocks_are_hits", Needs::Nothing, down),
    ("rot::flipped_bits_while_it_runs_are_misses_and_all_other_blocks_are_hits", Needs::Nothing, running),
    ("rot::flipped_bits_in_the_labels_of_extents_lose_nothing_while_the_catalog_is_there", Needs::Nothing, labels),
    ("rot::flipped_bits_in_a_superblock_are_mended_from_its_copy", Needs::Nothing, one_superblock),
    ("rot::flipped_bits_in_both_superblocks_lose_nothing", Needs::Nothing, both_superblocks),
];

const COUNT: u32 = 200;

/// Stores `COUNT` blocks and waits until they are on storage.
pub fn stored(place: &Place) -> (Kvd, Vec<NewBlock>) {
    let kvd = place.start();
    let blocks = sequence(1, COUNT);
    assert_eq!(Judge::at(place).store(&blocks).unwrap(), blocks.len());
    eventually("all is written", || (kvd.counter("written") == u64::from(COUNT)).then_some(()));
    (kvd, blocks)
}

/// Flips a bit of the page at `offset`.
fn flip(place: &Place, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(place.slot_file()).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 8], offset).unwrap();
}

/// Rots every eleventh block somewhere else in its image. Returns how many.
fn rot_some(place: &Place, blocks: &[NewBlock]) -> usize {
    let (second_stripe, end) = (layout().stripe_offset(1), layout().stripe_offset(1) + 5000);
    let places = [0, 9, 40, 100, 4088, layout().stripe_offset(0), layout().stripe_offset(0) + 4999, second_stripe, end - 1];
    let chosen = blocks.iter().step_by(11).zip(places.iter().cycle());
    chosen.map(|(block, at)| assert!(rot(&place.slot_file(), block.hash, *at), "the image is there")).count()
}

/// Everything is right but `rotten` blocks, which are misses now and can be stored again.
fn only_those_are_lost(place: &Place, blocks: &[NewBlock], rotten: usize) {
    let mut judge = Judge::at(place);
    let loaded = judge.load(blocks).unwrap();
    assert_eq!((loaded.hits, loaded.misses, loaded.corrupt), (blocks.len() - rotten, rotten, 0));
    let states = judge.lookup(blocks).unwrap();
    assert_eq!(states.iter().filter(|state| **state == BlockState::Miss).count(), rotten, "what is rotten is forgotten");
    assert_eq!(judge.store(blocks).unwrap(), rotten, "and can be stored again");
    assert_eq!(judge.load(blocks).unwrap().hits, blocks.len());
}

fn down() {
    let place = Place::new("scrub.enabled = false");
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    let rotten = rot_some(&place, &blocks);
    let _kvd = place.start();
    only_those_are_lost(&place, &blocks, rotten);
}

fn running() {
    let place = Place::new("scrub.enabled = false");
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    // Started again, so that nothing is in the arena.
    let _kvd = place.start();
    let rotten = rot_some(&place, &blocks);
    only_those_are_lost(&place, &blocks, rotten);
}

fn extents(place: &Place) -> Vec<u64> {
    let length = fs::metadata(place.slot_file()).unwrap().len();
    (1 << 20..length).step_by(2 << 20).collect()
}

fn labels() {
    let place = Place::new("");
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    extents(&place).into_iter().for_each(|label| flip(&place, label + 12));
    let kvd = place.start();
    assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len());
    stop(kvd, HANG);
    // Without the catalog, an extent whose label is damaged holds nothing.
    fs::remove_dir_all(place.catalog()).unwrap();
    let _kvd = place.start();
    let mut judge = Judge::at(&place);
    assert_eq!(judge.load(&blocks).unwrap().misses, blocks.len());
    assert_eq!(judge.store(&blocks).unwrap(), blocks.len());
}

fn one_superblock() {
    let place = Place::new("");
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    for superblock in [0, 4096, 0] {
        flip(&place, superblock + 40);
        let kvd = place.start();
        assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len(), "superblock at {superblock}");
        stop(kvd, HANG);
    }
    assert!(!place.journal().contains("both superblocks"), "each was mended before the other one was damaged");
}

fn both_superblocks() {
    let place = Place::new("");
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    flip(&place, 40);
    flip(&place, 4096 + 40);
    let _kvd = place.start();
    assert!(place.journal().contains("both superblocks"), "it says so");
    assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len(), "headers tell what is there");
}
