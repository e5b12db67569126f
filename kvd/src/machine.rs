//! What this machine has, and the sizes that follow from it when nobody sets them.
//!
//! ```text
//! arena   a quarter of the memory the daemon may use        64 MiB to 256 GiB, whole extents
//! nvme    the slot file as it is, else a quarter of free    256 MiB to 1 TiB; all of a block device
//! ```
//!
//! A quarter, because the engine's own process and the page cache need the rest, and because a cache must never be what
//! fills a machine.

use crate::settings::{ByteSize, MediumChoice, NvmeSettings, Settings};
use kvd_proto::local::default_socket_path;
use kvd_tiers::nvme::{DATA_START, block_device_bytes};
use rustix::fs::statvfs;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Name of the slot file inside the data directory.
pub const DATA_FILE: &str = "blocks.kvd";

/// `settings` with everything that was left open decided for this machine.
pub fn resolve(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    let arena = &mut settings.arena;
    let bytes = arena.bytes.map_or_else(|| (memory_bytes() / 4).clamp(64 * MIB, 256 * GIB), |size| size.0);
    let extent_bytes = arena.extent_bytes.map_or_else(|| extent_for(bytes), |size| size.0);
    arena.bytes = Some(ByteSize(whole(bytes, extent_bytes)));
    arena.extent_bytes = Some(ByteSize(extent_bytes));
    settings.engine.socket.get_or_insert_with(default_socket_path);
    let nvme = &mut settings.nvme;
    nvme.path.get_or_insert_with(default_data_dir);
    if nvme.enabled {
        let bytes = nvme.bytes.map_or_else(|| default_nvme_bytes(nvme), |size| size.0);
        let extent_bytes = nvme.extent_bytes.map_or_else(|| extent_for(bytes), |size| size.0);
        nvme.bytes = Some(ByteSize(whole(bytes, extent_bytes)));
        nvme.extent_bytes = Some(ByteSize(extent_bytes));
    }
    settings
}

fn whole(bytes: u64, extent_bytes: u64) -> u64 {
    bytes.checked_div(extent_bytes).map_or(bytes, |extents| extents.max(1) * extent_bytes)
}

/// 64 MiB hold 31 blocks of 2 MiB, so 3 % are lost to rounding; a small medium needs smaller pieces to serve several layouts.
fn extent_for(bytes: u64) -> u64 {
    if bytes >= GIB { 64 * MIB } else { (bytes / 16).next_power_of_two().clamp(MIB, 64 * MIB) }
}

/// Memory this process may use: of the machine, or of its control group where that is less.
pub fn memory_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_total(&text)).unwrap_or(4 * GIB);
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let own = own_group().map(|group| format!("/sys/fs/cgroup{group}/memory.max"));
    let limit = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    groups.into_iter().chain(own.as_deref()).filter_map(limit).fold(machine, u64::min)
}

fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn own_group() -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Whether the kernel was told never to back shared memory with 2 MiB pages, which is its default.
pub fn shared_memory_is_small_pages() -> bool {
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    setting.is_ok_and(|text| text.contains("[never]") || text.contains("[deny]"))
}

fn default_nvme_bytes(nvme: &NvmeSettings) -> u64 {
    match (nvme.medium, &nvme.device) {
        (MediumChoice::Memory, _) => (memory_bytes() / 4).clamp(64 * MIB, 256 * GIB),
        (MediumChoice::Null, _) => 256 * GIB,
        // A device that cannot be looked at says why when it is opened.
        (MediumChoice::File, Some(device)) => block_device_bytes(device).map_or(GIB, |bytes| bytes.saturating_sub(DATA_START)),
        (MediumChoice::File, None) => default_file_bytes(nvme.path.as_deref().unwrap_or(Path::new("/"))),
    }
}

fn default_file_bytes(dir: &Path) -> u64 {
    let existing = fs::metadata(dir.join(DATA_FILE)).map_or(0, |file| file.len());
    if existing > 2 * MIB {
        return existing - MIB;
    }
    (free_bytes(dir) / 4).clamp(256 * MIB, 1 << 40)
}

/// Free bytes of the filesystem that holds `dir`, or will hold it.
fn free_bytes(dir: &Path) -> u64 {
    let there = dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    statvfs(there).map_or(0, |stat| stat.f_bavail * stat.f_frsize)
}

/// `/var/lib/kvd` for root, else below the user's data directory.
pub fn default_data_dir() -> PathBuf {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if rustix::process::getuid().is_root() {
        return "/var/lib/kvd".into();
    }
    match (named("XDG_DATA_HOME"), named("HOME")) {
        (Some(data), _) => data.join("kvd"),
        (None, Some(home)) => home.join(".local/share/kvd"),
        (None, None) => format!("/tmp/kvd-{}/data", rustix::process::getuid().as_raw()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_decided_without_a_file() {
        let settings = resolve(&Settings::default());
        assert!(settings.arena.bytes.is_some_and(|size| size.0 >= 64 * MIB));
        assert!(settings.nvme.bytes.is_some() && settings.nvme.path.is_some() && settings.engine.socket.is_some());
    }

    #[test]
    fn sizes_are_whole_extents() {
        assert_eq!(extent_for(64 * MIB), 4 * MIB);
        assert_eq!(extent_for(100 * GIB), 64 * MIB);
        assert_eq!(whole(100 * MIB, 64 * MIB), 64 * MIB);
        assert_eq!(whole(MIB, 4 * MIB), 4 * MIB);
    }

    #[test]
    fn total_memory_is_read_as_the_kernel_prints_it() {
        assert_eq!(meminfo_total("MemFree: 1 kB\nMemTotal:       24559616 kB\n"), Some(24_559_616 * 1024));
    }
}
