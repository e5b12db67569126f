//! Documents: a command they name exists, a file they link to is there.

use std::path::{Component, Path, PathBuf};

use crate::repository::{Repository, SourceFile};

/// What the repository has, against which documents are read.
#[derive(Debug, Default)]
pub struct Promises {
    root: PathBuf,
    targets: Vec<String>,
}

impl Promises {
    /// The targets of the Makefile.
    pub fn of(repository: &Repository) -> Self {
        let makefile = repository.file("Makefile").map(|file| file.text).unwrap_or_default();
        Self { root: repository.root().to_owned(), targets: targets(&makefile) }
    }

    /// Sentences about a Markdown file; none about others.
    pub fn check(&self, file: &SourceFile) -> Vec<String> {
        if !file.path.ends_with(".md") {
            return Vec::new();
        }
        let unknown = made(&file.text).into_iter().filter(|target| !self.targets.contains(target));
        let dead = links(&file.text).into_iter().filter(|link| !self.exists(&file.path, link));
        unknown
            .map(|target| format!(": `make {target}` is not in the Makefile"))
            .chain(dead.map(|link| format!(": links to {link}, which is not there")))
            .collect()
    }

    fn exists(&self, document: &str, link: &str) -> bool {
        let folder = Path::new(document).parent().unwrap_or(Path::new(""));
        let mut path = self.root.clone();
        for part in folder.join(link).components() {
            match part {
                Component::ParentDir => drop(path.pop()),
                part => path.push(part),
            }
        }
        path.exists()
    }
}

/// Names before a colon at the start of a line.
fn targets(makefile: &str) -> Vec<String> {
    let is_name = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(_, rest)| !rest.starts_with('='))
        .flat_map(|(names, _)| names.split(' '))
        .filter(is_name)
        .map(String::from)
        .collect()
}

/// The targets a document tells its reader to make: `make x` in code, inline or in a block.
fn made(document: &str) -> Vec<String> {
    let mut in_block = false;
    let mut found = Vec::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        let code: Vec<&str> = if in_block { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
        found.extend(code.iter().filter_map(|code| code.trim().trim_start_matches("$ ").strip_prefix("make ")).flat_map(words));
    }
    found
}

/// The leading words that can be targets: `test  # everything` names one, `bench NAME=x` too.
fn words(rest: &str) -> Vec<String> {
    rest.split_whitespace().take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-')).map(String::from).collect()
}

/// Targets of links to files: no addresses, no anchors.
fn links(document: &str) -> Vec<String> {
    document
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(link, _)| link.split('#').next().unwrap_or_default().to_owned())
        .filter(|link| !link.is_empty() && !link.contains("://") && !link.starts_with("mailto:"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    fn promises() -> Promises {
        Promises { root: PathBuf::from("/"), targets: targets("KVD_CACHE ?= x\ntest: build\n\tdo\nbuild lint:\n") }
    }

    #[test]
    fn a_document_may_only_name_targets_there_are() {
        let text = "Run `make test`.\n```\n$ make build   # quick\nmake love\n```\nmake haste.\n";
        assert_eq!(promises().check(&file("README.md", text)), [": `make love` is not in the Makefile"]);
    }

    #[test]
    fn a_link_must_lead_somewhere() {
        let text = "[a](/proc/self) [b](https://example.org) [c](#here) [d](../nowhere.md#x)";
        assert_eq!(promises().check(&file("docs/a.md", text)), [": links to ../nowhere.md, which is not there"]);
    }
}
