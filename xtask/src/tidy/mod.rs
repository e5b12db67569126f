//! What the compiler does not check: sizes, names, headings, promises in documents.
//!
//! Every rule is a function from one file to sentences about it, so a rule is tested with a string.

mod documents;
mod lines;
mod names;
mod rust;

use anyhow::{Result, ensure};

use crate::repository::{Repository, SourceFile};

/// Checks every file of the checkout and prints what is wrong.
pub fn run(repository: &Repository) -> Result<()> {
    let violations = violations(repository)?;
    for violation in &violations {
        eprintln!("tidy: {violation}");
    }
    ensure!(violations.is_empty(), "{} places are not tidy", violations.len());
    println!("tidy: every file keeps the rules");
    Ok(())
}

/// What is wrong, one sentence each, in path order.
pub fn violations(repository: &Repository) -> Result<Vec<String>> {
    let promises = documents::Promises::of(repository);
    Ok(repository
        .files()?
        .iter()
        .flat_map(|file| {
            let found = [names::check(file), lines::check(file), rust::check(file), promises.check(file)].concat();
            found.into_iter().map(|sentence| format!("{}{sentence}", file.path))
        })
        .collect())
}

/// Whether a person wrote this file, by its ending.
fn is_source(file: &SourceFile) -> bool {
    const ENDINGS: [&str; 12] = ["rs", "py", "sh", "md", "toml", "proto", "yml", "yaml", "service", "json", "cfg", "ini"];
    let name = file.path.rsplit('/').next().unwrap_or_default();
    let fixture = file.path.contains("/fixtures/");
    !fixture && name != "Cargo.lock" && name.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.contains(&ending))
}

#[cfg(test)]
fn file(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.into(), text: text.into() }
}
