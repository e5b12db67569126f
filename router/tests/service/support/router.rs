//! The program in a process of its own.

use super::call;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running router. Dropped, it is killed.
pub struct Router {
    process: Child,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    _home: TempDir,
}

impl Router {
    /// Starts the program on free ports; `more` is added to its configuration.
    pub fn start(more: &str) -> Router {
        let home = TempDir::new().unwrap();
        let config = home.path().join("router.toml");
        std::fs::write(&config, format!("http.listen = \"127.0.0.1:0\"\ngrpc.listen = \"127.0.0.1:0\"\n{more}\n")).unwrap();
        let mut process = Command::new(program())
            .args(["serve", "--config"])
            .arg(&config)
            .env("KVD_LOG", std::env::var("KVD_LOG").unwrap_or_else(|_| "warn".into()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["http", http, "grpc", grpc] = words[..] else { panic!("it did not start: {line:?}, {:?}", process.wait()) };
        Router { process, http: http.parse().unwrap(), grpc: grpc.parse().unwrap(), _home: home }
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        call(self.http, "GET", path, "")
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        call(self.http, "POST", path, &body.to_string())
    }

    /// Tokens of `prompt` that `worker` has, in all media.
    pub fn matched(&self, model: &str, prompt: &[u32], worker: &str) -> u64 {
        let (status, answer) = self.post("/query", &json!({"model_name": model, "token_ids": prompt}));
        if status == 200 { answer["instances"][worker]["longest_matched"].as_u64().unwrap_or(0) } else { 0 }
    }

    /// Waits until `worker` has `tokens` of `prompt`.
    pub fn wait_matched(&self, model: &str, prompt: &[u32], worker: &str, tokens: u64) {
        eventually(&format!("{worker} has {tokens} tokens"), || self.matched(model, prompt, worker) == tokens);
    }

    /// Waits until all blocks of `worker` are known.
    pub fn wait_known(&self, worker: &str) {
        eventually(&format!("{worker} is known"), || {
            let (_, workers) = self.get("/workers");
            let found = workers.as_array().unwrap().iter().find(|found| found["spec"]["name"].to_string().trim_matches('"') == worker);
            found.is_some_and(|found| found["status"] == "active")
        });
    }

    /// Runs `kvd-router` with `arguments` against this one.
    pub fn ask(&self, arguments: &[&str]) -> Output {
        let address = self.grpc.to_string();
        Command::new(program()).arg(arguments[0]).args(["--address", &address]).args(&arguments[1..]).output().unwrap()
    }

    /// Asks it to stop, and waits.
    pub fn stop(mut self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(self.process.wait().unwrap().success(), "a router that is told to stop ends well");
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_kvd-router"))
}

/// Waits until `is_so`, and panics with `what` when it does not come to be.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
