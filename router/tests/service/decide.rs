//! Decisions: where requests go, and why.

use crate::support::{Engine, Router, tokens};
use serde_json::json;

const TWO: &str = "[[workers]]\nname = \"a\"\nmodel = \"m\"\nblock_tokens = 4\nurl = \"http://a\"\n\
                   [[workers]]\nname = \"b\"\nmodel = \"m\"\nblock_tokens = 4\nurl = \"http://b\"\n";

#[test]
fn a_request_goes_where_its_prefix_is_and_the_router_can_say_why() {
    let [a, b] = [Engine::start(16), Engine::start(16)];
    let router = Router::start(&(a.toml("a") + &b.toml("b")));
    router.wait_known("a");
    router.wait_known("b");
    b.store(&tokens(1, 4096), "GPU");
    router.wait_matched("m", &tokens(1, 4096), "b", 4096);
    let body = json!({"model_name": "m", "token_ids": tokens(1, 5000), "request_id": "r-1"});
    let (status, selected) = router.post("/select", &body);
    assert_eq!((status, &selected["worker"], &selected["url"]), (200, &json!("b"), &json!("http://b")), "{selected}");
    assert_eq!((&selected["mode"], &selected["terms"]["used_blocks"]), (&json!("kv"), &json!(256)));
    let (_, loads) = router.get("/loads");
    assert_eq!((&loads["workers"][0]["waiting"], &loads["workers"][1]["waiting"]), (&json!(0), &json!(1)));
    let explained = String::from_utf8(router.ask(&["explain", "r-1"]).stdout).unwrap();
    assert!(explained.contains("* b") && explained.contains("b won with"), "{explained}");
    assert_eq!(router.post("/prefill_complete", &json!({"request_id": "r-1", "prefill_ms": 35.5})).0, 200);
    assert_eq!(router.post("/finish", &json!({"request_id": "r-1", "output_tokens": 10})).0, 200);
    let (_, loads) = router.get("/loads");
    assert_eq!((&loads["workers"][1]["waiting"], &loads["workers"][1]["decoding"]), (&json!(0), &json!(0)));
}

#[test]
fn without_knowledge_it_falls_back_and_says_so() {
    let router = Router::start(TWO);
    let (status, selected) = router.post("/select", &json!({"model_name": "m", "token_ids": tokens(1, 100)}));
    assert_eq!((status, &selected["mode"]), (200, &json!("least_loaded")));
    assert!(selected["fallback"].as_str().unwrap().contains("not known where the blocks of any candidate are"), "{selected}");
    let (_, health) = router.get("/health");
    assert_eq!(health, json!({"status": "ok", "workers": 2, "unknown": 2}));
    let (_, metrics) = router.get("/metrics");
    assert!(metrics.as_str().unwrap().contains("kvd_router_decisions_all_unknown_total{model=\"m\"} 1\n"));
}

#[test]
fn a_request_waits_for_a_worker_with_room() {
    let router = Router::start(&TWO.replace("block_tokens = 4", "block_tokens = 4\nmax_requests = 1"));
    let ask = |id: &str| json!({"model_name": "m", "token_ids": [1, 2, 3], "request_id": id});
    assert_eq!(router.post("/select", &ask("r1")).0, 200);
    assert_eq!(router.post("/select", &ask("r2")).0, 200);
    std::thread::scope(|scope| {
        let third = scope.spawn(|| router.post("/select", &ask("r3")));
        crate::support::eventually("r3 waits", || router.get("/loads").1["queued"] == 1);
        assert_eq!(router.post("/finish", &json!({"request_id": "r1"})).0, 200);
        let (status, selected) = third.join().unwrap();
        assert_eq!(status, 200, "{selected}");
        assert!(selected["waited_ms"].as_f64().unwrap() > 0.0);
    });
}

#[test]
fn a_request_that_waits_longer_than_it_may_is_told() {
    let router = Router::start(&TWO.replace("block_tokens = 4", "block_tokens = 4\nmax_requests = 1"));
    for id in ["r1", "r2"] {
        assert_eq!(router.post("/select", &json!({"model_name": "m", "token_ids": [1], "request_id": id})).0, 200);
    }
    let late = json!({"model_name": "m", "token_ids": [1], "request_id": "r3", "deadline_ms": 100});
    let (status, answer) = router.post("/select", &late);
    assert_eq!(status, 503);
    assert!(answer["error"].as_str().unwrap().contains("the first token was due"), "{answer}");
}

#[test]
fn a_pinned_request_goes_where_it_is_pinned() {
    let router = Router::start(TWO);
    let (_, selected) = router.post("/select", &json!({"model_name": "m", "token_ids": [1], "worker": "b", "peek": true}));
    assert_eq!((&selected["worker"], &selected["mode"]), (&json!("b"), &json!("direct")));
    let (status, _) = router.post("/select", &json!({"model_name": "m", "token_ids": [1], "worker": "nobody"}));
    assert_eq!(status, 404);
}

#[test]
fn labels_and_adapters_keep_workers_out() {
    let config = TWO.replacen("url", "labels = { zone = \"x\" }\nadapters = [\"french\"]\nurl", 1);
    let router = Router::start(&config);
    let ask = |more: serde_json::Value| {
        let mut body = json!({"model_name": "m", "token_ids": [1], "peek": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        router.post("/select", &body)
    };
    assert_eq!(ask(json!({"required_labels": {"zone": "x"}})).1["worker"], "a");
    assert_eq!(ask(json!({"lora_name": "dutch"})).1["worker"], "b");
    let (status, answer) = ask(json!({"required_labels": {"zone": "y"}}));
    assert_eq!(status, 409);
    assert!(answer["error"].as_str().unwrap().contains("required label missing"), "{answer}");
}

#[test]
fn a_prompt_is_computed_elsewhere_when_that_is_quicker() {
    let role = |name: &str, role: &str| format!("[[workers]]\nname = \"{name}\"\nmodel = \"m\"\nblock_tokens = 16\nrole = \"{role}\"\n");
    let router = Router::start(&(role("d", "decode") + &role("p", "prefill")));
    let ask =
        |id: &str, first: u32| router.post("/select", &json!({"model_name": "m", "token_ids": tokens(first, 20_000), "request_id": id})).1;
    assert_eq!(ask("r1", 0).get("prefill"), None, "d is idle");
    let second = ask("r2", 50_000);
    assert_eq!(
        (&second["worker"], &second["prefill"]["worker"], &second["split"]),
        (&json!("d"), &json!("p"), &json!("elsewhere_is_quicker"))
    );
    let waiting =
        || router.get("/loads").1["workers"].as_array().unwrap().iter().map(|load| load["prefill_tokens"].clone()).collect::<Vec<_>>();
    assert_eq!(waiting(), [json!(20_000), json!(20_000)]);
    assert_eq!(router.post("/prefill_complete", &json!({"request_id": "r2"})).0, 200);
    assert_eq!(waiting(), [json!(20_000), json!(0)]);
    assert_eq!(router.post("/finish", &json!({"request_id": "r2", "output_tokens": 3})).0, 200);
}
