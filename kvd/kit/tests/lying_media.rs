//! A suite that cannot fail is worth nothing: here it meets storage that lies, and must name the promise that was broken.
//!
//! Two kinds of lies. Below the tier: real slot files whose bytes are changed after each acknowledged write, as a bad device
//! does. In place of the tier: tiers that call wrong bytes a success.

mod liars;

use kvd_kit::conformance::{Finding, Plan, Verdict, chosen, run};
use kvd_shm::{Arena, HugePages};
use kvd_tiers::conformance::{ARENA_BYTES, Medium};
use liars::{BadDevice, BadTier, Device, Tiers};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

fn examine(medium: impl Medium + 'static, only: &[&str], patience: Duration) -> Vec<Finding> {
    let arena = Arc::new(Arena::create(ARENA_BYTES, HugePages::Never).unwrap());
    let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
    let plan = Plan { checks: chosen(&only).unwrap(), patience, stop: Arc::default() };
    run(&Arc::new(medium), &arena, &plan, |_| {})
}

fn findings(medium: impl Medium + 'static) -> HashMap<&'static str, Finding> {
    examine(medium, &[], Duration::from_secs(60)).into_iter().map(|finding| (finding.name, finding)).collect()
}

/// These checks failed, and these passed all the same.
fn expect(found: &HashMap<&'static str, Finding>, failed: &[&str], passed: &[&str]) {
    for (names, verdict) in [(failed, Verdict::Failed), (passed, Verdict::Passed)] {
        for name in names {
            assert_eq!(found[name].verdict, verdict, "{name}: {}", found[name].detail);
        }
    }
}

#[test]
fn a_device_that_does_not_lie_fails_nothing() {
    let found = findings(Device::new(BadDevice::Honest));
    let bad: Vec<_> = found.values().filter(|finding| finding.verdict != Verdict::Passed && finding.verdict != Verdict::Skipped).collect();
    assert!(bad.is_empty(), "{bad:?}");
    expect(&found, &[], &["same-bytes", "many-writers", "reopen", "torn-write", "lost-write", "misplaced-write", "cut-short"]);
}

#[test]
fn a_device_that_drops_writes_is_found_out() {
    let found = findings(Device::new(BadDevice::DropsWrites));
    expect(&found, &["same-bytes", "overwrite", "sizes", "many-writers", "reopen"], &["never-written", "empty-batch"]);
}

#[test]
fn a_device_that_rots_is_found_out() {
    let found = findings(Device::new(BadDevice::FlipsBits));
    expect(&found, &["same-bytes", "patterns", "many-writers", "reopen"], &["never-written"]);
    assert!(found["same-bytes"].detail.contains("failed its checksum"), "{}", found["same-bytes"].detail);
}

#[test]
fn a_device_that_writes_half_is_found_out() {
    expect(&findings(Device::new(BadDevice::WritesHalf)), &["same-bytes", "sizes", "many-writers"], &["never-written"]);
}

#[test]
fn a_device_that_writes_elsewhere_is_found_out() {
    expect(&findings(Device::new(BadDevice::Misplaces)), &["same-bytes", "overwrite", "many-writers"], &["empty-batch"]);
}

#[test]
fn a_device_that_brings_erased_blocks_back_fails_the_erase() {
    expect(&findings(Device::new(BadDevice::UndoesErases)), &["erase", "many-writers"], &["same-bytes", "overwrite", "patterns"]);
}

#[test]
fn a_device_that_loses_its_cache_at_the_close_fails_the_reopening() {
    let found = findings(Device::new(BadDevice::ForgetsAtClose));
    expect(&found, &["reopen", "find-by-headers"], &["same-bytes", "overwrite", "many-writers", "patterns"]);
    assert!(found["reopen"].detail.contains("after it was closed and opened 1 times"), "{}", found["reopen"].detail);
}

#[test]
fn a_device_that_drops_what_comes_in_batches_fails_under_load_only() {
    let found = findings(Device::new(BadDevice::DropsInBatches));
    expect(&found, &["full-queue", "many-writers"], &["same-bytes", "overwrite", "sizes", "reopen"]);
}

#[test]
fn wrong_bytes_that_are_called_a_success_are_named_so() {
    for (tier, byte) in [(BadTier::FlipsReads, "WRONG BYTES"), (BadTier::ShortReads, "WRONG BYTES")] {
        let found = findings(Tiers::new(tier));
        expect(&found, &["same-bytes", "sizes", "many-writers"], &["empty-batch", "never-written"]);
        assert!(found["same-bytes"].detail.contains(byte), "{}", found["same-bytes"].detail);
    }
}

#[test]
fn a_tier_that_verifies_nothing_is_found_out() {
    expect(
        &findings(Tiers::new(BadTier::KeepsHeadersOnly)),
        &["same-bytes", "patterns", "sizes", "many-writers"],
        &["empty-batch", "never-written"],
    );
}

#[test]
fn a_tier_that_gives_older_blocks_fails_the_overwrite() {
    let found = findings(Tiers::new(BadTier::GivesTheFirstBlock));
    expect(&found, &["overwrite", "many-writers"], &["same-bytes", "empty-batch"]);
}

#[test]
fn a_tier_that_never_answers_is_hung_and_ends_the_suite() {
    let found = examine(Tiers::new(BadTier::NeverAnswers), &["basics"], Duration::from_millis(300));
    let verdicts: Vec<Verdict> = found.iter().map(|finding| finding.verdict).collect();
    assert_eq!((verdicts[0], verdicts[1]), (Verdict::Passed, Verdict::Hung), "{found:?}");
    assert!(verdicts[2..].iter().all(|verdict| *verdict == Verdict::Skipped), "{found:?}");
    assert!(found[2].detail.contains("never answered in `never-written`"), "{}", found[2].detail);
}

#[test]
fn a_tier_that_gives_requests_up_fails_and_does_not_hang() {
    expect(&findings(Tiers::new(BadTier::GivesUp)), &["same-bytes", "full-queue", "many-writers"], &["empty-batch"]);
}
