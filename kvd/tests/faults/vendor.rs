//! `kvd conformance` against a real filesystem that fails: the suite must name the promise that was broken, and must end.

use super::flaky::{Faults, Flaky};
use super::support::eventually;
use super::{Needs, Test};
use kvd_kit::conformance::{Finding, Plan, Verdict, chosen, run};
use kvd_shm::{Arena, HugePages};
use kvd_tiers::conformance::{ARENA_BYTES, Medium, Opened};
use kvd_tiers::{IoEngine, NvmeConfig, NvmeTier};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("vendor::a_filesystem_without_faults_fails_no_check", Needs::Fuse, without_faults),
    ("vendor::flipped_bits_on_the_way_fail_the_checks_that_read", Needs::Fuse, flipped_reads),
    ("vendor::short_reads_fail_the_checks_that_read", Needs::Fuse, short_reads),
    ("vendor::torn_writes_fail_the_checks_under_load", Needs::Fuse, torn_writes),
    ("vendor::failed_writes_fail_the_checks_that_write", Needs::Fuse, failed_writes),
    ("vendor::failed_reads_are_told_apart_from_corrupt_blocks", Needs::Fuse, failed_reads),
    ("vendor::a_filesystem_that_stalls_is_hung_and_the_suite_ends", Needs::Fuse, stalled_reads),
];

/// A slot file on a filesystem that is well while it is opened and fails afterwards.
struct Failing {
    flaky: Flaky,
    faults: Faults,
    arena: Arc<Arena>,
}

impl Medium for Failing {
    fn open(&self) -> Result<Opened<'_>, String> {
        self.flaky.set(Faults::default());
        let config = NvmeConfig {
            path: self.flaky.path().join("slots"),
            capacity_bytes: 16 << 20,
            extent_bytes: 4 << 20,
            max_inflight_blocks: 16,
            queue_depth: 16,
            arena: self.arena.clone(),
            io: IoEngine::Posix,
        };
        let tier = NvmeTier::open(config).map_err(|error| error.to_string())?;
        self.flaky.set(self.faults);
        Ok(Opened::Own(Box::new(tier)))
    }

    fn keeps_blocks(&self) -> bool {
        true
    }
}

fn examine(faults: Faults, only: &[&str], patience: Duration) -> HashMap<&'static str, Finding> {
    let arena = Arc::new(Arena::create(ARENA_BYTES, HugePages::Never).unwrap());
    let medium = Arc::new(Failing { flaky: Flaky::new(1), faults, arena: arena.clone() });
    let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
    let plan = Plan { checks: chosen(&only).unwrap(), patience, stop: Arc::default() };
    let found = run(&medium, &arena, &plan, |_| {});
    // A check that hangs still uses the filesystem: it must end before that does, or the kernel waits for both for ever.
    medium.flaky.set(Faults::default());
    eventually("the checks let go of the filesystem", || (Arc::strong_count(&medium) == 1).then_some(()));
    found.into_iter().map(|finding| (finding.name, finding)).collect()
}

fn found(faults: Faults) -> HashMap<&'static str, Finding> {
    examine(faults, &["basics", "limits", "patterns", "concurrency", "reopen"], Duration::from_secs(60))
}

fn expect(found: &HashMap<&'static str, Finding>, verdict: Verdict, names: &[&str]) {
    for name in names {
        assert_eq!(found[name].verdict, verdict, "{name}: {}", found[name].detail);
    }
}

fn without_faults() {
    let found = found(Faults::default());
    assert!(found.values().all(|finding| finding.verdict == Verdict::Passed), "{found:?}");
}

fn flipped_reads() {
    let found = found(Faults { read_flip: 1000, ..Faults::default() });
    // The last byte of each read: part of a block whose payload is whole pages, and of nothing in one that is not.
    expect(&found, Verdict::Failed, &["full-queue", "patterns"]);
    expect(&found, Verdict::Passed, &["empty-batch", "never-written", "same-bytes"]);
}

fn short_reads() {
    let found = found(Faults { read_short: 1000, ..Faults::default() });
    expect(&found, Verdict::Failed, &["same-bytes", "overwrite", "full-queue", "many-writers"]);
}

fn torn_writes() {
    let found = found(Faults { write_torn: 1000, ..Faults::default() });
    expect(&found, Verdict::Failed, &["full-queue", "many-writers", "reopen"]);
    expect(&found, Verdict::Passed, &["empty-batch", "never-written"]);
}

fn failed_writes() {
    let found = found(Faults { write_eio: 1000, ..Faults::default() });
    expect(&found, Verdict::Failed, &["same-bytes", "overwrite", "many-writers"]);
    assert!(found["same-bytes"].detail.contains("a write to an idle target failed"), "{}", found["same-bytes"].detail);
}

fn failed_reads() {
    let found = found(Faults { read_eio: 1000, ..Faults::default() });
    expect(&found, Verdict::Failed, &["never-written", "same-bytes", "many-writers"]);
    assert!(found["never-written"].detail.contains("failed otherwise than as corrupt"), "{}", found["never-written"].detail);
}

fn stalled_reads() {
    let found = examine(Faults { stall_reads: true, ..Faults::default() }, &["basics"], Duration::from_secs(2));
    expect(&found, Verdict::Passed, &["empty-batch"]);
    expect(&found, Verdict::Hung, &["never-written"]);
    expect(&found, Verdict::Skipped, &["same-bytes", "erase"]);
}
