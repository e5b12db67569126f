//! Failing, short, torn and stalling I/O, from a filesystem that injects them.

use super::flaky::{Faults, Flaky};
use super::judge::Judge;
use super::place::{HANG, Place, stop};
use super::rot::stored;
use super::support::{Kvd, eventually, sequence};
use super::workload::{Pool, Workload};
use super::{Needs, Test};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("io::reads_that_fail_are_misses_and_what_cannot_be_read_can_be_stored_again", Needs::Fuse, failed_reads),
    ("io::reads_that_fail_are_misses_by_pread_too", Needs::Fuse, failed_reads_posix),
    ("io::short_reads_are_hits_or_misses", Needs::Fuse, short_reads),
    ("io::flipped_bits_on_the_way_are_misses", Needs::Fuse, flipped_reads),
    ("io::failed_short_and_torn_writes_cost_copies_at_most", Needs::Fuse, failed_writes),
    ("io::a_disk_full_for_a_while_is_used_again", Needs::Fuse, full_for_a_while),
    ("io::a_disk_read_only_for_a_while_is_used_again", Needs::Fuse, read_only_for_a_while),
    ("io::everything_at_once_under_load_never_gives_a_wrong_byte", Needs::Fuse, everything),
    ("io::reads_that_stall_are_misses_at_the_deadline", Needs::Fuse, stalled_reads),
    ("io::writes_that_stall_keep_nobody_waiting", Needs::Fuse, stalled_writes),
    ("io::writes_that_stall_keep_nobody_waiting_by_pread_either", Needs::Fuse, stalled_writes_posix),
    ("io::a_daemon_whose_disk_stalls_stops_in_bounded_time", Needs::Fuse, stop_while_stalled),
    ("io::a_daemon_whose_disk_stalls_stops_in_bounded_time_by_pread_too", Needs::Fuse, stop_while_stalled_posix),
    ("io::a_catalog_that_cannot_be_written_costs_misses_after_a_restart_at_most", Needs::Fuse, failing_catalog),
    ("io::a_catalog_without_room_costs_misses_after_a_restart_at_most", Needs::Fuse, full_catalog),
    ("io::the_scrubber_forgets_what_cannot_be_read_only_while_the_device_answers", Needs::Fuse, scrubbed_device),
];

const QUIET: &str = "scrub.enabled = false\nlimits.write_pause_ms = 100";

/// A place whose slot file, or whose catalog, is on a flaky filesystem.
fn on(flaky: &Flaky, what: &str, more: &str) -> Place {
    let place = Place::new(more);
    std::fs::create_dir_all(&place.data).unwrap();
    let target = if what == "catalog" { flaky.path().to_owned() } else { flaky.path().join(what) };
    std::os::unix::fs::symlink(target, place.data.join(what)).unwrap();
    place
}

fn failed_reads() {
    reads_that_fail(QUIET);
}

fn failed_reads_posix() {
    reads_that_fail(&format!("{QUIET}\nnvme.io = \"posix\""));
}

fn reads_that_fail(more: &str) {
    let flaky = Flaky::new(1);
    let place = on(&flaky, "blocks.kvd", more);
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    let kvd = place.start();
    let mut judge = Judge::at(&place);
    flaky.set(Faults { read_eio: 300, ..Faults::default() });
    let loaded = judge.load(&blocks).unwrap();
    assert!(loaded.misses > 20 && loaded.hits > 20 && loaded.corrupt == 0, "{loaded:?}");
    flaky.set(Faults::default());
    assert_eq!(judge.store(&blocks).unwrap(), loaded.misses, "a block whose place fails is stored elsewhere");
    assert_eq!(judge.load(&blocks).unwrap().hits, blocks.len());
    assert!(place.journal().matches("storage cannot be read").count() <= 1, "said once");
    drop(judge);
    stop(kvd, HANG);
}

fn short_reads() {
    let flaky = Flaky::new(2);
    let place = on(&flaky, "blocks.kvd", QUIET);
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    let kvd = place.start();
    let mut judge = Judge::at(&place);
    flaky.set(Faults { read_short: 300, ..Faults::default() });
    let loaded = judge.load(&blocks).unwrap();
    assert!(loaded.hits > blocks.len() / 2 && loaded.corrupt == 0 && flaky.failed_calls() > 20, "{loaded:?}");
    flaky.set(Faults::default());
    assert_eq!(judge.store(&blocks).unwrap(), loaded.misses);
    assert_eq!(judge.load(&blocks).unwrap().hits, blocks.len());
    drop(judge);
    stop(kvd, HANG);
}

fn flipped_reads() {
    let flaky = Flaky::new(3);
    let place = on(&flaky, "blocks.kvd", QUIET);
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    let kvd = place.start();
    flaky.set(Faults { read_flip: 200, ..Faults::default() });
    let loaded = Judge::at(&place).load(&blocks).unwrap();
    // The last byte of a slot may be padding, which no checksum covers and nobody reads.
    assert_eq!((loaded.hits + loaded.misses, loaded.corrupt), (blocks.len(), 0));
    assert!(flaky.failed_calls() > 10);
    stop(kvd, HANG);
}

/// Blocks that were written, failed, or were not worth trying: as those after one that failed.
pub fn offered(kvd: &Kvd) -> u64 {
    ["written", "write_failed", "offload_skipped", "offload_refused"].map(|name| kvd.counter(name)).iter().sum()
}

/// Stores `count` pieces of 100 blocks and waits until all that was to be written is, or has failed.
fn store_pieces(place: &Place, kvd: &Kvd, first: u32, count: u32) -> Vec<Vec<kvd_block::NewBlock>> {
    let mut judge = Judge::at(place);
    let done = || offered(kvd);
    let mut pieces = Vec::new();
    for piece in 0..count {
        let before = done();
        let blocks = sequence(first + piece * 1000, 100);
        assert_eq!(judge.store(&blocks).unwrap(), 100, "stores go on in the arena");
        assert_eq!(judge.load(&blocks).unwrap().hits, 100);
        eventually("a piece is done", || (done() >= before + 100).then_some(()));
        pieces.push(blocks);
    }
    pieces
}

fn failed_writes() {
    let flaky = Flaky::new(4);
    let place = on(&flaky, "blocks.kvd", QUIET);
    let kvd = place.start();
    flaky.set(Faults { write_eio: 30, write_short: 100, write_torn: 50, ..Faults::default() });
    let pieces = store_pieces(&place, &kvd, 1_000_000, 8);
    flaky.set(Faults::default());
    let [written, failed] = ["written", "write_failed"].map(|name| kvd.counter(name));
    assert!(written > 100 && failed > 0, "{written} written, {failed} failed");
    stop(kvd, HANG);
    let _kvd = place.start();
    let mut judge = Judge::at(&place);
    let loaded: Vec<_> = pieces.iter().map(|blocks| judge.load(blocks).unwrap()).collect();
    assert!(loaded.iter().any(|loaded| loaded.hits > 0) && loaded.iter().all(|loaded| loaded.corrupt == 0), "{loaded:?}");
    for (blocks, loaded) in pieces.iter().zip(loaded) {
        assert_eq!(judge.store(blocks).unwrap(), loaded.misses);
    }
}

fn full_for_a_while() {
    unusable_for_a_while(Faults { write_full: 1000, ..Faults::default() });
}

fn read_only_for_a_while() {
    unusable_for_a_while(Faults { write_read_only: 1000, ..Faults::default() });
}

fn unusable_for_a_while(faults: Faults) {
    let flaky = Flaky::new(5);
    let place = on(&flaky, "blocks.kvd", QUIET);
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    let kvd = place.start();
    flaky.set(faults);
    store_pieces(&place, &kvd, 1_000_000, 1);
    assert!(kvd.counter("write_failed") > 0 && kvd.counter("written") == 0);
    assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len(), "what is on storage is still there");
    assert_eq!(place.journal().matches("blocks are not written to storage for now").count(), 1, "said once");
    flaky.set(Faults::default());
    std::thread::sleep(Duration::from_millis(200));
    store_pieces(&place, &kvd, 2_000_000, 2);
    assert!(kvd.counter("written") >= 100, "it is used again");
    stop(kvd, HANG);
}

fn everything() {
    let flaky = Flaky::new(6);
    let place = on(&flaky, "blocks.kvd", QUIET);
    let kvd = place.start();
    let _calm = flaky.until_dropped(Faults::default());
    let load = Workload::start(place.socket(), Arc::new(Pool::large()), 3, 6);
    let faults =
        Faults { read_eio: 20, read_short: 50, read_flip: 20, write_eio: 20, write_short: 50, write_torn: 20, ..Faults::default() };
    for round in 0..16 {
        let stall = Faults { stall_reads: round % 4 == 1, stall_writes: round % 4 == 3, ..faults };
        flaky.set(Faults { write_full: if round % 5 == 0 { 500 } else { 0 }, ..stall });
        std::thread::sleep(Duration::from_millis(300));
        assert!(!load.has_failed(), "an engine judged badly");
    }
    flaky.set(Faults::default());
    let tally = load.finish();
    eprintln!("everything at once: {tally:?}, {} calls made to fail", flaky.failed_calls());
    assert!(tally.loaded.hits > 0 && flaky.failed_calls() > 100);
    let blocks = sequence(77_000_000, 50);
    let mut judge = Judge::at(&place);
    assert_eq!(judge.store(&blocks).unwrap(), 50);
    assert_eq!(judge.load(&blocks).unwrap().hits, 50);
    drop(judge);
    stop(kvd, HANG);
}

fn stalled_reads() {
    let flaky = Flaky::new(7);
    let place = on(&flaky, "blocks.kvd", QUIET);
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    let kvd = place.start();
    let (mut judge, mut other) = (Judge::at(&place), Judge::connect(&place.socket(), "other").unwrap());
    let stall = flaky.until_dropped(Faults { stall_reads: true, ..Faults::default() });
    let began = Instant::now();
    assert_eq!(judge.load_within(&blocks[..50], 300).unwrap().misses, 50);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let fresh = sequence(3_000_000, 20);
    assert_eq!(other.store(&fresh).unwrap(), 20, "others are served meanwhile");
    assert_eq!(other.load(&fresh).unwrap().hits, 20);
    assert_eq!(kvd.counter("load_late"), 50);
    drop(stall);
    let hits = eventually("storage answers again", || {
        let loaded = judge.load_within(&blocks, 2000).unwrap();
        (loaded.hits == blocks.len()).then_some(loaded.hits)
    });
    assert_eq!(hits, blocks.len(), "nothing is lost");
    drop((judge, other));
    stop(kvd, HANG);
}

fn stalled_writes() {
    writes_that_stall(QUIET);
}

fn stalled_writes_posix() {
    writes_that_stall(&format!("{QUIET}\nnvme.io = \"posix\""));
}

fn writes_that_stall(more: &str) {
    let flaky = Flaky::new(8);
    let place = on(&flaky, "blocks.kvd", more);
    let (kvd, blocks) = stored(&place);
    let stall = flaky.until_dropped(Faults { stall_writes: true, ..Faults::default() });
    let mut judge = Judge::at(&place);
    let mut stored = 0;
    // Twice what the arena holds: what waits to be written is evicted, what is being written stays.
    for piece in 0..20 {
        let fresh = sequence(4_000_000 + piece * 1000, 100);
        stored += judge.store(&fresh).unwrap();
        assert_eq!(judge.load(&fresh).unwrap().corrupt, 0);
    }
    assert!(stored >= 1800, "only {stored} of 2000 were stored");
    assert_eq!(judge.load(&blocks).unwrap().hits, blocks.len(), "reads go on");
    assert!(judge.longest < Duration::from_secs(6), "{:?}", judge.longest);
    drop(stall);
    eventually("writes go on", || (kvd.counter("written") > 300).then_some(()));
    drop(judge);
    stop(kvd, HANG);
}

fn stop_while_stalled() {
    stops(QUIET);
}

fn stop_while_stalled_posix() {
    stops(&format!("{QUIET}\nnvme.io = \"posix\""));
}

fn stops(more: &str) {
    for faults in [Faults { stall_writes: true, ..Faults::default() }, Faults { stall_reads: true, ..Faults::default() }] {
        let flaky = Flaky::new(9);
        let place = on(&flaky, "blocks.kvd", more);
        let (kvd, blocks) = stored(&place);
        stop(kvd, HANG);
        let mut kvd = place.start();
        let stall = flaky.until_dropped(faults);
        let mut judge = Judge::at(&place);
        judge.store(&sequence(5_000_000, 50)).unwrap();
        let _ = judge.load_within(&blocks[..40], 100).unwrap();
        drop(judge);
        rustix::process::kill_process(rustix::process::Pid::from_child(&kvd.child), rustix::process::Signal::TERM).unwrap();
        let began = Instant::now();
        // The kernel takes a process apart only when its I/O is over; what the daemon itself does must end before.
        let told = eventually("it has done what it can", || {
            let over = kvd.child.try_wait().unwrap().is_some() || place.journal().matches(" stopped").count() >= 2;
            over.then(|| began.elapsed())
        });
        assert!(!place.socket().exists(), "engines see that it is gone");
        let gone_before_the_stall_ended = kvd.child.try_wait().unwrap().is_some();
        let what = if faults.stall_reads { "reads" } else { "writes" };
        eprintln!("stop while {what} stall: done after {told:?}; process gone while stalled: {gone_before_the_stall_ended}");
        drop(stall);
        super::place::ended(&mut kvd.child, HANG);
        let _kvd = place.start();
        assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len());
    }
}

fn failing_catalog() {
    catalog_that_fails(Faults { write_eio: 1000, sync_eio: 1000, ..Faults::default() });
}

fn full_catalog() {
    catalog_that_fails(Faults { write_full: 1000, ..Faults::default() });
}

fn catalog_that_fails(faults: Faults) {
    let flaky = Flaky::new(10);
    let place = on(&flaky, "catalog", QUIET);
    let (kvd, blocks) = stored(&place);
    // Rows follow within milliseconds and nobody can wait for them.
    std::thread::sleep(Duration::from_millis(300));
    flaky.set(faults);
    let lost = store_pieces(&place, &kvd, 6_000_000, 2);
    assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len());
    eventually("it says so", || place.journal().contains("catalog rows are lost").then_some(()));
    flaky.set(Faults::default());
    let kept = eventually("rows are kept again", || {
        let kept = store_pieces(&place, &kvd, 7_000_000 + place.journal().len() as u32 * 10_000, 1);
        place.journal().contains("can be written again").then_some(kept)
    });
    std::thread::sleep(Duration::from_millis(300));
    kvd.kill();
    let _kvd = place.start();
    let mut judge = Judge::at(&place);
    assert_eq!(judge.load(&kept[0]).unwrap().hits, 100, "rows are kept again");
    assert_eq!(judge.load(&blocks).unwrap().hits, blocks.len());
    for piece in &lost {
        assert_eq!(judge.load(piece).unwrap().corrupt, 0);
    }
}

fn scrubbed_device() {
    let flaky = Flaky::new(11);
    let place = on(&flaky, "blocks.kvd", "scrub.pass_days = 0");
    let (kvd, blocks) = stored(&place);
    stop(kvd, HANG);
    let kvd = place.start();
    flaky.set(Faults { read_eio: 1000, ..Faults::default() });
    eventually("it notices", || kvd.status().scrub.filter(|scrub| scrub.unreadable >= 100));
    assert_eq!(kvd.status().tiers[1].blocks, u64::from(blocks.len() as u32), "a device that is away costs nothing");
    flaky.set(Faults::default());
    eventually("it tries again", || kvd.status().scrub.filter(|scrub| scrub.passes >= 2));
    assert_eq!(Judge::at(&place).load(&blocks).unwrap().hits, blocks.len());
    flaky.set(Faults { read_eio: 300, ..Faults::default() });
    eventually("what fails twice is forgotten", || kvd.status().scrub.filter(|scrub| scrub.corrupt_blocks > 0));
    flaky.set(Faults::default());
    stop(kvd, HANG);
}
