//! The commands of `docs/vendors.md` work as they are printed.

use crate::support::{Bench, repository, said};
use std::process::Command;

/// The first block of commands that contains `what`.
fn commands(page: &str, what: &str) -> String {
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```"));
    blocks.map(|(block, _)| block.to_owned()).find(|block| block.contains(what)).unwrap()
}

#[test]
fn the_first_command_of_the_vendors_page_prints_a_report() {
    let bench = Bench::new();
    let page = std::fs::read_to_string(repository().join("docs/vendors.md")).unwrap();
    let command = commands(&page, "kvd bench").replace("/mnt/under-test", bench.medium().to_str().unwrap());
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_kvd")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh").args(["-ec", &command]).env("PATH", path).current_dir(repository()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let said = said(&output);
    for part in ["loaded from storage", "wrong bytes delivered                        0", "Latency", "ceiling of this tool"] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    assert!(bench.left().is_empty());
}
