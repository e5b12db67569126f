//! The example that is shipped is one the daemon takes, also with every line of it put to use.

use std::path::Path;

#[test]
fn the_shipped_example_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kvd.example.toml");
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return;
    }
    kvd::settings::load(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let used: Vec<&str> = text.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line)).collect();
    kvd::settings::parse(&used.join("\n"), "the example with every line in use").unwrap();
}

/// `key = value`, not a sentence.
fn is_setting(line: &str) -> bool {
    let key = line.split_once(" = ").map_or("", |(key, _)| key);
    !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}
