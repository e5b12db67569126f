//! What cannot be measured is said before anything is touched.

use crate::support::{Bench, kvd, said, trace};

/// What it says when it refuses; nothing may be left on the medium, and no report.
fn refusal(bench: &Bench, arguments: &[&str]) -> String {
    let output = bench.small(arguments).output().unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    assert!(bench.left().is_empty(), "{:?}", bench.left());
    assert!(!bench.file("report.json").exists());
    said(&output)
}

#[test]
fn an_unknown_scheme_is_answered_with_the_nearest() {
    let output = kvd().args(["--tier", "blok:///dev/x", "--trace", "x"]).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("did you mean `block`?"), "{}", said(&output));
}

#[test]
fn an_unknown_model_is_answered_with_the_nearest() {
    let bench = Bench::new();
    let trace = trace("mooncake_conversation_300.jsonl");
    let output = bench.command(&["--model", "llama-8b", "--trace", trace.to_str().unwrap()]).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("llama-3.1-8b"), "{}", said(&output));
    assert!(bench.left().is_empty());
}

#[test]
fn models_are_listed_without_a_medium() {
    let output = kvd().args(["--model", "list"]).output().unwrap();
    assert!(output.status.success() && said(&output).contains("deepseek-v3"), "{}", said(&output));
}

#[test]
fn a_broken_line_is_named_by_its_number_and_may_be_skipped() {
    let bench = Bench::new();
    let broken = bench.file("broken.jsonl");
    let whole = std::fs::read_to_string(trace("mooncake_conversation_300.jsonl")).unwrap();
    let lines: Vec<&str> = whole.lines().take(6).collect();
    std::fs::write(&broken, [&lines[..3], &["{\"timestamp\": 7, \"input_length\":"], &lines[3..]].concat().join("\n")).unwrap();
    let replayed = |more: &[&str]| {
        let mut command = bench.command(&["--trace", broken.to_str().unwrap(), "--bytes-per-token", "64", "--no-ceiling"]);
        command.args(["--arena-bytes", "64MiB", "--storage-bytes", "64MiB"]).args(more).output().unwrap()
    };
    let refused = replayed(&[]);
    assert!(!refused.status.success() && said(&refused).contains("broken.jsonl, line 4"), "{}", said(&refused));
    assert!(bench.left().is_empty());
    let skipped = replayed(&["--skip-broken"]);
    assert!(skipped.status.success(), "{}", said(&skipped));
    assert_eq!(bench.report()["trace"]["skipped_lines"], 1);
    assert_eq!(bench.report()["trace"]["requests_read"], 6, "those done before the measurement began are not in `run`");
}

#[test]
fn more_room_than_there_is_names_both_numbers() {
    let said = refusal(&Bench::new(), &["--storage-bytes", "900000TiB"]);
    assert!(said.contains("needs") && said.contains("free") && said.contains("--storage-bytes"), "{said}");
}

#[test]
fn an_arena_too_small_for_the_threads_says_how_much_is_needed() {
    let said = refusal(&Bench::new(), &["--concurrency", "64", "--arena-bytes", "4MiB"]);
    assert!(said.contains("--arena-bytes 4.0 MiB") && said.contains("at least"), "{said}");
}

#[test]
fn a_device_is_not_written_over_unless_that_was_said() {
    let trace = trace("mooncake_conversation_300.jsonl");
    let output = kvd().args(["--tier", "block:///dev/nvme99n99", "--trace"]).arg(trace).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("--overwrite"), "{}", said(&output));
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let trace = trace("mooncake_conversation_300.jsonl");
    let output = kvd().args(["--tier", "/nonexistent/disk", "--trace"]).arg(trace).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("/nonexistent/disk"), "{}", said(&output));
}

#[test]
fn blocks_that_do_not_fit_the_trace_are_refused() {
    let said = refusal(&Bench::new(), &["--block-tokens", "48"]);
    assert!(said.contains("--block-tokens 48") && said.contains("64"), "{said}");
}
