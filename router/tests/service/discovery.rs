//! Workers that a directory of files tells of.

use crate::support::{Router, eventually};
use std::fs;
use tempfile::TempDir;

fn worker(name: &str) -> String {
    format!("[[workers]]\nname = \"{name}\"\nmodel = \"m\"\nblock_tokens = 16\n")
}

fn names(router: &Router) -> Vec<String> {
    let (_, workers) = router.get("/workers");
    workers.as_array().unwrap().iter().map(|worker| worker["instance_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn files_come_change_and_go() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.toml"), worker("a")).unwrap();
    let router = Router::start(&format!("discovery.directory = \"{}\"\ndiscovery.poll_ms = 20", dir.path().display()));
    eventually("a is there", || names(&router) == ["a"]);
    fs::write(dir.path().join("b.json"), r#"{"workers": [{"name": "b", "model": "m", "block_tokens": 16}]}"#).unwrap();
    eventually("b is there", || names(&router) == ["a", "b"]);
    fs::write(dir.path().join("a.toml"), worker("c")).unwrap();
    eventually("c took the place of a", || names(&router) == ["b", "c"]);
    // Half a file says nothing new.
    fs::write(dir.path().join("a.toml"), &worker("d")[..20]).unwrap();
    fs::write(dir.path().join("e.toml"), worker("e")).unwrap();
    eventually("e is there", || names(&router) == ["b", "c", "e"]);
    fs::write(dir.path().join("a.toml"), worker("d")).unwrap();
    fs::remove_file(dir.path().join("b.json")).unwrap();
    eventually("b is gone, and d there", || names(&router) == ["d", "e"]);
}

#[test]
fn a_file_that_contradicts_another_does_not_win() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.toml"), worker("a")).unwrap();
    let router = Router::start(&format!("discovery.directory = \"{}\"\ndiscovery.poll_ms = 20", dir.path().display()));
    eventually("a is there", || names(&router) == ["a"]);
    fs::write(dir.path().join("b.toml"), worker("a").replace("16", "32") + &worker("b")).unwrap();
    eventually("the rest of the file holds", || names(&router) == ["a", "b"]);
    let (_, workers) = router.get("/workers");
    assert_eq!(workers[0]["block_size"], 16);
}
