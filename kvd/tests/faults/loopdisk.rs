//! A small real filesystem in a file, mounted by a loop device; gone when dropped.

use super::place::base;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Why there can be none here.
pub fn lacking() -> Option<String> {
    static LACKING: OnceLock<Option<String>> = OnceLock::new();
    LACKING
        .get_or_init(|| {
            if !rustix::process::geteuid().is_root() {
                return Some("only root may mount a loop device".into());
            }
            LoopDisk::try_new(16).err()
        })
        .clone()
}

#[derive(Debug)]
pub struct LoopDisk {
    image: PathBuf,
    mount: PathBuf,
}

impl LoopDisk {
    /// An ext4 of `mib` MiB.
    pub fn new(mib: u64) -> LoopDisk {
        LoopDisk::try_new(mib).unwrap()
    }

    fn try_new(mib: u64) -> Result<LoopDisk, String> {
        let name = tempfile::Builder::new().prefix("disk-").tempdir_in(base()).map_err(|error| error.to_string())?.keep();
        let (image, mount) = (name.join("image"), name.join("mount"));
        fs::create_dir(&mount).map_err(|error| error.to_string())?;
        let file = fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(mib << 20).map_err(|error| error.to_string())?;
        let disk = LoopDisk { image, mount };
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &text(&disk.image)])?;
        run("mount", &["-o", "loop,errors=remount-ro", &text(&disk.image), &text(&disk.mount)])?;
        Ok(disk)
    }

    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// What ext4 does when the disk under it fails: it turns read-only at once, whoever writes.
    pub fn fail(&self) -> Result<(), String> {
        run("mount", &["-o", "remount,abort", &text(&self.mount)])
    }

    /// Unmounts it, has it checked, and mounts it again.
    pub fn mount_again(&self) -> Result<(), String> {
        // The kernel takes an io_uring apart after its process is gone.
        super::support::eventually("it is not in use", || run("umount", &[&text(&self.mount)]).ok());
        // Finds something to mend, and says so by its exit code.
        let _ = run("e2fsck", &["-p", "-f", &text(&self.image)]);
        run("mount", &["-o", "loop", &text(&self.image), &text(&self.mount)])
    }

    /// Fills it with other data to the last block.
    pub fn fill(&self, name: &str) -> PathBuf {
        use std::io::Write;
        let path = self.mount.join(name);
        let mut file = fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096, 512] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
        let _ = file.sync_all();
        path
    }

    pub fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.mount).map_or(0, |stat| stat.f_bavail * stat.f_frsize)
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", &text(&self.mount)]);
        let _ = self.image.parent().map(fs::remove_dir_all);
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())) }
}
