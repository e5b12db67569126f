//! Where a bench ran: enough to know whether two reports can be compared, nothing that names a host.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

/// CPU model, cores, memory and kernel of this machine, in one line.
pub fn machine() -> String {
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    let cores = available_parallelism().map_or(1, usize::from);
    let memory_gib = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.trim_end_matches(" kB").trim().parse::<f64>().ok())
        .map_or(0.0, |kib| kib / 1_048_576.0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cpu}, {cores} cores, {memory_gib:.0} GiB, Linux {}", kernel.trim())
}

/// The commit the bench was run at, with `-dirty` when the tree differs from it; "unknown" outside a checkout.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "--short=12", "HEAD"]), git(&["status", "--porcelain", "--untracked-files=no"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit}-dirty"),
        (None, _) => "unknown".into(),
    }
}

/// The value of the first `name: value` line of a /proc file.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described_by_cpu_cores_and_kernel() {
        let machine = machine();
        assert!(machine.contains(" cores, ") && machine.contains("Linux "), "{machine}");
    }
}
