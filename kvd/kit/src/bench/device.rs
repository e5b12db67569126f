//! What the kernel counts at the disk under a directory or behind a device name.
//!
//! Only disks are counted. A network filesystem, a memory filesystem or one that spans several disks has none that we could name,
//! and then the answer is that it is not known.

use rustix::fs::{FileType, major, minor, stat};
use std::path::{Path, PathBuf};

const SECTOR_BYTES: u64 = 512;

/// A disk, or a partition of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    folder: PathBuf,
    /// The kernel's name of the whole disk, such as `nvme0n1`.
    pub name: String,
    /// What its maker calls it; empty when the kernel does not know.
    pub model: String,
    /// Size of the whole disk.
    pub capacity_bytes: u64,
}

/// Bytes that went to and came from a disk since the machine was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Read.
    pub read_bytes: u64,
    /// Written.
    pub written_bytes: u64,
}

impl Disk {
    /// The disk under `path`, when there is exactly one and the kernel shows it.
    pub fn under(path: &Path) -> Option<Disk> {
        let found = stat(path).ok()?;
        let is_device = FileType::from_raw_mode(found.st_mode) == FileType::BlockDevice;
        let number = if is_device { found.st_rdev } else { found.st_dev };
        let folder = PathBuf::from(format!("/sys/dev/block/{}:{}", major(number), minor(number))).canonicalize().ok()?;
        let whole = if folder.join("partition").exists() { folder.parent()?.to_path_buf() } else { folder.clone() };
        let text = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let capacity_bytes = text(whole.join("size")).parse::<u64>().ok()? * SECTOR_BYTES;
        let disk = Disk {
            name: whole.file_name()?.to_string_lossy().into_owned(),
            model: text(whole.join("device/model")),
            capacity_bytes,
            folder,
        };
        disk.traffic().map(|_| disk)
    }

    /// What was read and written so far, by everybody.
    pub fn traffic(&self) -> Option<Traffic> {
        parse(&std::fs::read_to_string(self.folder.join("stat")).ok()?)
    }
}

/// The kernel's `stat` file of a disk: sectors read are its third number, sectors written its seventh.
fn parse(text: &str) -> Option<Traffic> {
    let numbers: Vec<u64> = text.split_whitespace().map_while(|number| number.parse().ok()).collect();
    Some(Traffic { read_bytes: numbers.get(2)? * SECTOR_BYTES, written_bytes: numbers.get(6)? * SECTOR_BYTES })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_are_taken_from_the_right_columns() {
        let traffic = parse("     100      2     8   55    44    3    16    7 0 9 9\n").unwrap();
        assert_eq!(traffic, Traffic { read_bytes: 8 * 512, written_bytes: 16 * 512 });
        assert_eq!(parse("1 2 3"), None);
    }

    #[test]
    fn a_filesystem_without_a_disk_has_none() {
        assert_eq!(Disk::under(Path::new("/proc")), None);
    }
}
