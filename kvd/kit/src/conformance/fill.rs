//! Takes the free space of a filesystem for as long as it lives.

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;
use std::fs::{File, remove_file};
use std::path::{Path, PathBuf};

const PAGE_BYTES: u64 = 4096;

/// A file over all the free space. Dropping it gives the space back.
#[derive(Debug)]
pub(crate) struct Fill {
    path: PathBuf,
}

impl Fill {
    /// Fills the filesystem of the folder, if that takes no more than `most_bytes`.
    pub fn take(folder: &Path, most_bytes: u64) -> Result<Fill, String> {
        let path = folder.join("fill");
        let failed = |error: std::io::Error| format!("the disk cannot be filled: {error}");
        let file = File::create(&path).map_err(failed)?;
        let fill = Fill { path };
        let stat = fstatvfs(&file).map_err(|errno| failed(errno.into()))?;
        // Root may use what is kept back for root.
        let free_bytes = stat.f_bfree * stat.f_frsize;
        if free_bytes > most_bytes {
            return Err(format!(
                "the filesystem has {free_bytes} bytes free and --scratch-bytes allows {most_bytes}: give more, or a small filesystem"
            ));
        }
        let (mut filled, mut step) = (0, free_bytes.max(PAGE_BYTES));
        while step >= PAGE_BYTES {
            match fallocate(&file, FallocateFlags::empty(), filled, step) {
                Ok(()) => filled += step,
                Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => step /= 2,
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        Ok(fill)
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        let _ = remove_file(&self.path);
    }
}
