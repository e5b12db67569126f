//! Runs a bench and makes sure that its report can be read by a program.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::repository::Repository;

/// The benches that are not Rust: one measures inside a real engine's process, others drive peers whose clients are Python.
const IN_PYTHON: [(&str, &str); 3] =
    [("vllm_overhead", "tests/e2e/overhead.py"), ("peers", "benches/peers/main.py"), ("router_ingest", "benches/peers/router_ingest.py")];
/// Benches that compile a peer, each a workspace of its own.
const BESIDE_A_PEER: [(&str, &str); 1] = [("router_peer", "benches/router-peer/Cargo.toml")];
const ROW: [&str; 6] = ["metric", "unit", "ours", "reference", "ratio", "runs"];

/// Runs the bench `name`; without a name, lists them.
pub fn run(repository: &Repository, name: Option<&str>, arguments: &[String]) -> Result<()> {
    let known = names(repository)?;
    let Some(name) = name else {
        println!("{}", known.join("\n"));
        return Ok(());
    };
    if !known.iter().any(|known| known == name) {
        bail!("there is no bench `{name}`; there are {}", known.join(", "));
    }
    let started = SystemTime::now();
    repository.show(command(repository, name).args(arguments).env("KVD_BENCH_DIR", folder(repository)))?;
    let path = folder(repository).join(format!("{name}.json"));
    let written = fs::metadata(&path).and_then(|file| file.modified());
    ensure!(written.is_ok_and(|at| at >= started), "{name} wrote no {}", path.display());
    check(&fs::read_to_string(&path)?).with_context(|| path.display().to_string())
}

fn folder(repository: &Repository) -> PathBuf {
    repository.root().join("target/bench")
}

/// No `-p`: selecting every package keeps one set of features, and so one build of RocksDB.
fn command(repository: &Repository, name: &str) -> Command {
    if let Some((_, script)) = IN_PYTHON.iter().find(|(known, _)| *known == name) {
        let mut command = repository.command(&std::env::var("KVD_PYTHON").unwrap_or_else(|_| "python3".into()));
        command.arg(script);
        return command;
    }
    let mut command = repository.command("cargo");
    command.args(["run", "--release", "--quiet"]);
    match BESIDE_A_PEER.iter().find(|(known, _)| *known == name) {
        Some((_, manifest)) => command.args(["--locked", "--manifest-path", manifest, "--"]),
        None => command.args(["--bin", name, "--"]),
    };
    command
}

/// The benches there are: one file each.
fn names(repository: &Repository) -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(repository.root().join("benches/src/bin"))?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    let in_python = IN_PYTHON.iter().filter(|(_, script)| repository.root().join(script).is_file());
    names.extend(in_python.map(|(name, _)| (*name).to_owned()));
    let beside = BESIDE_A_PEER.iter().filter(|(_, manifest)| repository.root().join(manifest).is_file());
    names.extend(beside.map(|(name, _)| (*name).to_owned()));
    names.sort();
    Ok(names)
}

/// A report has a machine, a commit and rows, and each row has exactly the fields it promises.
fn check(report: &str) -> Result<()> {
    let report: Value = serde_json::from_str(report)?;
    ensure!(report["machine"].is_string() && report["commit"].is_string(), "machine or commit is missing");
    let rows = report["rows"].as_array().context("rows are missing")?;
    ensure!(!rows.is_empty(), "no row was measured");
    for row in rows {
        let row = row.as_object().context("a row is not an object")?;
        for field in ROW {
            ensure!(row.contains_key(field), "a row lacks `{field}`");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_without_rows_is_refused() {
        let error = check(r#"{"machine": "m", "commit": "c", "rows": []}"#).expect_err("no rows");
        assert_eq!(error.to_string(), "no row was measured");
    }

    #[test]
    fn a_row_must_have_every_field() {
        let row = |fields: &str| format!(r#"{{"machine": "m", "commit": "c", "rows": [{{{fields}}}]}}"#);
        let whole = r#""metric": "x", "unit": "s", "ours": 1, "reference": 2, "ratio": 2.0, "runs": 3"#;
        assert!(check(&row(whole)).is_ok());
        assert_eq!(check(&row(r#""metric": "x""#)).expect_err("short").to_string(), "a row lacks `unit`");
    }
}
