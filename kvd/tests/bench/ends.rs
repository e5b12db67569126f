//! Early ends: by Ctrl-C, and by being killed.

use crate::support::{Bench, eventually, said, start};
use rustix::process::{Pid, Signal, kill_process};
use std::process::Child;

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
}

/// The daemon under the bench, once it serves.
fn daemon(child: &Child) -> i32 {
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    eventually("the daemon", || std::fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok())
}

fn is_gone(pid: i32) -> bool {
    // A dead process whose parent has not asked for it yet is gone, too.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}

#[test]
fn ctrl_c_reports_what_there_is_and_leaves_nothing() {
    let bench = Bench::new();
    let running = start(bench.small(&["--repeat", "--duration", "600"]));
    let daemon = daemon(&running);
    eventually("blocks on the medium", || bench.left().first().filter(|made| made.join("blocks.kvd").exists()).cloned());
    std::thread::sleep(std::time::Duration::from_secs(2));
    signal(&running, Signal::INT);
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report = bench.report();
    assert_eq!((&report["interrupted"], &report["integrity"]["wrong_bytes"]), (&true.into(), &0.into()));
    assert!(said(&output).contains("ended early"));
    assert!(bench.left().is_empty(), "{:?}", bench.left());
    assert!(is_gone(daemon));
}

#[test]
fn a_killed_bench_takes_its_daemon_along() {
    let bench = Bench::new();
    let mut running = start(bench.small(&["--repeat", "--duration", "600"]));
    let daemon = daemon(&running);
    eventually("the slot file", || bench.left().first().filter(|made| made.join("blocks.kvd").exists()).cloned());
    signal(&running, Signal::KILL);
    running.wait().unwrap();
    eventually("the daemon's end", || is_gone(daemon).then_some(()));
}
