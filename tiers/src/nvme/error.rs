//! Why a slot file cannot be opened. Every text names the file and the way out.

use super::format::FORMAT_VERSION;
use std::io;
use std::path::PathBuf;

/// Why a slot file cannot be opened. Nothing was written to the file when one of these is returned.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum OpenError {
    /// A setting is impossible.
    #[error("slot file {}: {why}", path.display())]
    BadConfig { path: PathBuf, why: String },
    /// The folder is not there.
    #[error("slot file {}: its folder does not exist: create it, or mount the disk that holds it", path.display())]
    NoFolder { path: PathBuf },
    /// The kernel does not let us.
    #[error(
        "slot file {}: {source}: give kvd's user read and write permission on the file and its folder, or set another path",
        path.display()
    )]
    Permission { path: PathBuf, source: io::Error },
    /// The filesystem is too small.
    #[error(
        "slot file {}: needs {wanted_bytes} more bytes and its filesystem has {free_bytes} free: \
         free some, set a smaller capacity, or set a path on another disk",
        path.display()
    )]
    NoSpace { path: PathBuf, wanted_bytes: u64, free_bytes: u64 },
    /// The file is somebody else's.
    #[error("slot file {}: {why}, so it was left untouched: set another path, or move that file away", path.display())]
    NotOurs { path: PathBuf, why: String },
    /// The device is somebody else's.
    #[error(
        "block device {}: holds {found}, so it was left untouched: give another device, or, when nothing on it is needed, clear it \
         with `wipefs --all` or `blkdiscard`",
        path.display()
    )]
    ForeignDevice { path: PathBuf, found: String },
    /// The device is in use.
    #[error("block device {}: in use by {by}: give a device that nothing uses", path.display())]
    DeviceBusy { path: PathBuf, by: &'static str },
    /// The device is too small.
    #[error(
        "block device {}: {wanted_bytes} bytes are wanted and it has {device_bytes}: set a smaller capacity, or give a larger device",
        path.display()
    )]
    DeviceTooSmall { path: PathBuf, wanted_bytes: u64, device_bytes: u64 },
    /// The superblock and its copy are damaged.
    #[error(
        "slot file {}: its superblock is damaged, so it was left untouched: remove the file to start with an empty cache",
        path.display()
    )]
    Damaged { path: PathBuf },
    /// Written by a newer kvd.
    #[error(
        "slot file {}: format version {found}, this kvd reads up to {FORMAT_VERSION}: run the newer kvd, \
         or remove the file to start with an empty cache",
        path.display()
    )]
    Newer { path: PathBuf, found: u16 },
    /// Made with other settings.
    #[error(
        "slot file {}: made with {setting} = {found}, the settings say {wanted}: set it back, \
         or remove the file to start with an empty cache",
        path.display()
    )]
    OtherSettings { path: PathBuf, setting: &'static str, found: u64, wanted: u64 },
    /// Another kvd runs on it.
    #[error("slot file {}: in use by another running kvd: stop that one, or set another path", path.display())]
    Locked { path: PathBuf },
    /// io_uring was demanded and cannot be had.
    #[error(
        "slot file {}: io_uring cannot be used here: {source}: allow its system calls in the container's seccomp profile, \
         or set the I/O engine to `auto` or `posix`",
        path.display()
    )]
    NoUring { path: PathBuf, source: io::Error },
    /// Anything else the kernel said.
    #[error("slot file {}: {doing}: {source}", path.display())]
    Os { path: PathBuf, doing: &'static str, source: io::Error },
}
