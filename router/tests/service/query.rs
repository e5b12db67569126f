//! Who has how much of a prompt, from real events over real sockets.

use crate::support::{Engine, Node, Router, eventually, tokens};
use serde_json::json;

#[test]
fn what_an_engine_publishes_is_found_by_tokens_and_by_hashes() {
    let engine = Engine::start(4);
    let router = Router::start(&engine.toml("7"));
    engine.store(&tokens(1, 12), "GPU");
    router.wait_matched("m", &tokens(1, 14), "7", 12);
    let (_, answer) = router.post("/query", &json!({"model_name": "m", "token_ids": tokens(1, 8)}));
    assert_eq!(answer["instances"]["7"], json!({"longest_matched": 8, "gpu": 8, "dp": {"0": 8}, "cpu": 8, "disk": 8}));
    assert_eq!(answer["scores"], json!({"7": {"0": 8}}));
    assert_eq!(answer["frequencies"], json!([1, 1]));
    // The published vectors of the routing hash, the second as clients without unsigned numbers write it.
    let hashes = json!([14643705804678351452u64, 16777012769546811212u64 as i64, 483935686894639516u64]);
    let (status, answer) = router.post("/query_by_hash", &json!({"model_name": "m", "block_hashes": hashes}));
    assert_eq!((status, &answer["instances"]["7"]["longest_matched"]), (200, &json!(12)));
}

#[test]
fn tiers_are_counted_one_upon_the_other() {
    let engine = Engine::start(4);
    let router = Router::start(&engine.toml("a"));
    engine.store(&tokens(1, 16), "CPU");
    engine.store(&tokens(1, 8), "GPU");
    engine.store(&tokens(1, 20), "STORAGE");
    router.wait_matched("m", &tokens(1, 20), "a", 20);
    let (_, answer) = router.post("/query", &json!({"model_name": "m", "token_ids": tokens(1, 20)}));
    assert_eq!(answer["instances"]["a"], json!({"longest_matched": 20, "gpu": 8, "dp": {"0": 8}, "cpu": 16, "disk": 20}));
}

#[test]
fn what_is_evicted_is_no_longer_found() {
    let engine = Engine::start(4);
    let router = Router::start(&engine.toml("a"));
    engine.store(&tokens(1, 16), "GPU");
    router.wait_matched("m", &tokens(1, 16), "a", 16);
    engine.remove(&tokens(1, 16), 1, "GPU");
    router.wait_matched("m", &tokens(1, 16), "a", 4);
}

#[test]
fn an_engine_that_restarts_has_what_its_new_life_stored() {
    let first = Engine::start(4);
    let (events, replay) = (first.events.clone(), first.replay.clone());
    let router = Router::start(&first.toml("a"));
    first.store(&tokens(1, 16), "GPU");
    router.wait_matched("m", &tokens(1, 16), "a", 16);
    drop(first);
    let second = Engine::start_at(&events, &replay, 4);
    eventually("the new life is followed", || {
        second.store(&tokens(100, 8), "GPU");
        router.matched("m", &tokens(100, 8), "a") == 8
    });
    assert_eq!(router.matched("m", &tokens(1, 16), "a"), 0, "what the old life had is gone");
}

#[test]
fn a_question_can_be_asked_on_the_command_line() {
    let engine = Engine::start(4);
    let router = Router::start(&engine.toml("a"));
    engine.store(&tokens(1, 8), "GPU");
    router.wait_matched("m", &tokens(1, 8), "a", 8);
    let answer = router.ask(&["query", "--model", "m", "--tokens", "1,2,3,4,5,6,7,8,9"]);
    let text = String::from_utf8(answer.stdout).unwrap();
    let line: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(line, ["a", "8", "2", "2", "0", "0", "0", "known"]);
}

#[test]
fn a_worker_has_what_its_engine_and_its_nodes_kvd_have_together() {
    let engine = Engine::start(4);
    let node = Node::start("/models/llama", 4, &tokens(1, 20));
    let worker = |name: &str| engine.toml(name) + "node = \"n\"\nkvd_model = \"/models/llama\"\n";
    let router = Router::start(&(worker("a") + &node.toml("n")));
    router.wait_known("a");
    engine.store(&tokens(1, 8), "GPU");
    engine.store(&tokens(1, 24), "STORAGE");
    router.wait_matched("m", &tokens(1, 24), "a", 24);
    let (_, answer) = router.post("/query", &json!({"model_name": "m", "token_ids": tokens(1, 24)}));
    assert_eq!(answer["instances"]["a"], json!({"longest_matched": 24, "gpu": 8, "dp": {"0": 8}, "cpu": 20, "disk": 24}));
    drop(node);
    eventually("without its kvd it is unknown", || router.get("/health").1["unknown"] == 1);
}

#[test]
fn a_worker_whose_node_nobody_tells_of_is_unknown_and_it_says_why() {
    let engine = Engine::start(4);
    let router = Router::start(&(engine.toml("a") + "node = \"n\"\n"));
    let (_, workers) = router.get("/workers");
    eventually("the engine itself is followed", || router.get("/workers").1[0]["listeners"]["0"]["complete"] == true);
    assert_eq!(workers[0]["status"], "pending");
    let (_, workers) = router.get("/workers");
    assert_eq!(workers[0]["listeners"]["0"]["status"], "the kvd of node `n`: not followed; no [[nodes]] tells of it");
}
