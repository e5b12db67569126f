//! Makes a target ready, or refuses it before a byte is written.

use super::places::Place;
use crate::target::Target;
use kvd_shm::{Arena, ArenaError, HugePages};
use kvd_tiers::OpenError;
use kvd_tiers::conformance::ARENA_BYTES;
use kvd_tiers::nvme::{DATA_START, block_device_bytes, holds, is_block_device, wipe};
use rustix::fs::{Access, access, statvfs};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MIB: u64 = 1 << 20;
/// Less than this holds too few blocks to say anything.
const LEAST_BYTES: u64 = 8 * MIB;
/// What is used when nobody says how much.
const USUAL_BYTES: u64 = 1 << 30;

/// How much of a target is used, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of blocks.
    pub capacity_bytes: u64,
    /// Bytes of each extent.
    pub extent_bytes: u64,
    /// Bytes of a filesystem's free space that may be taken for a moment, to see what a full disk does.
    pub scratch_bytes: u64,
}

/// Why a target is not examined. Nothing was written to it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum ConformanceError {
    /// It is no tier.
    #[error("null:// keeps nothing and promises nothing: it is the ceiling of `kvd bench`, and there is nothing to check")]
    Null,
    /// There is no such directory.
    #[error("{}: there is no such directory; {} exists: create the rest of the path, or mount the disk that holds it", path.display(), nearest.display())]
    NoDirectory { path: PathBuf, nearest: PathBuf },
    /// It is something else.
    #[error("{}: {is}; give a directory, or a block device as block://{}", path.display(), path.display())]
    NotADirectory { path: PathBuf, is: &'static str },
    /// It is something else.
    #[error("{}: this is no block device; give one, such as /dev/nvme1n1, or a directory as file://…", path.display())]
    NotADevice { path: PathBuf },
    /// The kernel does not let us.
    #[error("{}: {source}: run as a user who may write there, or give another target", path.display())]
    NotWritable { path: PathBuf, source: io::Error },
    /// Something is on it.
    #[error(
        "{}: the device holds {found}; it was left untouched. When nothing on it is needed, give --overwrite: ALL OF THAT IS THEN LOST",
        path.display()
    )]
    HoldsData { path: PathBuf, found: String },
    /// Too little room.
    #[error(
        "{target}: {wanted_bytes} bytes are wanted and {free_bytes} are free: give a smaller --bytes ({LEAST_BYTES} at least), or a larger target"
    )]
    TooSmall { target: String, wanted_bytes: u64, free_bytes: u64 },
    /// The tier refuses it.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// No memory for the images.
    #[error("{0}")]
    Arena(#[from] ArenaError),
    /// A check that there is not.
    #[error("there is no check and no group `{name}`{}; --list names them all", hint(nearest))]
    NoSuchCheck { name: String, nearest: Option<&'static str> },
    /// The target does not even answer this.
    #[error("{target}: it did not answer within {seconds} s while it was looked at: nothing was tried")]
    Hung { target: String, seconds: u64 },
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}

/// Makes `target` ready. `bytes` is how much of it is used (nobody said: 1 GiB, or what fits); `program` is started again as the
/// writer that is killed. Blocks for as long as the target takes.
pub fn prepare(
    target: &Target,
    bytes: Option<u64>,
    scratch_bytes: u64,
    overwrite: bool,
    program: PathBuf,
) -> Result<Place, ConformanceError> {
    let room = |free_bytes| sizes(target, bytes, free_bytes, scratch_bytes);
    let arena = || Arena::create(ARENA_BYTES, HugePages::Never).map(Arc::new);
    match target {
        Target::Null => Err(ConformanceError::Null),
        Target::Memory => Ok(Place::memory(room(USUAL_BYTES.max(bytes.unwrap_or(0)) + DATA_START)?, arena()?)),
        Target::Directory(path) => {
            check_directory(path)?;
            let stat = statvfs(path).map_err(|errno| not_writable(path, errno.into()))?;
            let sizes = room(stat.f_bavail * stat.f_frsize)?;
            let folder = path.join(format!("kvd-conformance.{}", std::process::id()));
            std::fs::create_dir(&folder).map_err(|source| not_writable(path, source))?;
            let place = Place::folder(folder, sizes, arena()?, program);
            // Here what cannot be opened at all is a bad target, later it is a broken promise.
            place.probe_line()?;
            Ok(place)
        }
        Target::BlockDevice(path) => {
            if !is_block_device(path) {
                return Err(ConformanceError::NotADevice { path: path.clone() });
            }
            let device_bytes = block_device_bytes(path).map_err(|source| not_writable(path, source))?;
            let sizes = room(device_bytes)?;
            match holds(path)? {
                Some(found) if !overwrite => return Err(ConformanceError::HoldsData { path: path.clone(), found }),
                Some(_) => wipe(path, DATA_START + sizes.capacity_bytes)?,
                None => {}
            }
            Ok(Place::device(path.clone(), sizes, arena()?, program))
        }
    }
}

fn not_writable(path: &Path, source: io::Error) -> ConformanceError {
    ConformanceError::NotWritable { path: path.into(), source }
}

fn check_directory(path: &Path) -> Result<(), ConformanceError> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(found) if found.is_file() => return Err(ConformanceError::NotADirectory { path: path.into(), is: "this is a file" }),
        Ok(_) => return Err(ConformanceError::NotADirectory { path: path.into(), is: "this is not a directory" }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let nearest = path.ancestors().skip(1).find(|parent| parent.exists()).unwrap_or(Path::new("."));
            let nearest = if nearest.as_os_str().is_empty() { Path::new(".") } else { nearest };
            return Err(ConformanceError::NoDirectory { path: path.into(), nearest: nearest.into() });
        }
        Err(source) => return Err(not_writable(path, source)),
    }
    access(path, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| not_writable(path, errno.into()))
}

/// How much is used, and in which pieces: wide ones where there is room for the widest blocks.
fn sizes(target: &Target, bytes: Option<u64>, free_bytes: u64, scratch_bytes: u64) -> Result<Sizes, ConformanceError> {
    let free_bytes = free_bytes.saturating_sub(DATA_START);
    let wanted_bytes = bytes.unwrap_or_else(|| USUAL_BYTES.min(free_bytes / 10 * 8)).max(if bytes.is_none() { LEAST_BYTES } else { 0 });
    if wanted_bytes > free_bytes || wanted_bytes < LEAST_BYTES {
        return Err(ConformanceError::TooSmall { target: target.to_string(), wanted_bytes, free_bytes });
    }
    let extent_bytes = (wanted_bytes / 8 / MIB * MIB).clamp(MIB, 32 * MIB);
    Ok(Sizes { capacity_bytes: wanted_bytes / extent_bytes * extent_bytes, extent_bytes, scratch_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_says_is_a_gibibyte_or_what_fits() {
        let of = |free_bytes| sizes(&Target::Memory, None, free_bytes, 0).map(|sizes| (sizes.capacity_bytes, sizes.extent_bytes));
        assert_eq!(of(1 << 40).unwrap(), (1 << 30, 32 << 20));
        assert_eq!(of(65 << 20).unwrap(), (48 << 20, 6 << 20));
        assert!(matches!(of(8 << 20), Err(ConformanceError::TooSmall { .. })));
    }

    #[test]
    fn a_size_that_does_not_fit_is_refused_with_both_sizes() {
        let error = sizes(&Target::Memory, Some(1 << 30), 100 << 20, 0).unwrap_err();
        assert!(
            matches!(error, ConformanceError::TooSmall { wanted_bytes: 0x4000_0000, free_bytes, .. } if free_bytes == 99 << 20),
            "{error}"
        );
    }
}
