//! Starting, and refusing to start.

use super::support::{Home, greet, hello};
use kvd_proto::local::{HelloAnswer, Role};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

fn kvd(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kvd")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn sizes_follow_from_the_machine_when_nobody_sets_them() {
    let config = kvd(&["config"]);
    let settings = kvd::settings::parse(&config, "kvd config").unwrap();
    assert!(settings.arena.bytes.unwrap().0 >= 64 << 20);
    assert!(settings.nvme.bytes.unwrap().0 >= 256 << 20);
    assert!(settings.engine.socket.is_some());
}

#[test]
fn a_start_prints_sizes_and_addresses() {
    let home = Home::new();
    let kvd = home.start(&[]);
    for text in ["is ready", "32.0 MiB", "64.0 MiB", "blocks.kvd", &kvd.addresses.admin, &kvd.addresses.events, "kvd.sock"] {
        assert!(kvd.banner.contains(text), "`{text}` is missing:\n{}", kvd.banner);
    }
    assert!(!kvd.addresses.metrics.ends_with(":0"), "the bound port is told");
}

#[test]
fn every_setting_and_metric_is_in_the_references() {
    assert!(kvd(&["config", "--reference"]).contains("| `store_lease_ms` | `60000` |"));
    assert!(kvd(&["metrics", "--reference"]).contains("| `kvd_lookup_seconds` | histogram |"));
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let home = Home::new();
    home.write_config("[arena.x]\n");
    std::fs::write(home.config(), "[nvme]\nmax_write = 3\n").unwrap();
    let error = home.fail(&[]);
    assert!(error.contains("section [nvme] has no setting `max_write`, did you mean `max_writes`?"), "{error}");
}

#[test]
fn a_second_daemon_is_refused_naming_the_first() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let error = home.fail(&[]);
    let expected = format!("kvd (process {}) already serves {}", kvd.addresses.pid, home.socket().display());
    assert!(error.contains(&expected) && error.contains("--takeover"), "{error}");
}

#[test]
fn a_leftover_socket_is_replaced() {
    let home = Home::new();
    home.start(&[]).kill();
    assert!(home.socket().exists(), "a killed daemon leaves its socket");
    home.start(&[]).stop();
    assert!(!home.socket().exists(), "a stopped one does not");
}

#[test]
fn a_data_directory_that_cannot_be_used_names_the_way_out() {
    let home = Home::new();
    home.write_config("");
    std::fs::write(home.data(), "a file in its place").unwrap();
    let error = home.fail(&[]);
    assert!(error.contains("[nvme] path") && error.contains("[nvme] enabled = false"), "{error}");
}

#[test]
fn without_storage_it_serves_from_memory() {
    let home = Home::new();
    home.write_config("nvme.enabled = false");
    let kvd = home.start(&[]);
    assert_eq!(kvd.status().tiers.len(), 1);
    let mut engine = super::support::Engine::connect(&home.socket(), "e");
    let blocks = super::support::sequence(1, 8);
    engine.store(&blocks);
    engine.load(&blocks);
}

#[test]
fn another_protocol_version_is_refused_naming_both() {
    let home = Home::new();
    let _kvd = home.start(&[]);
    let mut future = hello(Role::Control, "e");
    future.protocol = 9;
    let (_, answer, arena) = greet(&home.socket(), &future);
    let HelloAnswer::Refusal(refusal) = answer else { panic!("{answer:?}") };
    assert!(refusal.why.contains("version 9") && refusal.why.contains("version 2"), "{}", refusal.why);
    assert!(arena.is_none());
}

#[test]
fn a_client_of_another_kind_is_disconnected_and_the_daemon_lives() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let mut stream = UnixStream::connect(home.socket()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    assert_eq!(kvd.status().engines, 0);
    assert!(kvd.http("/healthz").ends_with("ok\n"));
}
