//! What operators see and do.

use super::support::{Engine, Home, eventually, sequence};
use kvd_block::BlockState;
use serde_json::Value;

fn json(home: &Home, arguments: &[&str]) -> Value {
    let output = home.kvctl(&[&["--json"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(home: &Home, arguments: &[&str]) -> String {
    let output = home.kvctl(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn nobody_at_home_is_said_with_the_way_out() {
    let output = Home::new().kvctl(&["--address", "127.0.0.1:1", "status"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(error.contains("127.0.0.1:1") && error.contains("kvd serve"), "{error}");
}

#[test]
fn an_operator_sees_engines_layouts_and_blocks() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let blocks = sequence(1, 6);
    let mut engine = Engine::connect(&home.socket(), "vllm-1");
    engine.store(&blocks);
    eventually("all is written", || (kvd.counter("written") == 6).then_some(()));
    assert!(text(&home, &["sessions"]).contains("vllm-1"));
    let layouts = json(&home, &["layouts"]);
    assert_eq!((&layouts["layouts"][0]["cpu_blocks"], &layouts["layouts"][0]["storage_blocks"]), (&6.into(), &6.into()));
    assert!(text(&home, &["tiers"]).contains("STORAGE"));
    assert_eq!(json(&home, &["status"])["counters"]["kvd_stored_total"], 6);

    let tokens = (1..33).map(|token: u32| token.to_string()).collect::<Vec<_>>().join(",");
    let found = json(&home, &["inspect", "--layout", "0", "--tokens", &tokens]);
    let found = found["blocks"].as_array().unwrap();
    assert_eq!(found.len(), 8, "32 tokens are 8 blocks");
    assert_eq!(found[5]["media"], serde_json::json!(["CPU", "STORAGE"]));
    assert_eq!(found[5]["tokens"], serde_json::json!([21, 22, 23, 24]));
    assert_eq!(found[6]["known"], false);
    let hash = blocks[2].hash.to_string();
    assert!(text(&home, &["inspect", &hash]).contains("CPU STORAGE"));
}

#[test]
fn pins_are_set_and_ended() {
    let home = Home::new();
    let _kvd = home.start(&[]);
    let blocks = sequence(1, 2);
    Engine::connect(&home.socket(), "e").store(&blocks);
    let [first, unknown] = [blocks[0].hash.to_string(), "ab".repeat(16)];
    assert_eq!(json(&home, &["pin", "--layout", "0", &first, &unknown])["pinned_blocks"], 1);
    assert_eq!(json(&home, &["inspect", "--layout", "0", &first])["blocks"][0]["pinned"], true);
    assert!(text(&home, &["unpin", "--layout", "0", &first]).contains("unpinned"));
    assert_eq!(json(&home, &["inspect", "--layout", "0", &first])["blocks"][0]["pinned"], false);
    assert!(!home.kvctl(&["pin", "--layout", "9", &first]).status.success());
}

#[test]
fn a_purge_needs_confirmation_and_forgets() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let blocks = sequence(1, 5);
    let mut engine = Engine::connect(&home.socket(), "e");
    engine.store(&blocks);
    eventually("all is written", || (kvd.counter("written") == 5).then_some(()));
    assert!(!home.kvctl(&["purge", "--all"]).status.success());
    assert_eq!(engine.lookup(&blocks), vec![BlockState::Cpu; 5]);
    let gone = json(&home, &["purge", "--all", "--confirm"]);
    assert_eq!((&gone["cpu_blocks"], &gone["storage_blocks"]), (&5.into(), &5.into()));
    assert_eq!(engine.lookup(&blocks), vec![BlockState::Miss; 5]);
    drop(engine);
    kvd.stop();
    let _kvd = home.start(&[]);
    assert_eq!(Engine::connect(&home.socket(), "e").lookup(&blocks), vec![BlockState::Miss; 5], "for good");
}

#[test]
fn a_drain_refuses_stores_and_can_be_undone() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let mut engine = Engine::connect(&home.socket(), "e");
    text(&home, &["drain"]);
    assert!(kvd.status().draining);
    let request = kvd_proto::local::Request::PrepareStore { layout: engine.layout(), blocks: sequence(1, 1) };
    assert!(matches!(engine.ask(request), kvd_proto::local::Reply::Busy { .. }));
    text(&home, &["drain", "--undo"]);
    engine.store(&sequence(1, 1));
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let mut engine = Engine::connect(&home.socket(), "e");
    let blocks = sequence(1, 3);
    engine.store(&blocks);
    engine.lookup(&blocks);
    let metrics = kvd.http("/metrics");
    for line in
        ["kvd_stored_total 3", "kvd_tier_blocks{tier=\"cpu\"} 3", "kvd_engines 1", "kvd_lookup_seconds_count 1", "kvd_lookup_cpu_total 3"]
    {
        assert!(metrics.lines().any(|found| found == line), "`{line}` is missing:\n{metrics}");
    }
    assert!(kvd.http("/healthz").starts_with("HTTP/1.1 200"));
}
