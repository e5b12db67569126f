//! Where the daemon under test keeps its blocks: made by us, inside what we were given, and removed by us alone.
//!
//! A directory is never used itself, whatever is in it: a subdirectory with our process number is made, and only that is ever
//! removed. A block device is written over only when that was said, never while something is mounted from it or uses it, and is
//! blank at both ends afterwards.

use super::error::BenchError;
use crate::Target;
use kvd_tiers::nvme::wipe;
use rustix::fs::statvfs;
use std::path::{Path, PathBuf};

const GIB: u64 = 1 << 30;
/// The most that is taken without being asked for.
const MOST_BYTES: u64 = 32 * GIB;
/// The least that is worth measuring on.
const LEAST_BYTES: u64 = 64 << 20;
/// Cleared at the beginning of a device (and as much at its end): what says that something is on it.
const WIPED_BYTES: u64 = 1 << 20;
/// What a filesystem and the catalog need beside the blocks.
const SPARE_BYTES: u64 = 64 << 20;

/// The settings that make a daemon use the medium, and what must be removed afterwards.
#[derive(Debug)]
pub struct Place {
    /// `[nvme] path`.
    pub data: PathBuf,
    /// `[nvme] device`.
    pub device: Option<PathBuf>,
    /// `[nvme] medium`.
    pub medium: &'static str,
    /// `[nvme] bytes`; `None` for all of a device.
    pub bytes: Option<u64>,
    /// What lies on the medium under a name of ours.
    made: Option<PathBuf>,
    keep: bool,
}

impl Place {
    /// Checks the target and makes what is needed on it. `folder`: for what does not belong on the medium.
    pub fn prepare(target: &Target, bytes: Option<u64>, overwrite: bool, keep: bool, folder: &Path) -> Result<Place, BenchError> {
        let data = folder.join("data");
        let elsewhere = |medium, bytes, device| Ok(Place { data, device, medium, bytes, made: None, keep });
        match target {
            Target::Directory(path) => Place::in_directory(path, bytes, keep),
            Target::BlockDevice(path) if !overwrite => Err(BenchError::Place {
                path: path.clone(),
                why: "everything on this device would be lost; say --overwrite if nothing on it is needed".into(),
            }),
            Target::BlockDevice(path) => {
                wipe(path, WIPED_BYTES).map_err(|error| BenchError::Place { path: path.clone(), why: error.to_string() })?;
                elsewhere("file", bytes, Some(path.clone()))
            }
            Target::Memory => elsewhere("memory", Some(bytes.unwrap_or(GIB)), None),
            Target::Null => elsewhere("null", bytes, None),
        }
    }

    fn in_directory(path: &Path, bytes: Option<u64>, keep: bool) -> Result<Place, BenchError> {
        let refuse = |why: String| BenchError::Place { path: path.into(), why };
        let found = std::fs::metadata(path).map_err(|error| refuse(format!("{error}; give a directory on the medium to measure")))?;
        if !found.is_dir() {
            return Err(refuse("it is no directory; give a directory on the medium, or a block device".into()));
        }
        let path = path.canonicalize().map_err(|error| refuse(error.to_string()))?;
        let made = path.join(format!("kvd-bench-{}", std::process::id()));
        std::fs::create_dir(&made).map_err(|error| BenchError::Place { path: made.clone(), why: format!("cannot be made: {error}") })?;
        let mut place = Place { data: made.clone(), device: None, medium: "file", bytes: None, made: Some(made), keep: false };
        let space = statvfs(&path).map_err(|error| refuse(error.to_string()))?;
        let free = space.f_bavail * space.f_frsize;
        let wanted = bytes.unwrap_or_else(|| MOST_BYTES.min(free.saturating_sub(SPARE_BYTES) / 2).max(LEAST_BYTES));
        if wanted + SPARE_BYTES > free {
            return Err(BenchError::NoSpace { path, needed: wanted + SPARE_BYTES, free });
        }
        (place.bytes, place.keep) = (Some(wanted), keep);
        Ok(place)
    }

    /// What stays on the medium when all is done.
    pub fn kept(&self) -> Option<&Path> {
        self.made.as_deref().filter(|_| self.keep)
    }

    /// A path on the medium, for asking the kernel about it.
    pub fn medium_path(&self) -> Option<&Path> {
        self.device.as_deref().or(self.made.as_deref())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(made) = self.made.as_ref().filter(|_| !self.keep) {
            // What cannot be removed is seen by its name.
            let _ = std::fs::remove_dir_all(made);
        }
        if let Some(device) = self.device.as_ref().filter(|_| !self.keep) {
            // Then it is blank, as it is for whoever looks at it next.
            let _ = wipe(device, WIPED_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepare(target: &Target, bytes: Option<u64>) -> Result<Place, BenchError> {
        Place::prepare(target, bytes, false, false, Path::new("/nonexistent"))
    }

    #[test]
    fn a_directory_keeps_what_it_held_and_loses_what_we_made() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("blocks.kvd"), "precious").unwrap();
        let place = prepare(&Target::Directory(folder.path().into()), Some(1 << 20)).unwrap();
        assert!(place.data.starts_with(folder.path().canonicalize().unwrap()) && place.data.is_dir());
        std::fs::write(place.data.join("blocks.kvd"), "ours").unwrap();
        drop(place);
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["blocks.kvd"]);
        assert_eq!(std::fs::read_to_string(folder.path().join("blocks.kvd")).unwrap(), "precious");
    }

    #[test]
    fn more_than_there_is_names_both_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = prepare(&Target::Directory(folder.path().into()), Some(1 << 60)).unwrap_err().to_string();
        assert!(refusal.contains("needs 1.0 EiB") && refusal.contains("free") && refusal.contains("--storage-bytes"), "{refusal}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_takes_no_files_is_named() {
        let refusal = prepare(&Target::Directory("/proc".into()), Some(1)).unwrap_err().to_string();
        assert!(refusal.contains("/proc/kvd-bench-") && refusal.contains("cannot be made"), "{refusal}");
    }

    #[test]
    fn a_device_is_not_written_over_unless_that_was_said() {
        let refusal = prepare(&Target::BlockDevice("/dev/nvme9n9".into()), None).unwrap_err().to_string();
        assert!(refusal.contains("/dev/nvme9n9") && refusal.contains("--overwrite"), "{refusal}");
    }

    #[test]
    fn a_file_is_no_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(prepare(&Target::Directory(file.path().into()), None).unwrap_err().to_string().contains("no directory"));
        assert!(prepare(&Target::Directory("/nonexistent/x".into()), None).unwrap_err().to_string().contains("/nonexistent/x"));
    }
}
