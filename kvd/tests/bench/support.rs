//! Starts `kvd bench` on a folder of its own.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A medium (a folder) and a place for reports.
pub struct Bench {
    folder: TempDir,
}

impl Bench {
    pub fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("medium")).unwrap();
        Bench { folder }
    }

    pub fn medium(&self) -> PathBuf {
        self.folder.path().join("medium")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `kvd bench` on the medium, writing `report.json`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = kvd();
        command.arg("--tier").arg(self.medium()).arg("--json").arg(self.file("report.json")).args(arguments);
        command
    }

    /// The same with small blocks of a slice of a real trace, so that memory is soon full and storage is read.
    pub fn small(&self, arguments: &[&str]) -> Command {
        let trace = trace("weka_agentic_6_sessions.jsonl.gz");
        let sizes = ["--bytes-per-token", "1024", "--max-input-tokens", "8192", "--arena-bytes", "16MiB", "--storage-bytes", "256MiB"];
        let pace = ["--concurrency", "2", "--think-ms", "0"];
        let mut command = self.command(&["--trace", trace.to_str().unwrap()]);
        command.args(sizes).args(pace).args(arguments);
        command
    }

    pub fn report(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.file("report.json")).unwrap()).unwrap()
    }

    /// What lies on the medium.
    pub fn left(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.medium()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

pub fn kvd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvd"));
    command.arg("bench");
    command
}

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

pub fn trace(name: &str) -> PathBuf {
    repository().join("tests/fixtures/traces").join(name)
}

pub fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What `look` finds, as soon as it finds something.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match look() {
            Some(found) => return found,
            None if Instant::now() > until => panic!("{what}: not within a minute"),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
