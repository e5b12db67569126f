//! A whole measurement, and one on a medium that rots while it is measured.

use crate::support::{Bench, eventually, said, start};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

#[test]
fn a_trace_is_replayed_every_byte_is_compared_and_nothing_is_left() {
    let bench = Bench::new();
    std::fs::write(bench.medium().join("precious"), "data").unwrap();
    let page = bench.file("report.html");
    let output = bench.small(&["--html", page.to_str().unwrap(), "--ceiling", "1", "--prefill-tokens-per-second", "1e6"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report = bench.report();
    let number =
        |pointer: &str| report.pointer(pointer).and_then(|value| value.as_f64()).unwrap_or_else(|| panic!("{pointer} in {report}"));
    assert_eq!(report["schema"], "kvd-bench/1");
    assert_eq!(number("/integrity/wrong_bytes"), 0.0);
    assert_eq!(number("/integrity/refused_blocks"), 0.0);
    assert_eq!(number("/run/requests"), 139.0);
    assert!(number("/integrity/verified_blocks") > 0.0);
    assert!(number("/hits/storage_tokens") > 0.0 && number("/hits/hit_rate") > 0.3, "{}", report["hits"]);
    assert!(number("/store/written_bytes") > 0.0);
    assert!(number("/latency_ms/load/count") > 0.0);
    assert!(number("/latency_ms/load/p99_99") >= number("/latency_ms/load/p50"));
    assert!(number("/latency_ms/first_token/p50") > 0.0);
    assert!(number("/cpu/daemon_s") > 0.0 && number("/cpu/client_s") > 0.0);
    assert!(number("/ceiling/moved_gb_per_s") > 0.0);
    assert!(number("/mlperf_kv_cache/summary/cache_stats/tier_storage_read_bandwidth_gbps") > 0.0);
    assert_eq!(number("/mlperf_kv_cache/summary/total_requests"), 139.0);
    assert_eq!(bench.left(), [bench.medium().join("precious")]);
    let html = std::fs::read_to_string(page).unwrap();
    assert!(html.contains("<svg") && html.contains("never a wrong byte"));
}

/// The daemon finds a flipped bit when it reads the image: the block is computed again, and the engine sees a miss.
#[test]
fn bits_that_flip_on_the_medium_cost_hits_and_never_a_wrong_byte() {
    let bench = Bench::new();
    let running = start(bench.small(&["--repeat", "--duration", "6", "--no-ceiling"]));
    let slots = eventually("the slot file", || bench.left().first().map(|made| made.join("blocks.kvd")).filter(|file| file.exists()));
    let file = OpenOptions::new().read(true).write(true).open(slots).unwrap();
    let rots = std::thread::spawn(move || {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while std::time::Instant::now() < until {
            // One byte in each 64 KiB, wherever something was written already.
            for at in (4096 * 40..256u64 << 20).step_by(64 << 10) {
                let mut byte = [0];
                if file.read_at(&mut byte, at).is_ok_and(|read| read == 1) && byte != [0] {
                    file.write_at(&[byte[0] ^ 0x10], at).unwrap();
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
    });
    let output = running.wait_with_output().unwrap();
    rots.join().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let integrity = &bench.report()["integrity"];
    assert_eq!(integrity["wrong_bytes"], 0);
    let caught = integrity["corrupt_images"].as_u64().unwrap() + integrity["refused_blocks"].as_u64().unwrap();
    assert!(caught > 0 && integrity["missed_blocks"].as_u64().unwrap() > 0, "{integrity}");
    assert!(said(&output).contains("look at the disk"));
}

#[test]
fn an_open_loop_and_a_search_for_sessions_report_what_they_found() {
    let bench = Bench::new();
    let search = ["--find-sessions", "--ttft-ms", "60000", "--step", "1", "--most-sessions", "2"];
    let output = bench.small(&["--open", "--speed", "1000", "--requests", "30", "--no-ceiling"]).args(search).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report = bench.report();
    assert_eq!(report["run"]["pace"], "open");
    assert_eq!(report["sessions"]["sustained"], 2);
    assert_eq!(report["sessions"]["reached_most"], true);
}
