//! Rust files: what they open with, where `unsafe` may be, and which macros never ship.

use crate::repository::SourceFile;

/// The only places where `unsafe` may stand; everywhere else a crate forbids it.
const UNSAFE_ALLOWED: [&str; 4] = ["kvd/shm/", "tiers/src/nvme/", "engines-connectors/", "benches/"];

/// Crates that hold one of those places, so that their root cannot forbid it.
const UNSAFE_CRATES: [&str; 4] = ["kvd/shm/", "tiers/", "engines-connectors/", "benches/"];

/// Crates that only decide: time, files and threads are not theirs.
const PURE: [&str; 2] = ["kvd/block/src/", "kvd/ledger/src/"];
const IMPURE: [&str; 6] = ["Instant::now", "SystemTime::now", "std::fs", "std::net", "std::thread", "std::env"];

/// Macros for unfinished code. Split here so that this file does not contain them.
const UNFINISHED: [&str; 2] = [concat!("todo", "!("), concat!("unimplemented", "!(")];

/// Sentences about a Rust file; none about others.
pub fn check(file: &SourceFile) -> Vec<String> {
    if !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let mut found = Vec::new();
    if !file.text.starts_with("//!") {
        found.push(": does not open with `//!`".into());
    }
    if is_crate_root(&file.path) && !holds_unsafe(&file.path) && !file.text.contains("#![forbid(unsafe_code)]") {
        found.push(": a crate root without `#![forbid(unsafe_code)]`".into());
    }
    found.extend(file.text.lines().enumerate().flat_map(|(index, line)| about_line(file, index + 1, line)));
    found
}

fn about_line(file: &SourceFile, number: usize, line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    let mut found = Vec::new();
    if UNFINISHED.iter().any(|marker| code.contains(marker)) {
        found.push(format!(":{number}: unfinished code"));
    }
    if code.trim() == concat!("#[", "ignore]") {
        found.push(format!(":{number}: an ignored test without a reason"));
    }
    if PURE.iter().any(|place| file.path.starts_with(place)) {
        let impure = IMPURE.iter().filter(|call| code.contains(*call));
        found.extend(impure.map(|call| format!(":{number}: {call} in a pure crate")));
    }
    if is_unsafe(code) && !UNSAFE_ALLOWED.iter().any(|place| file.path.starts_with(place)) {
        found.push(format!(":{number}: `unsafe` outside {}", UNSAFE_ALLOWED.join(", ")));
    }
    found
}

fn is_unsafe(code: &str) -> bool {
    ["{", "fn", "impl", "trait", "extern"].iter().any(|what| code.contains(&format!("{} {what}", "unsafe")))
}

fn is_crate_root(path: &str) -> bool {
    let program = path.split_once("/src/bin/").is_some_and(|(_, rest)| !rest.contains('/') || rest.ends_with("/main.rs"));
    program || path.ends_with("src/lib.rs") || path.ends_with("src/main.rs")
}

fn holds_unsafe(path: &str) -> bool {
    UNSAFE_CRATES.iter().any(|place| path.starts_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn a_file_opens_by_saying_what_it_is() {
        assert_eq!(check(&file("kvd/src/a.rs", "use std::fs;\n")), [": does not open with `//!`"]);
    }

    #[test]
    fn a_crate_forbids_unsafe_unless_it_holds_some() {
        assert_eq!(check(&file("kvd/src/lib.rs", "//! x\n")), [": a crate root without `#![forbid(unsafe_code)]`"]);
        assert_eq!(check(&file("kvd/shm/src/lib.rs", "//! x\n")), [""; 0]);
    }

    #[test]
    fn a_pure_crate_reads_no_clock() {
        let found = check(&file("kvd/ledger/src/a.rs", "//! x\nlet now = Instant::now();\n"));
        assert_eq!(found, [":2: Instant::now in a pure crate"]);
    }

    #[test]
    fn unsafe_has_few_places() {
        let text = "//! x\nfn f() { unsafe { g() } }\n";
        assert_eq!(check(&file("tiers/src/nvme/ring.rs", text)), [""; 0]);
        assert_eq!(check(&file("tiers/src/catalog/a.rs", text)).len(), 1);
    }

    #[test]
    fn unfinished_and_silently_ignored_code_is_found() {
        let text = format!("//! x\n{})\n{}\n#[ignore = \"needs a GPU\"]\n", UNFINISHED[0], concat!("#[", "ignore]"));
        assert_eq!(check(&file("kvd/src/a.rs", &text)), [":2: unfinished code", ":3: an ignored test without a reason"]);
    }
}
