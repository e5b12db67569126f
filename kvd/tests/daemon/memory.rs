//! What a snapshot of very many blocks costs the daemon.

use super::recovery::home_with_rows;
use super::support::{Kvd, runtime};
use kvd_proto::admin::SnapshotRequest;
use std::time::{Duration, Instant};

/// Resident memory of the daemon without the arena, in KiB.
fn anonymous_kib(kvd: &Kvd) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", kvd.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Reads a snapshot, pausing after each part; returns its blocks and the most memory seen meanwhile.
async fn read(kvd: &Kvd, pause: Duration) -> (usize, u64) {
    let mut client = kvd::client::connect(&kvd.addresses.admin).await.unwrap();
    let mut parts = client.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    let (mut blocks, mut most) = (0, 0);
    while let Some(part) = parts.message().await.unwrap() {
        blocks += part.blocks.len();
        most = most.max(anonymous_kib(kvd));
        tokio::time::sleep(pause).await;
    }
    (blocks, most)
}

#[test]
#[ignore = "needs 9 GB of disk and some ten seconds"]
fn a_snapshot_of_a_million_blocks_takes_megabytes() {
    const ROWS: usize = 1_000_000;
    let home = home_with_rows(ROWS as u32);
    let kvd = home.start(&[]);
    // What the announcement took is given back.
    std::thread::sleep(Duration::from_secs(3));
    let before = anonymous_kib(&kvd);
    for pause in [Duration::ZERO, Duration::from_millis(5)] {
        let started = Instant::now();
        let (blocks, most) = runtime().block_on(read(&kvd, pause));
        assert_eq!(blocks, ROWS);
        let (ms, more, kept) = (started.elapsed().as_millis(), most.saturating_sub(before), anonymous_kib(&kvd).saturating_sub(before));
        eprintln!("pause {pause:?}: {ms} ms, {before} KiB before, {more} KiB more at most, {kept} KiB kept");
        assert!(more < 64 << 10, "{more} KiB more");
    }
}
