//! The open slot file or block device: created, checked, grown and locked.
//!
//! Never overwrites a file or a device that is not kvd's. The superblock is written before the file gets its full length, so a crash
//! while making it leaves either an empty file or a short one, and both are completed by the next open.

use super::block;
use super::config::NvmeConfig;
use super::error::OpenError;
use super::foreign::Ends;
use super::format::{COPY_AT, DATA_START, FORMAT_VERSION, NoSuperblock, Page, Superblock};
use crate::tier::TierLimits;
use kvd_block::{Checksum, PAGE_BYTES, SlotIndex};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, fstatfs, fstatvfs};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::{info, warn};

/// Slot addresses are 32-bit page numbers.
const MOST_CAPACITY_BYTES: u64 = PAGE_BYTES << 32;
/// Type of every filesystem that a process serves.
const FUSE_MAGIC: rustix::fs::FsWord = 0x6573_5546;
/// How long an open waits for the process before it to be gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// The slot file, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct Device {
    pub file: File,
    pub path: PathBuf,
    pub direct: bool,
    /// The filesystem may wait for its device while an I/O is being submitted, as FUSE does.
    pub waits: bool,
    pub limits: TierLimits,
    pub file_id: [u8; 16],
    /// Pages of each slot of each extent as its label on the file says; 0 when that is not known.
    labels: Vec<AtomicU32>,
}

impl Device {
    pub fn open(config: &NvmeConfig) -> Result<Device, OpenError> {
        let limits = limits(config)?;
        let is_block = block::is_block_device(&config.path);
        let (file, direct) = if is_block { (block::open(&config.path)?, true) } else { open_file(&config.path)? };
        lock(&file, &config.path)?;
        let opening = Opening { file: &file, path: &config.path, limits };
        let superblock = match is_block {
            true => opening.take_device()?,
            false => match opening.length()? {
                0 => opening.make()?,
                length => opening.adopt(length)?,
            },
        };
        let labels = (0..limits.capacity_bytes / limits.extent_bytes).map(|_| AtomicU32::new(0)).collect();
        let waits = fstatfs(&file).is_ok_and(|stat| stat.f_type == FUSE_MAGIC);
        Ok(Device { file, path: config.path.clone(), direct, waits, limits, file_id: superblock.file_id, labels })
    }

    /// Offset in the file of a slot address.
    pub fn file_offset(&self, address: SlotIndex) -> u64 {
        DATA_START + address.offset_bytes()
    }

    /// Address of the first page of the extent that holds `address`.
    pub fn extent_start(&self, address: SlotIndex) -> SlotIndex {
        let extent_pages = (self.limits.extent_bytes / PAGE_BYTES) as u32;
        SlotIndex(address.0 - address.0 % extent_pages)
    }

    /// Notes that the extent of `address` holds slots of `slot_pages` pages; true when its label must be written for that.
    pub fn relabel(&self, address: SlotIndex, slot_pages: u32) -> bool {
        self.label(address).swap(slot_pages, Ordering::Relaxed) != slot_pages
    }

    /// Forgets what the extent's label says, because writing it failed.
    pub fn forget_label(&self, address: SlotIndex) {
        self.label(address).store(0, Ordering::Relaxed);
    }

    fn label(&self, address: SlotIndex) -> &AtomicU32 {
        &self.labels[(address.offset_bytes() / self.limits.extent_bytes) as usize]
    }
}

fn limits(config: &NvmeConfig) -> Result<TierLimits, OpenError> {
    let bad = |why: String| OpenError::BadConfig { path: config.path.clone(), why };
    let extent_bytes = config.extent_bytes;
    if extent_bytes < 2 * PAGE_BYTES || !extent_bytes.is_multiple_of(PAGE_BYTES) {
        return Err(bad(format!("extents of {extent_bytes} bytes: must be a multiple of {PAGE_BYTES}, two at least")));
    }
    let capacity_bytes = config.capacity_bytes / extent_bytes * extent_bytes;
    if capacity_bytes == 0 || capacity_bytes > MOST_CAPACITY_BYTES {
        let given = config.capacity_bytes;
        return Err(bad(format!("capacity of {given} bytes: must be from one extent ({extent_bytes}) to {MOST_CAPACITY_BYTES}")));
    }
    if config.max_inflight_blocks == 0 || config.queue_depth == 0 || config.queue_depth > 4096 {
        return Err(bad("max_inflight_blocks must be at least 1 and queue_depth 1 to 4096".into()));
    }
    Ok(TierLimits { capacity_bytes, extent_bytes, max_inflight_blocks: config.max_inflight_blocks })
}

/// Opens the file for direct I/O, or through the page cache where the filesystem has no direct I/O.
fn open_file(path: &Path) -> Result<(File, bool), OpenError> {
    match fs_open(path, libc::O_DIRECT).and_then(|file| probe_read(&file).map(|()| file)) {
        Ok(file) => return Ok((file, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        Err(error) => return Err(open_error(path, error)),
    }
    warn!(path = %path.display(), "this filesystem has no direct I/O: blocks go through the page cache and use memory twice");
    fs_open(path, 0).map(|file| (file, false)).map_err(|error| open_error(path, error))
}

fn fs_open(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

/// Some filesystems take the flag and refuse the I/O.
fn probe_read(file: &File) -> io::Result<()> {
    file.read_at(&mut Page::zeroed().0, 0).map(|_| ())
}

fn open_error(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => OpenError::Permission { path, source },
        io::ErrorKind::NotFound => OpenError::NoFolder { path },
        io::ErrorKind::IsADirectory => OpenError::NotOurs { path, why: "it is a folder".into() },
        _ => OpenError::Os { path, doing: "opening it", source },
    }
}

/// Takes the file for this process alone.
///
/// The kernel takes an io_uring apart after its process is gone, and holds the lock until then: a quick restart waits for it.
fn lock(file: &File, path: &Path) -> Result<(), OpenError> {
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(20)),
            Err(Errno::WOULDBLOCK) => return Err(OpenError::Locked { path: path.to_owned() }),
            Err(errno) => {
                return Err(OpenError::Os { path: path.to_owned(), doing: "locking it", source: errno.into() });
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Closing the descriptor is not enough: a ring that the kernel has not taken apart yet still holds the file.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

struct Opening<'a> {
    file: &'a File,
    path: &'a Path,
    limits: TierLimits,
}

impl Opening<'_> {
    fn os(&self, doing: &'static str) -> impl Fn(io::Error) -> OpenError {
        let path = self.path.to_owned();
        move |source| OpenError::Os { path: path.clone(), doing, source }
    }

    fn length(&self) -> Result<u64, OpenError> {
        let stat = self.file.metadata().map_err(self.os("reading its size"))?;
        if stat.is_file() { Ok(stat.len()) } else { Err(self.not_ours("it is not a regular file")) }
    }

    fn not_ours(&self, why: &str) -> OpenError {
        OpenError::NotOurs { path: self.path.to_owned(), why: why.into() }
    }

    /// Takes a block device over: one of kvd's as it is, one that holds nothing anew.
    fn take_device(&self) -> Result<Superblock, OpenError> {
        let device_bytes = block::size(self.file).map_err(self.os("reading its size"))?;
        let wanted_bytes = DATA_START + self.limits.capacity_bytes;
        if wanted_bytes > device_bytes {
            return Err(OpenError::DeviceTooSmall { path: self.path.to_owned(), wanted_bytes, device_bytes });
        }
        let foreign = |found| OpenError::ForeignDevice { path: self.path.to_owned(), found };
        let ends = Ends::read(self.file, device_bytes).map_err(self.os("looking at what it holds"))?;
        if let Some(found) = ends.signature() {
            return Err(foreign(found));
        }
        let found = match self.read_superblock() {
            Err(OpenError::NotOurs { .. }) => None,
            found => Some(found?),
        };
        match found {
            Some((superblock, whole)) => self.adopt_as(superblock, whole),
            None => match ends.anything() {
                Some(found) => Err(foreign(found)),
                None => {
                    let superblock = self.new_superblock()?;
                    self.write_superblock(&superblock).map(|()| superblock)
                }
            },
        }
    }

    fn new_superblock(&self) -> Result<Superblock, OpenError> {
        Ok(Superblock {
            file_id: random_id().map_err(self.os("choosing its id"))?,
            machine: machine(),
            extent_bytes: self.limits.extent_bytes,
            capacity_bytes: self.limits.capacity_bytes,
            created_unix_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        })
    }

    /// Makes an empty file a slot file. On failure the file is gone again.
    fn make(&self) -> Result<Superblock, OpenError> {
        let superblock = self.new_superblock()?;
        let made = self.write_superblock(&superblock).and_then(|()| self.allocate(2 * PAGE_BYTES));
        if made.is_err() {
            let _ = std::fs::remove_file(self.path);
        }
        made.map(|()| superblock)
    }

    /// Checks a file that was there, and brings it to the length that the settings want.
    fn adopt(&self, length: u64) -> Result<Superblock, OpenError> {
        let (superblock, whole) = self.read_superblock()?;
        self.check_settings(&superblock)?;
        let full_length = DATA_START + self.limits.capacity_bytes;
        if length < DATA_START + superblock.capacity_bytes {
            warn!(path = %self.path.display(), length, "the slot file was cut short: the blocks in the missing part are lost");
        }
        if length < full_length {
            self.allocate(length)?;
        }
        self.adopt_as(superblock, whole)
    }

    /// Goes on with what is there, at the capacity that the settings want, and mends the pages when they are not `whole`.
    fn adopt_as(&self, superblock: Superblock, whole: bool) -> Result<Superblock, OpenError> {
        self.check_settings(&superblock)?;
        if superblock.machine != machine() {
            info!(path = %self.path.display(), "the slots were made on another machine; their blocks are as good as ever");
        }
        let grown = Superblock { capacity_bytes: self.limits.capacity_bytes, ..superblock };
        if grown != superblock || !whole {
            self.write_superblock(&grown)?;
        }
        Ok(grown)
    }

    /// The superblock, and whether both of its pages are as they should be.
    fn read_superblock(&self) -> Result<(Superblock, bool), OpenError> {
        let path = || self.path.to_owned();
        let at = |offset| self.read_page(offset).map_err(self.os("reading its superblock"));
        let (first, copy) = (at(0)?, at(COPY_AT)?);
        match (Superblock::decode(&first), Superblock::decode(&copy)) {
            (Ok(superblock), other) => Ok((superblock, other == Ok(superblock))),
            (Err(_), Ok(superblock)) => Ok((superblock, false)),
            (Err(NoSuperblock::Newer(found)), _) | (_, Err(NoSuperblock::Newer(found))) => Err(OpenError::Newer { path: path(), found }),
            (Err(NoSuperblock::OtherMagic), Err(NoSuperblock::OtherMagic)) => Err(self.not_ours("it is not a kvd slot file")),
            _ if may_be_newer(&first) || may_be_newer(&copy) => Err(OpenError::Damaged { path: path() }),
            _ => {
                // Labels and headers name themselves. The id is a new one, so no catalog is believed and they are read.
                warn!(path = %self.path.display(), "both superblocks are damaged: they are made anew, and headers tell what is there");
                Ok((self.new_superblock()?, false))
            }
        }
    }

    /// A page of the file; what lies after the file's end is zeros.
    fn read_page(&self, offset: u64) -> io::Result<Box<Page>> {
        let mut page = Page::zeroed();
        loop {
            match self.file.read_at(&mut page.0, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(|_| page),
            }
        }
    }

    fn check_settings(&self, found: &Superblock) -> Result<(), OpenError> {
        let other = |setting, found, wanted| Err(OpenError::OtherSettings { path: self.path.to_owned(), setting, found, wanted });
        if found.extent_bytes != self.limits.extent_bytes {
            return other("extent_bytes", found.extent_bytes, self.limits.extent_bytes);
        }
        if found.capacity_bytes > self.limits.capacity_bytes {
            return other("capacity_bytes", found.capacity_bytes, self.limits.capacity_bytes);
        }
        Ok(())
    }

    fn write_superblock(&self, superblock: &Superblock) -> Result<(), OpenError> {
        let page = superblock.encode();
        for offset in [0, COPY_AT] {
            let written = self.file.write_all_at(&page.0, offset).and_then(|()| self.file.sync_data());
            written.map_err(|error| match error.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => self.no_space(DATA_START + superblock.capacity_bytes),
                _ => self.os("writing its superblock")(error),
            })?;
        }
        Ok(())
    }

    /// Gives the file its full length, with blocks of the filesystem behind all of it.
    ///
    /// Asks for the free space first: the kernel would otherwise fill the disk to its last block before it says no.
    fn allocate(&self, length: u64) -> Result<(), OpenError> {
        let full_length = DATA_START + self.limits.capacity_bytes;
        if full_length - length > self.free_bytes() {
            return Err(self.no_space(full_length - length));
        }
        match fallocate(self.file, FallocateFlags::empty(), 0, full_length) {
            Ok(()) => Ok(()),
            Err(Errno::NOSPC | Errno::DQUOT) => {
                let _ = self.file.set_len(length);
                Err(self.no_space(full_length - length))
            }
            Err(Errno::OPNOTSUPP) => {
                warn!(path = %self.path.display(), "this filesystem cannot reserve space: writes may find it full later");
                self.file.set_len(full_length).map_err(self.os("sizing it"))
            }
            Err(Errno::FBIG) => Err(OpenError::BadConfig {
                path: self.path.to_owned(),
                why: format!("{full_length} bytes are more than this filesystem or the file size limit allows: set a smaller capacity"),
            }),
            Err(errno) => Err(self.os("allocating it")(errno.into())),
        }
    }

    fn no_space(&self, wanted_bytes: u64) -> OpenError {
        OpenError::NoSpace { path: self.path.to_owned(), wanted_bytes, free_bytes: self.free_bytes() }
    }

    fn free_bytes(&self) -> u64 {
        fstatvfs(self.file).map_or(u64::MAX, |stat| stat.f_bavail * stat.f_frsize)
    }
}

/// What a block device holds, in words; `None` when it is blank. Blocks of kvd are something too.
pub fn holds(path: &Path) -> Result<Option<String>, OpenError> {
    let os = |doing| move |source| OpenError::Os { path: path.to_owned(), doing, source };
    let device = block::open(path)?;
    let ends = Ends::read(&device, block::size(&device).map_err(os("reading its size"))?).map_err(os("looking at what it holds"))?;
    Ok(ends.signature().or_else(|| ends.is_ours().then(|| "blocks of a kvd".to_owned())).or_else(|| ends.anything()))
}

/// Makes the first `bytes` bytes of a block device zeros, whatever they hold, and its last MiB. Nothing else may use it meanwhile.
///
/// For a person who said that nothing on it is needed. Blocks; quick where the device can discard.
pub fn wipe(path: &Path, bytes: u64) -> Result<(), OpenError> {
    let os = |doing| move |source| OpenError::Os { path: path.to_owned(), doing, source };
    let device = block::open(path)?;
    let device_bytes = block::size(&device).map_err(os("reading its size"))?;
    let end = device_bytes / PAGE_BYTES * PAGE_BYTES;
    let ends = [(0, bytes.next_multiple_of(PAGE_BYTES).min(end)), (end.saturating_sub(DATA_START), end)];
    for (from, to) in ends {
        if fallocate(&device, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, to - from).is_err() {
            let page = Page::zeroed();
            for offset in (from..to).step_by(PAGE_BYTES as usize) {
                device.write_all_at(&page.0, offset).map_err(os("clearing it"))?;
            }
        }
    }
    device.sync_all().map_err(os("clearing it"))
}

/// A damaged page of a version this code does not know is not for it to mend.
fn may_be_newer(page: &Page) -> bool {
    matches!(Superblock::decode(page), Err(NoSuperblock::Damaged)) && u16::from_le_bytes([page.0[8], page.0[9]]) > FORMAT_VERSION
}

fn random_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut id)?;
    Ok(id)
}

/// Stands for this machine; 0 where machines have no id.
fn machine() -> u64 {
    std::fs::read_to_string("/etc/machine-id").map_or(0, |id| Checksum::of(id.trim().as_bytes()).0)
}
