//! Documents that the daemon writes about itself, so that they cannot be wrong.
//!
//! `docs/config.md` lists every setting, `docs/metrics.md` every metric. Both come from the declarations the code uses.

use std::fs;

use anyhow::{Result, ensure};

use crate::repository::Repository;

const GENERATED: [(&str, [&str; 2]); 2] = [("docs/config.md", ["config", "--reference"]), ("docs/metrics.md", ["metrics", "--reference"])];

/// Writes the documents, or with `check` only compares them.
pub fn run(repository: &Repository, check: bool) -> Result<()> {
    let mut stale = Vec::new();
    for (path, arguments) in GENERATED {
        let text = printed(repository, &arguments)?;
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

/// What `kvd ARGUMENTS` prints, with one newline at the end.
fn printed(repository: &Repository, arguments: &[&str]) -> Result<String> {
    // No `-p`: selecting every package keeps one set of features, and so one build of RocksDB.
    let run = [["run", "--release", "--quiet", "--bin", "kvd", "--"].as_slice(), arguments].concat();
    Ok(repository.output("cargo", &run)?.trim_end().to_owned() + "\n")
}
