//! The example that is shipped is one the daemon takes.

use std::path::Path;

#[test]
fn the_shipped_example_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kvd.example.toml");
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return;
    }
    kvd::settings::load(&path).unwrap();
}
