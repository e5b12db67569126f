//! A whole block device in the place of the slot file: opened for this process alone, and measured.
//!
//! `O_EXCL` without `O_CREAT` makes the kernel refuse a device that is mounted, part of a volume group or an array, or open
//! the same way elsewhere.

use super::error::OpenError;
use kvd_block::PAGE_BYTES;
use rustix::fs::ioctl_blksszget;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an open waits for the process before it to be gone: the kernel takes its io_uring apart after its end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether `path` is a block device. What is not there is none.
pub fn is_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}

/// Size of the block device at `path`. Needs the right to read it.
pub fn block_device_bytes(path: &Path) -> io::Result<u64> {
    size(&File::open(path)?)
}

/// Size of an open block device: its `metadata` says 0.
pub(crate) fn size(mut device: &File) -> io::Result<u64> {
    device.seek(SeekFrom::End(0))
}

/// Opens the device for direct I/O and for nobody else.
pub(crate) fn open(path: &Path) -> Result<File, OpenError> {
    let give_up = Instant::now() + PATIENCE;
    let device = loop {
        match OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT | libc::O_EXCL).open(path) {
            Ok(device) => break device,
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < give_up && !is_mounted(path) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(refusal(path, error)),
        }
    };
    let sector_bytes = u64::from(ioctl_blksszget(&device).map_err(|errno| refusal(path, errno.into()))?);
    if sector_bytes > PAGE_BYTES {
        let why = format!("its sectors are {sector_bytes} bytes, and kvd writes pages of {PAGE_BYTES}");
        return Err(OpenError::BadConfig { path: path.into(), why });
    }
    Ok(device)
}

fn refusal(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.raw_os_error() {
        Some(libc::EBUSY) if is_mounted(&path) => OpenError::DeviceBusy { path, by: "a mounted filesystem" },
        Some(libc::EBUSY) => OpenError::DeviceBusy { path, by: "a mounted partition, a volume group, an array, swap or another kvd" },
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => OpenError::Permission { path, source },
        _ => OpenError::Os { path, doing: "opening the device", source },
    }
}

/// Whether a mount names this device, by any of its names.
fn is_mounted(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(device) = std::fs::metadata(path) else { return false };
    let number = format!("{}:{}", rustix::fs::major(device.rdev()), rustix::fs::minor(device.rdev()));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(2) == Some(number.as_str()))
}
