//! Full and read-only filesystems, on a small ext4 of the test's own.

use super::io::offered;
use super::judge::Judge;
use super::loopdisk::LoopDisk;
use super::place::{HANG, Place, stop};
use super::rot::stored;
use super::support::{Kvd, eventually, sequence};
use super::{Needs, Test};
use std::fs;

pub const TESTS: &[Test] = &[
    ("disk::a_slot_file_larger_than_the_disk_is_refused_with_numbers_and_leaves_nothing", Needs::LoopDisk, too_small),
    ("disk::a_disk_that_others_fill_keeps_storage_working", Needs::LoopDisk, filled),
    ("disk::a_daemon_starts_on_a_full_disk", Needs::LoopDisk, full_at_start),
    ("disk::a_sparse_slot_file_on_a_full_disk_costs_copies_at_most_and_recovers_by_itself", Needs::LoopDisk, sparse),
    ("disk::a_filesystem_that_turns_read_only_costs_copies_at_most", Needs::LoopDisk, read_only),
];

fn on(disk: &LoopDisk) -> Place {
    Place::with_data(disk.path().join("data"), "scrub.enabled = false\nlimits.write_pause_ms = 100")
}

fn too_small() {
    let disk = LoopDisk::new(24);
    let place = on(&disk);
    let said = place.refusal();
    assert!(said.contains("needs") && said.contains("free some, set a smaller capacity"), "{said}");
    assert!(!place.slot_file().exists(), "nothing is left");
}

/// Stores 800 blocks, loads each, and waits until all are written or have failed. Returns the last hundred.
fn overwrite(place: &Place, kvd: &Kvd, first: u32) -> Vec<kvd_block::NewBlock> {
    let mut judge = Judge::at(place);
    let mut last = Vec::new();
    for piece in 0..8 {
        let before = offered(kvd);
        last = sequence(first + piece * 1000, 100);
        assert_eq!(judge.store(&last).unwrap(), 100, "stores go on in the arena");
        eventually("a piece is done", || (offered(kvd) >= before + 100).then_some(()));
        assert_eq!(judge.load(&last).unwrap().hits, 100);
    }
    last
}

fn filled() {
    let disk = LoopDisk::new(96);
    let place = on(&disk);
    let (kvd, _) = stored(&place);
    let other = disk.fill("other-data");
    assert_eq!(disk.free_bytes() >> 20, 0);
    // The slot file has its space, and the catalog some of its own.
    for round in 0..4 {
        overwrite(&place, &kvd, 1_000_000 + round * 100_000);
    }
    assert!(kvd.counter("written") > 1000 && kvd.counter("write_failed") == 0, "{}", place.journal());
    fs::remove_file(other).unwrap();
    let last = overwrite(&place, &kvd, 5_000_000);
    std::thread::sleep(std::time::Duration::from_millis(300));
    kvd.kill();
    let _kvd = place.start();
    assert_eq!(Judge::at(&place).load(&last).unwrap().hits, last.len());
}

fn full_at_start() {
    let disk = LoopDisk::new(96);
    let place = on(&disk);
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    let other = disk.fill("other-data");
    let mut child = place.spawn();
    // With room for its catalog's log or without: it serves, or it says what is missing and the next start serves.
    let refused = (0..200).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        child.try_wait().unwrap()
    });
    eprintln!("a start on a full disk: {}", if refused.is_some() { "refused" } else { "serves" });
    if refused.is_none() {
        assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len());
        child.kill().unwrap();
        child.wait().unwrap();
    } else {
        assert!(place.journal().contains("No space left"), "{}", place.journal());
    }
    fs::remove_file(other).unwrap();
    let _kvd = place.start();
    assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len());
}

fn sparse() {
    let disk = LoopDisk::new(96);
    let place = on(&disk);
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    // As on a filesystem that cannot reserve space: the pages past the stored blocks are holes now.
    let file = fs::OpenOptions::new().write(true).open(place.slot_file()).unwrap();
    let whole = file.metadata().unwrap().len();
    file.set_len((1 << 20) + (6 << 20)).unwrap();
    file.set_len(whole).unwrap();
    let kvd = place.start();
    let other = disk.fill("other-data");
    overwrite(&place, &kvd, 1_000_000);
    assert!(kvd.counter("write_failed") > 0, "the disk was full");
    fs::remove_file(other).unwrap();
    let before = kvd.counter("written");
    eventually("writes go on", || {
        overwrite(&place, &kvd, 3_000_000 + u32::from(kvd.counter("written") as u16) * 16);
        (kvd.counter("written") > before + 100).then_some(())
    });
    let told = place.journal().matches("blocks are not written to storage for now").count();
    assert_eq!(told, 1, "said once");
    stop(kvd, HANG);
    let _kvd = place.start();
    assert_eq!(Judge::at(&place).load(&blocks).unwrap().corrupt, 0);
}

/// A file that is open for writing keeps anybody from remounting its filesystem; only the filesystem itself does, when it
/// meets an error. The way back is to mount it again, so the daemon is stopped for it.
fn read_only() {
    let disk = LoopDisk::new(96);
    let place = on(&disk);
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    let kvd = place.start();
    disk.fail().unwrap();
    let fresh = sequence(9_000_000, 50);
    let mut judge = Judge::at(&place);
    assert_eq!(judge.store(&fresh).unwrap(), 50, "stores go on in the arena");
    assert_eq!(judge.load(&fresh).unwrap().hits, 50);
    assert_eq!(judge.load(&blocks).unwrap().hits, blocks.len(), "what is on storage is still there");
    eventually("writes were tried", || (kvd.counter("write_failed") + kvd.counter("written") > 0).then_some(()));
    eprintln!("read-only: {} writes failed, {} written", kvd.counter("write_failed"), kvd.counter("written"));
    drop(judge);
    stop(kvd, HANG);
    disk.mount_again().unwrap();
    let _kvd = place.start();
    assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len());
}
