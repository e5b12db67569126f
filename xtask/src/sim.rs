//! Runs the simulation: a whole daemon in one thread, decided by a seed.

use anyhow::Result;

use crate::repository::Repository;

/// Runs `seeds` seeds starting at `from`. The first that fails is printed, and repeats with `--seeds 1 --from SEED`.
pub fn run(repository: &Repository, seeds: u64, from: u64) -> Result<()> {
    // No `-p`: selecting every package keeps one set of features, and so one build of RocksDB.
    let mut command = repository.command("cargo");
    command.args(["run", "--release", "--quiet", "--bin", "sim", "--"]);
    command.args(["--seeds", &seeds.to_string(), "--from", &from.to_string()]);
    repository.show(&mut command)
}
