//! Runs the simulation: a whole daemon in one thread, decided by a seed.

use anyhow::Result;

use crate::repository::Repository;

/// Runs `seeds` seeds starting at `from`, and prints what they met. The first that fails ends the run and prints the command that
/// replays it; `trace` prints every step.
pub fn run(repository: &Repository, seeds: u64, from: u64, trace: bool) -> Result<()> {
    // No `-p`: selecting every package keeps one set of features, and so one build of RocksDB.
    let mut command = repository.command("cargo");
    command.args(["run", "--release", "--quiet", "--bin", "sim", "--"]);
    command.args(["--seeds", &seeds.to_string(), "--from", &from.to_string()]);
    if trace {
        command.arg("--trace");
    }
    repository.show(&mut command)
}
