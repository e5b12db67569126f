//! Every format is read as it was written, and what is broken is named by its line.

use super::*;
use std::io::Write;

fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn read(path: &Path, skip_broken: bool) -> (Vec<Request>, Option<String>, u64) {
    let mut trace = match Trace::open(path, Options { skip_broken, ..Options::default() }) {
        Ok(trace) => trace,
        Err(error) => return (Vec::new(), Some(error.to_string()), 0),
    };
    let mut requests = Vec::new();
    loop {
        match trace.next() {
            Some(Ok(request)) => requests.push(request),
            Some(Err(error)) => return (requests, Some(error.to_string()), trace.skipped()),
            None => return (requests, None, trace.skipped()),
        }
    }
}

const MOONCAKE: &str = concat!(
    r#"{"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]}"#,
    "\n\n",
    r#"{"timestamp": 27, "input_length": 1024, "output_length": 6, "hash_ids": [0, 7]}"#,
    "\n"
);

#[test]
fn a_mooncake_line_is_a_request_with_global_ids() {
    let (_folder, path) = file("a.jsonl", MOONCAKE.as_bytes());
    let (requests, error, _) = read(&path, false);
    assert_eq!(error, None);
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[0].blocks.clone(), requests[0].whole_blocks()), (vec![0, 1, 2], 2));
    assert_eq!((requests[1].at_ms, requests[1].session, requests[1].whole_blocks()), (27, 1, 2));
}

#[test]
fn a_broken_line_is_named_by_its_number_and_ends_the_trace() {
    let text = MOONCAKE.replace("\"output_length\": 6, ", "");
    let (_folder, path) = file("a.jsonl", format!("{text}{MOONCAKE}").as_bytes());
    let (requests, error, _) = read(&path, false);
    assert_eq!(requests.len(), 1);
    let error = error.unwrap();
    assert!(error.contains("a.jsonl, line 3") && error.contains("`output_length`"), "{error}");
}

#[test]
fn broken_lines_are_counted_when_they_may_be_skipped() {
    let (_folder, path) = file("a.jsonl", format!("{{\"half\n{MOONCAKE}{{\"timestamp\": 3\n\u{0}\n").as_bytes());
    let (requests, error, skipped) = read(&path, true);
    assert_eq!((requests.len(), error, skipped), (2, None, 3));
}

#[test]
fn ids_that_do_not_fit_the_length_are_refused() {
    let (_folder, path) = file("a.jsonl", MOONCAKE.replace("1100", "9000").as_bytes());
    let error = read(&path, false).1.unwrap();
    assert!(error.contains("line 1") && error.contains("3 hash_ids") && error.contains("must be 18"), "{error}");
}

const WEKA: &str = concat!(
    r#"{"trace":"a","meta":true,"block_size":64,"tool_tokens":1,"system_tokens":1}"#,
    "\n",
    r#"{"trace":"a","sub":0,"t":1.5,"in":200,"out":9,"api":7.3,"think":0.25,"stop":"x","runs":[[1,2],[9,1]]}"#,
    "\n",
    r#"{"trace":"b","meta":true,"block_size":64,"tool_tokens":1,"system_tokens":1}"#,
    "\n",
    r#"{"trace":"b","sub":0,"t":0.0,"in":64,"out":9,"api":7.3,"think":0.0,"stop":"x","runs":[[1,1]]}"#,
    "\n"
);

#[test]
fn ids_of_two_weka_sessions_never_meet() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(WEKA.as_bytes()).unwrap();
    let (_folder, path) = file("a.jsonl.gz", &packed.finish().unwrap());
    let (requests, error, _) = read(&path, false);
    assert_eq!(error, None);
    assert_eq!(requests[0].blocks, [1, 2, 9]);
    assert_eq!((requests[0].at_ms, requests[0].think_ms, requests[0].block_tokens), (1500, 250, 64));
    assert_eq!((requests[1].session, requests[1].blocks.len()), (1, 1));
    assert_ne!(requests[1].blocks[0], requests[0].blocks[0]);
}

#[test]
fn a_run_longer_than_its_input_is_refused_before_memory_is_taken() {
    let (_folder, path) = file("a.jsonl", WEKA.replace("[[1,2],[9,1]]", "[[1,9000000000000]]").as_bytes());
    let error = read(&path, false).1.unwrap();
    assert!(error.contains("line 2") && error.contains("9000000000000 blocks"), "{error}");
}

fn text_line(session: &str, at_us: u64, input: &str) -> String {
    serde_json::json!({"timestamp": at_us, "input": input, "output": "yes", "session_id": session}).to_string() + "\n"
}

#[test]
fn texts_in_an_archive_share_ids_as_far_as_they_are_equal() {
    let long = "é".repeat(600);
    let one = text_line("s", 5_000_000, &long) + &text_line("s", 7_000_000, &(long.clone() + &"b".repeat(200)));
    let two = text_line("t", 99_000_000, &("é".repeat(300) + "x" + &"é".repeat(300)));
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in [("LICENSE", "free"), ("set/one.jsonl", &one), ("set/empty.jsonl", ""), ("set/two.jsonl", &two)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let (_folder, path) = file("a.tar", &archive.into_inner().unwrap());
    let (requests, error, _) = read(&path, false);
    assert_eq!(error, None);
    let [first, second, third] = &requests[..] else { panic!("{} requests", requests.len()) };
    assert_eq!((first.blocks.len(), first.whole_blocks(), first.input_tokens), (3, 2, 150));
    assert_eq!((&second.blocks[..2], second.at_ms, second.session), (&first.blocks[..2], 2000, first.session));
    assert_eq!((third.blocks[0], third.at_ms), (first.blocks[0], 0));
    assert_ne!((third.blocks[1], third.session), (first.blocks[1], first.session));
}

#[test]
fn a_list_of_lengths_is_told_from_a_trace() {
    let (_folder, path) = file("a.csv", b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n");
    assert!(read(&path, false).1.unwrap().contains("cannot be replayed"));
}

#[test]
fn nothing_is_not_a_trace() {
    let (_folder, path) = file("a.jsonl", b"\n\n");
    assert!(read(&path, false).1.unwrap().contains("holds no request"));
    assert!(read(Path::new("/nonexistent/trace"), false).1.unwrap().contains("cannot read the trace /nonexistent/trace"));
}

#[test]
fn a_torn_archive_is_an_error_and_not_a_short_trace() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(WEKA.repeat(50).as_bytes()).unwrap();
    let whole = packed.finish().unwrap();
    let (_folder, path) = file("a.jsonl.gz", &whole[..whole.len() - 12]);
    assert!(read(&path, false).1.unwrap().contains("cannot read the trace"));
}

fn slice(name: &str) -> Vec<Request> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/traces").join(name);
    let (requests, error, skipped) = read(&path, false);
    assert_eq!((error, skipped), (None, 0));
    requests
}

/// Blocks found when each request looks for its longest prefix among all blocks before it, of all blocks asked for.
fn prefix_hits(requests: &[Request]) -> (usize, usize) {
    let mut seen: std::collections::HashSet<u64> = std::collections::HashSet::new();
    let mut hits = 0;
    for request in requests {
        hits += request.blocks.iter().take_while(|block| seen.contains(block)).count();
        seen.extend(&request.blocks);
    }
    (hits, requests.iter().map(|request| request.blocks.len()).sum())
}

#[test]
fn recorded_slices_share_what_was_counted_in_them_by_other_means() {
    let mooncake = slice("mooncake_conversation_300.jsonl");
    assert_eq!((mooncake.len(), prefix_hits(&mooncake)), (300, (676, 8490)));
    let weka = slice("weka_agentic_6_sessions.jsonl.gz");
    assert_eq!((weka.len(), weka.last().unwrap().session), (139, 5));
    assert_eq!(prefix_hits(&weka), (132_295, 146_281));
    let text = slice("lmcache_agent_text_5.tar.xz");
    assert_eq!((text.len(), text.last().unwrap().session), (87, 4));
    assert_eq!(prefix_hits(&text), (295, 392));
}
