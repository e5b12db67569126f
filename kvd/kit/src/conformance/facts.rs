//! What the machine says of a target: filesystem, options, device, kernel, and which way blocks take.

use super::places::Place;
use crate::target::Target;
use rustix::fs::{AtFlags, CWD, StatxFlags, major, minor, stat, statvfs, statx};
use std::fs;
use std::path::Path;

/// Name and value of each fact, in the order of a report. What cannot be found out is left out.
pub fn facts(target: &Target, place: &Place) -> Vec<(String, String)> {
    let mut facts = vec![("Target".to_owned(), target.to_string())];
    let mut add = |name: &str, value: Option<String>| facts.extend(value.map(|value| (name.to_owned(), value)));
    let way = place.probe_line().unwrap_or_else(|error| format!("it cannot be opened: {error}"));
    add("Way of the blocks", Some(way));
    if let Some(path) = place.slots() {
        add("Alignment of direct I/O", alignment(path));
    }
    match target {
        Target::Directory(path) => {
            if let Some(mount) = mount_of(path) {
                add("Filesystem", Some(format!("{} on {}, mounted at {}", mount.kind, mount.source, mount.point)));
                add("Mount options", Some(mount.options));
            }
            add("Size", statvfs(path).ok().map(|stat| sizes(stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize)));
            add("Device", stat(path).ok().and_then(|stat| device(stat.st_dev)));
        }
        Target::BlockDevice(path) => {
            add("Size", kvd_tiers::nvme::block_device_bytes(path).ok().map(gibibytes));
            add("Device", stat(path).ok().and_then(|stat| device(stat.st_rdev)));
        }
        Target::Memory | Target::Null => {}
    }
    let system = rustix::system::uname();
    add("Kernel", Some(format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy())));
    add("Processors", std::thread::available_parallelism().ok().map(|count| format!("{count} × {}", processor())));
    facts
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn sizes(bytes: u64, free_bytes: u64) -> String {
    format!("{}, {} free", gibibytes(bytes), gibibytes(free_bytes))
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// What the kernel wants of direct I/O on this file; kernels before 6.1 do not say.
fn alignment(path: &Path) -> Option<String> {
    let wanted = StatxFlags::from_bits_retain(0x2000);
    let stat = statx(CWD, path, AtFlags::empty(), wanted).ok()?;
    let (memory, offset) = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
    (offset > 0).then(|| format!("memory {memory}, offsets {offset} bytes"))
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: String,
    kind: String,
    source: String,
    options: String,
}

fn mount_of(path: &Path) -> Option<Mount> {
    let path = path.canonicalize().ok()?;
    parse_mounts(&fs::read_to_string("/proc/self/mountinfo").ok()?, &path)
}

/// The last mount over the deepest folder that holds `path`.
fn parse_mounts(text: &str, path: &Path) -> Option<Mount> {
    let mounts = text.lines().filter_map(|line| {
        let (first, second) = line.split_once(" - ")?;
        let (mut first, mut second) = (first.split(' '), second.split(' '));
        let point = first.nth(4)?.replace("\\040", " ");
        let own = first.next()?;
        let (kind, source, whole) = (second.next()?, second.next()?, second.next()?);
        path.starts_with(&point).then(|| Mount { point, kind: kind.into(), source: source.into(), options: format!("{own}; {whole}") })
    });
    mounts.enumerate().max_by_key(|(nth, mount)| (mount.point.len(), *nth)).map(|(_, mount)| mount)
}

/// Model, sectors, cache and scheduler of a disk, from what sysfs says of it or of the disk it is a part of.
fn device(number: u64) -> Option<String> {
    let folder = format!("/sys/dev/block/{}:{}", major(number), minor(number));
    let folder = fs::canonicalize(folder).ok()?;
    let disk = if folder.join("queue").exists() { folder.as_path() } else { folder.parent()? };
    let read = |name: &str| fs::read_to_string(disk.join(name)).ok().map(|text| text.trim().to_owned());
    let mut parts = vec![disk.file_name()?.to_string_lossy().into_owned()];
    parts.extend(read("device/model"));
    parts.extend(read("queue/logical_block_size").map(|bytes| format!("sectors of {bytes} bytes")));
    parts.extend(read("queue/write_cache").map(|cache| format!("cache {cache}")));
    parts.extend(read("queue/scheduler").map(|scheduler| format!("scheduler {scheduler}")));
    Some(parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
        30 22 0:25 / /mnt/a\\040disk rw,noatime shared:3 - xfs /dev/nvme0n1 rw,attr2\n\
        31 22 0:26 / /mnt rw - tmpfs none rw";

    #[test]
    fn the_deepest_mount_is_named_with_its_options() {
        let mount = parse_mounts(MOUNTS, Path::new("/mnt/a disk/x")).unwrap();
        assert_eq!((mount.kind.as_str(), mount.source.as_str(), mount.options.as_str()), ("xfs", "/dev/nvme0n1", "rw,noatime; rw,attr2"));
        assert_eq!(parse_mounts(MOUNTS, Path::new("/home")).unwrap().point, "/");
        assert_eq!(parse_mounts(MOUNTS, Path::new("/mnt/b")).unwrap().kind, "tmpfs");
    }
}
