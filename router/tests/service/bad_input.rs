//! What is refused, and how it is said.

use crate::support::{Engine, Router, call, eventually, tokens};
use serde_json::{Value, json};

const ONE: &str = "[[workers]]\nname = \"a\"\nmodel = \"m\"\nblock_tokens = 4\n";

fn error((status, answer): (u16, Value)) -> (u16, String) {
    (status, answer["error"].as_str().unwrap_or_else(|| panic!("no error in {answer}")).to_owned())
}

#[test]
fn a_body_that_is_not_json_is_refused_with_the_place() {
    let router = Router::start(ONE);
    let (status, text) = error(call(router.http, "POST", "/query", "{\"token_ids\": [1, 2"));
    assert_eq!(status, 400);
    assert!(text.contains("EOF while parsing a list at line 1 column 19"), "{text}");
}

#[test]
fn a_value_of_the_wrong_type_and_a_missing_one_are_named() {
    let router = Router::start(ONE);
    let (_, text) = error(router.post("/query", &json!({"model_name": "m", "token_ids": [1, "two"]})));
    assert!(text.contains("invalid type: string \"two\", expected u32"), "{text}");
    let (_, text) = error(router.post("/query", &json!({"token_ids": [1]})));
    assert!(text.contains("missing field `model_name`"), "{text}");
    let (_, text) = error(router.post("/query", &json!({"model_name": "m", "token_ids": [-1]})));
    assert!(text.contains("-1"), "{text}");
    let (_, text) = error(router.post("/workers", &json!({"name": "b", "model": "m", "block_tokens": 4, "event": "tcp://h:1"})));
    assert!(text.contains("unknown field `event`"), "{text}");
    let (_, text) = error(router.post("/workers", &json!({"name": "b", "model": "m"})));
    assert!(text.contains("worker `b` has no `block_tokens`"), "{text}");
}

#[test]
fn a_huge_body_is_refused_and_the_service_goes_on() {
    let router = Router::start(&format!("http.max_body_bytes = \"4KiB\"\n{ONE}"));
    let prompt = tokens(0, 10_000);
    let (status, text) = error(router.post("/query", &json!({"model_name": "m", "token_ids": prompt})));
    assert_eq!(status, 413);
    assert!(text.contains("larger than 4096 bytes"), "{text}");
    assert_eq!(router.get("/health").0, 200);
}

#[test]
fn an_unknown_model_is_told_which_are_known() {
    let router = Router::start(ONE);
    let answer = error(router.post("/query", &json!({"model_name": "n", "token_ids": [1]})));
    assert_eq!(answer, (404, "no worker serves the model `n`: those served are `m`".to_owned()));
    let empty = Router::start("");
    let (_, text) = error(empty.post("/query", &json!({"model_name": "n", "token_ids": [1]})));
    assert!(text.contains("no worker is registered at all"), "{text}");
}

#[test]
fn hashes_of_another_block_size_are_refused() {
    let router = Router::start(ONE);
    let body = json!({"model_name": "m", "block_hashes": [1, 2], "block_size": 16});
    let (status, text) = error(router.post("/query_by_hash", &body));
    assert_eq!((status, text.contains("blocks of 16 tokens") && text.contains("blocks of 4")), (400, true), "{text}");
    let (status, text) = error(router.post("/query_by_hash", &json!({"model_name": "m", "block_hashes": [1], "cache_salt": "s"})));
    assert_eq!((status, text.contains("leave it out")), (400, true), "{text}");
}

#[test]
fn places_and_methods_that_do_not_exist_are_said_in_json() {
    let router = Router::start("");
    assert_eq!(error(router.get("/nowhere")).0, 404);
    assert_eq!(error(router.get("/query")).0, 405);
    assert_eq!(error(router.get("/explain/never-seen")).0, 404);
    assert_eq!(error(router.post("/finish", &json!({"request_id": "never-seen"}))).0, 404);
}

#[test]
fn a_payload_that_cannot_be_read_harms_nothing_that_comes_after() {
    let engine = Engine::start(4);
    let router = Router::start(&engine.toml("a"));
    engine.store(&tokens(1, 8), "GPU");
    router.wait_matched("m", &tokens(1, 8), "a", 8);
    engine.publish_payload(b"\xc1 this is not MessagePack".to_vec());
    eventually("what comes after is followed", || {
        engine.store(&tokens(100, 8), "GPU");
        router.matched("m", &tokens(100, 8), "a") == 8
    });
}

#[test]
fn a_worker_that_publishes_another_block_size_than_it_said_is_unknown_naming_both() {
    let engine = Engine::start(8);
    let router = Router::start(&engine.toml("a").replace("block_tokens = 8", "block_tokens = 4"));
    eventually("the mismatch is named", || {
        engine.store(&tokens(1, 16), "GPU");
        let (_, workers) = router.get("/workers");
        let status = workers[0]["listeners"]["0"]["status"].as_str().unwrap().to_owned();
        status.contains("blocks of 4 tokens") && status.contains("blocks of 8")
    });
    assert_eq!(router.matched("m", &tokens(1, 16), "a"), 0);
}
