//! Routers that restart, and two over the same workers.

use crate::support::{Engine, Router, eventually, tokens};
use serde_json::json;
use tempfile::TempDir;

#[test]
fn a_router_that_restarts_is_exact_again() {
    let engine = Engine::start(4);
    let config = engine.toml("a");
    let router = Router::start(&config);
    engine.store(&tokens(1, 400), "GPU");
    engine.remove(&tokens(1, 400), 50, "GPU");
    router.wait_matched("m", &tokens(1, 400), "a", 200);
    drop(router);
    engine.store(&tokens(1000, 40), "GPU");
    let router = Router::start(&config);
    router.wait_known("a");
    assert_eq!(router.matched("m", &tokens(1, 400), "a"), 200);
    assert_eq!(router.matched("m", &tokens(1000, 40), "a"), 40, "stored while no router ran");
    router.stop();
}

/// A configuration that keeps its state in a directory of its own.
fn kept(engine: &Engine) -> (TempDir, String) {
    let dir = TempDir::new().unwrap();
    let config = format!("state.path = \"{}\"\n{}", dir.path().join("state").display(), engine.toml("a"));
    (dir, config)
}

#[test]
fn what_a_publisher_can_no_longer_replay_is_known_from_the_state() {
    let engine = Engine::start(4);
    let (_dir, config) = kept(&engine);
    let router = Router::start(&config);
    router.wait_known("a");
    for first in [1, 1001, 2001, 3001] {
        engine.store(&tokens(first, 400), "GPU");
        router.wait_matched("m", &tokens(first, 400), "a", 400);
    }
    router.stop();
    engine.remove(&tokens(2001, 400), 50, "GPU");
    engine.lose_all_but(2);
    let router = Router::start(&config);
    router.wait_known("a");
    let matched = [1, 1001, 2001, 3001].map(|first| router.matched("m", &tokens(first, 400), "a"));
    assert_eq!(matched, [400, 400, 200, 400], "the state, and what happened since");
    assert_eq!(router.get("/workers").1[0]["listeners"]["0"]["complete"], true);
    let forgetful = Router::start(&engine.toml("a"));
    forgetful.wait_known("a");
    assert_eq!(forgetful.matched("m", &tokens(1, 400), "a"), 0, "nobody can tell it");
    assert_eq!(forgetful.get("/workers").1[0]["listeners"]["0"]["complete"], false);
}

#[test]
fn a_state_that_its_publisher_does_not_prove_is_not_believed() {
    let engine = Engine::start(4);
    let (events, replay) = (engine.events.clone(), engine.replay.clone());
    let (_dir, config) = kept(&engine);
    let router = Router::start(&config);
    engine.store(&tokens(1, 400), "GPU");
    router.wait_matched("m", &tokens(1, 400), "a", 400);
    router.stop();
    drop(engine);
    let engine = Engine::start_at(&events, &replay, 4);
    engine.store(&tokens(5001, 400), "GPU");
    let router = Router::start(&config);
    router.wait_matched("m", &tokens(5001, 400), "a", 400);
    assert_eq!(router.matched("m", &tokens(1, 400), "a"), 0, "that was another life");
}

#[test]
fn a_damaged_state_is_done_without() {
    let engine = Engine::start(4);
    let (dir, config) = kept(&engine);
    let router = Router::start(&config);
    engine.store(&tokens(1, 400), "GPU");
    router.wait_matched("m", &tokens(1, 400), "a", 400);
    router.stop();
    let path = dir.path().join("state");
    let sound = std::fs::read(&path).unwrap();
    for at in [0, 20, sound.len() / 2, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let router = Router::start(&config);
        router.wait_matched("m", &tokens(1, 400), "a", 400);
    }
    std::fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    let router = Router::start(&config);
    router.wait_matched("m", &tokens(1, 400), "a", 400);
}

#[test]
fn two_routers_over_the_same_workers_agree() {
    let engines = [Engine::start(4), Engine::start(4)];
    let config = engines[0].toml("a") + &engines[1].toml("b");
    let routers = [Router::start(&config), Router::start(&config)];
    for (engine, count) in engines.iter().zip([80, 400]) {
        engine.store(&tokens(1, count), "GPU");
        engine.store(&tokens(5000, 400 - count), "CPU");
    }
    for router in &routers {
        router.wait_known("a");
        router.wait_known("b");
        router.wait_matched("m", &tokens(1, 400), "b", 400);
        router.wait_matched("m", &tokens(5000, 400), "a", 320);
    }
    for first in [1, 5000, 9000] {
        let [one, other] =
            routers.each_ref().map(|router| router.post("/query", &json!({"model_name": "m", "token_ids": tokens(first, 400)})));
        assert_eq!(one, other);
        let body = json!({"model_name": "m", "token_ids": tokens(first, 400), "request_id": format!("r{first}")});
        let [one, other] = routers.each_ref().map(|router| router.post("/select", &body).1["worker"].clone());
        assert_eq!(one, other, "the same request goes to the same worker");
    }
}

#[test]
fn a_worker_whose_publisher_is_gone_is_unknown_until_it_is_back() {
    let engine = Engine::start(4);
    let (events, replay) = (engine.events.clone(), engine.replay.clone());
    let router = Router::start(&engine.toml("a"));
    engine.store(&tokens(1, 8), "GPU");
    router.wait_matched("m", &tokens(1, 8), "a", 8);
    drop(engine);
    eventually("it is noticed", || router.get("/health").1["unknown"] == 1);
    let (_, answer) = router.post("/query", &json!({"model_name": "m", "token_ids": tokens(1, 8)}));
    assert_eq!(answer["instances"]["a"]["longest_matched"], 0);
    assert!(answer["unknown"]["a"]["0"].is_string(), "{answer}");
    let _engine = Engine::start_at(&events, &replay, 4);
    router.wait_known("a");
}
