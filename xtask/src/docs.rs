//! Documents that our programs write about themselves, so that they cannot be wrong.
//!
//! `docs/config.md` and `docs/router-config.md` list every setting, `docs/metrics.md` and `docs/router-metrics.md` every metric. All
//! come from the declarations the code uses.

use std::fs;

use anyhow::{Result, ensure};

use crate::repository::Repository;

/// Document, program, and what makes the program print it.
const GENERATED: [(&str, &str, &str); 4] = [
    ("docs/config.md", "kvd", "config"),
    ("docs/metrics.md", "kvd", "metrics"),
    ("docs/router-config.md", "kvd-router", "config"),
    ("docs/router-metrics.md", "kvd-router", "metrics"),
];

/// Writes the documents, or with `check` only compares them.
pub fn run(repository: &Repository, check: bool) -> Result<()> {
    let mut stale = Vec::new();
    for (path, program, what) in GENERATED {
        let text = printed(repository, program, what)?;
        if repository.file(path).is_some_and(|file| file.text == text) {
            continue;
        }
        stale.push(path);
        if !check {
            fs::write(repository.root().join(path), text)?;
            println!("docs: wrote {path}");
        }
    }
    ensure!(!check || stale.is_empty(), "{} differ from the code: run `cargo xtask docs`", stale.join(" and "));
    println!("docs: the generated documents match the code");
    Ok(())
}

/// What `PROGRAM WHAT --reference` prints, with one newline at the end.
fn printed(repository: &Repository, program: &str, what: &str) -> Result<String> {
    // No `-p`: selecting every package keeps one set of features, and so one build of RocksDB.
    let run = ["run", "--release", "--quiet", "--bin", program, "--", what, "--reference"];
    Ok(repository.output("cargo", &run)?.trim_end().to_owned() + "\n")
}
