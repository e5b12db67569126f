//! Lines: how many, how they end, and what must not be written in one.

use super::is_source;
use crate::repository::SourceFile;

const MOST_LINES: usize = 600;

/// Text that belongs to one machine. Split here so that this file does not contain it.
const PRIVATE_PATHS: [&str; 2] = [concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Sentences about the file's lines.
pub fn check(file: &SourceFile) -> Vec<String> {
    if !is_source(file) {
        return Vec::new();
    }
    let mut found: Vec<String> = file.text.lines().enumerate().flat_map(|(index, line)| about_line(file, index + 1, line)).collect();
    let lines = file.text.lines().count();
    if lines > MOST_LINES {
        found.push(format!(": {lines} lines, {MOST_LINES} at most"));
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        found.push(": the last line has no end".into());
    }
    found
}

fn about_line(file: &SourceFile, number: usize, line: &str) -> Vec<String> {
    let mut found = Vec::new();
    if line.contains('\t') {
        found.push(format!(":{number}: a tab"));
    }
    if line.ends_with(' ') {
        found.push(format!(":{number}: a space at the end"));
    }
    if PRIVATE_PATHS.iter().any(|path| line.contains(path)) {
        found.push(format!(":{number}: a path of somebody's machine"));
    }
    if file.path.ends_with(".py") && skips_without_reason(line) {
        found.push(format!(":{number}: a skipped test without a reason"));
    }
    found
}

fn skips_without_reason(line: &str) -> bool {
    let Some((_, rest)) = line.split_once("pytest.mark.skip") else { return false };
    !rest.contains("reason=") && !rest.starts_with("if(") && !rest.ends_with('(')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn tabs_and_trailing_spaces_are_found_with_their_line() {
        assert_eq!(check(&file("a.py", "x\n\ty\nz \n")), [":2: a tab", ":3: a space at the end"]);
    }

    #[test]
    fn a_file_has_a_limit() {
        let text = "x\n".repeat(601);
        assert_eq!(check(&file("a.rs", &text)), [": 601 lines, 600 at most"]);
        assert_eq!(check(&file("Cargo.lock", &text)), [""; 0]);
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let line = format!("cd {}x\n", PRIVATE_PATHS[0]);
        assert_eq!(check(&file("a.sh", &line)), [":1: a path of somebody's machine"]);
    }

    #[test]
    fn a_skip_needs_a_reason() {
        let found = check(&file("a.py", "@pytest.mark.skip\n@pytest.mark.skip(reason=\"no GPU\")\n"));
        assert_eq!(found, [":1: a skipped test without a reason"]);
    }
}
