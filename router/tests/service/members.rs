//! Registering, renewing, leaving.

use crate::support::{Engine, Router, call, eventually, tokens};
use serde_json::json;

#[test]
fn a_worker_registers_as_with_dynamo_is_listed_and_leaves() {
    let engine = Engine::start(4);
    let router = Router::start("");
    let body = json!({
        "instance_id": 7, "endpoint": engine.events, "replay_endpoint": engine.replay, "model_name": "m", "block_size": 4, "dp_rank": 0,
        "tenant_id": "default", "additional_salt": null,
    });
    assert_eq!(router.post("/register", &body), (201, json!({"status": "ok"})));
    router.wait_known("7");
    let (_, workers) = router.get("/workers?model_name=m");
    assert_eq!(workers[0]["instance_id"], 7);
    assert_eq!(workers[0]["endpoints"], json!({"0": engine.events}));
    assert_eq!(workers[0]["listeners"]["0"]["status"], "known");
    engine.store(&tokens(1, 4), "GPU");
    router.wait_matched("m", &tokens(1, 4), "7", 4);
    assert_eq!(router.post("/unregister", &json!({"instance_id": 7, "model_name": "m"})).0, 200);
    assert_eq!(router.get("/workers"), (200, json!([])));
    assert_eq!(router.post("/query", &json!({"model_name": "m", "token_ids": [1]})).0, 404);
}

#[test]
fn ranks_register_one_by_one_and_are_apart() {
    let [zero, one] = [Engine::start(4), Engine::start(4)];
    let router = Router::start("");
    for (rank, engine) in [(0, &zero), (1, &one)] {
        let body = json!({"instance_id": 1, "endpoint": engine.events, "model_name": "m", "block_size": 4, "dp_rank": rank});
        assert_eq!(router.post("/register", &body).0, 201);
    }
    router.wait_known("1");
    zero.store(&tokens(1, 8), "GPU");
    // The rank a message names is its publisher's own count; both say 0, so each is told by its endpoint.
    router.wait_matched("m", &tokens(1, 8), "1", 8);
    let (_, answer) = router.post("/query", &json!({"model_name": "m", "token_ids": tokens(1, 8)}));
    assert_eq!(answer["instances"]["1"]["dp"], json!({"0": 8, "1": 0}));
}

#[test]
fn a_lease_that_is_renewed_holds_and_one_that_is_not_ends() {
    let router = Router::start("");
    let worker = |name: &str, ttl: u64| json!({"name": name, "model": "m", "block_tokens": 16, "ttl_ms": ttl});
    let (status, answer) = router.post("/workers", &worker("stays", 60_000));
    assert_eq!((status, &answer["ttl_ms"]), (201, &json!(60_000)));
    assert_eq!(router.post("/heartbeat", &json!({"lease": answer["lease"]})).0, 200);
    let (_, lease) = router.post("/workers", &worker("goes", 300));
    let names = || -> Vec<String> {
        let (_, workers) = router.get("/workers");
        workers.as_array().unwrap().iter().map(|worker| worker["instance_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(), ["goes", "stays"]);
    eventually("the lease ends", || names() == ["stays"]);
    let (status, error) = router.post("/heartbeat", &json!({"lease": lease["lease"]}));
    assert_eq!(status, 404);
    assert!(error["error"].as_str().unwrap().ends_with("register again"), "{error}");
}

#[test]
fn a_second_block_size_is_refused_naming_both_and_the_first_stays() {
    let router = Router::start("[[workers]]\nname = \"a\"\nmodel = \"m\"\nblock_tokens = 16\n");
    let (status, error) = router.post("/workers", &json!({"name": "a", "model": "m", "block_tokens": 32}));
    let error = error["error"].as_str().unwrap();
    assert_eq!(status, 409);
    assert!(error.contains("blocks of 16 tokens of `m` (from the configuration)") && error.contains("blocks of 32 tokens"), "{error}");
    let (_, workers) = router.get("/workers");
    assert_eq!(workers[0]["block_size"], 16);
    assert_eq!(call(router.http, "DELETE", "/workers?name=a", "").0, 409, "the configuration's own");
}
