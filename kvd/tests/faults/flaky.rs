//! A filesystem that passes one flat directory through and fails as a test tells it to.
//!
//! Faults are drawn from a seed, so many of a thousand calls each. A stall holds calls back, each on a thread of its own,
//! until it is lifted: the filesystem itself goes on answering.

use super::place::base;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    Request, TimeOrNow, WriteFlags,
};
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const NO_CACHE: Duration = Duration::ZERO;
const ONCE: Generation = Generation(0);

/// Why there can be none here.
pub fn lacking() -> Option<String> {
    static LACKING: OnceLock<Option<String>> = OnceLock::new();
    let probe = || match Path::new("/dev/fuse").exists() {
        false => Some("there is no /dev/fuse".into()),
        true => Flaky::mount(0).err().map(|error| format!("FUSE cannot be mounted (as root, or by fusermount3): {error}")),
    };
    LACKING.get_or_init(probe).clone()
}

/// How many of a thousand calls fail, and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub read_eio: u32,
    pub read_short: u32,
    /// Reads whose bytes come back changed.
    pub read_flip: u32,
    pub write_eio: u32,
    pub write_short: u32,
    pub write_full: u32,
    /// Writes that are refused as on a filesystem that has become read-only.
    pub write_read_only: u32,
    /// Writes that are said to be done and are done in part.
    pub write_torn: u32,
    pub sync_eio: u32,
    pub stall_reads: bool,
    pub stall_writes: bool,
}

#[derive(Debug)]
pub struct Switch {
    faults: Mutex<(Faults, StdRng, u64)>,
    changed: Condvar,
}

impl Switch {
    /// True so many times of a thousand.
    fn draw(&self, rate: impl Fn(&Faults) -> u32) -> bool {
        let mut state = self.faults.lock().unwrap();
        let rate = rate(&state.0);
        let hit = rate > 0 && state.1.random_range(0..1000) < rate;
        state.2 += u64::from(hit);
        hit
    }

    fn stalls(&self, which: impl Fn(&Faults) -> bool) -> bool {
        which(&self.faults.lock().unwrap().0)
    }

    fn wait_while(&self, which: impl Fn(&Faults) -> bool) {
        let state = self.faults.lock().unwrap();
        drop(self.changed.wait_while(state, |state| which(&state.0)).unwrap());
    }
}

/// The filesystem, mounted; gone when dropped, stalls lifted.
#[derive(Debug)]
pub struct Flaky {
    mount: PathBuf,
    backing: PathBuf,
    switch: Arc<Switch>,
    session: Option<BackgroundSession>,
}

impl Flaky {
    pub fn new(seed: u64) -> Flaky {
        Flaky::mount(seed).unwrap()
    }

    fn mount(seed: u64) -> io::Result<Flaky> {
        let dir = tempfile::Builder::new().prefix("flaky-").tempdir_in(base())?.keep();
        let (mount, backing) = (dir.join("mount"), dir.join("backing"));
        fs::create_dir(&mount)?;
        fs::create_dir(&backing)?;
        let switch =
            Arc::new(Switch { faults: Mutex::new((Faults::default(), super::workload::random(seed), 0)), changed: Condvar::new() });
        let names = Mutex::new(Names { by_name: HashMap::new(), by_number: HashMap::new(), last: 1 });
        let files = Mutex::new(HashMap::new());
        let through = Through { backing: backing.clone(), switch: switch.clone(), names, files };
        let mut config = Config::default();
        config.n_threads = Some(2);
        let session = fuser::spawn_mount(through, &mount, &config)?;
        Ok(Flaky { mount, backing, switch, session: Some(session) })
    }

    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Fails like this from now on.
    pub fn set(&self, faults: Faults) {
        self.switch.faults.lock().unwrap().0 = faults;
        self.switch.changed.notify_all();
    }

    /// As [`Flaky::set`], until what it returns is dropped. A daemon cannot be waited for while its I/O stalls, not even when
    /// the test has failed.
    #[must_use]
    pub fn until_dropped(&self, faults: Faults) -> Calm {
        self.set(faults);
        Calm(self.switch.clone())
    }

    /// Calls that were made to fail.
    pub fn failed_calls(&self) -> u64 {
        self.switch.faults.lock().unwrap().2
    }
}

/// Ends all faults when dropped.
#[derive(Debug)]
pub struct Calm(Arc<Switch>);

impl Drop for Calm {
    fn drop(&mut self) {
        self.0.faults.lock().unwrap().0 = Faults::default();
        self.0.changed.notify_all();
    }
}

impl Drop for Flaky {
    fn drop(&mut self) {
        self.set(Faults::default());
        let mounted = self.mount.display().to_string();
        let _ = std::process::Command::new("umount").args(["-l", &mounted]).output();
        drop(self.session.take());
        let _ = self.backing.parent().map(fs::remove_dir_all);
    }
}

#[derive(Debug)]
struct Names {
    by_name: HashMap<OsString, u64>,
    by_number: HashMap<u64, OsString>,
    last: u64,
}

struct Through {
    backing: PathBuf,
    switch: Arc<Switch>,
    names: Mutex<Names>,
    files: Mutex<HashMap<u64, Arc<File>>>,
}

impl Through {
    fn number(&self, name: &OsStr) -> u64 {
        let mut names = self.names.lock().unwrap();
        if let Some(number) = names.by_name.get(name) {
            return *number;
        }
        names.last += 1;
        let number = names.last;
        names.by_name.insert(name.to_owned(), number);
        names.by_number.insert(number, name.to_owned());
        number
    }

    fn path(&self, ino: INodeNo) -> io::Result<PathBuf> {
        if ino == INodeNo::ROOT {
            return Ok(self.backing.clone());
        }
        let names = self.names.lock().unwrap();
        names.by_number.get(&u64::from(ino)).map(|name| self.backing.join(name)).ok_or(io::ErrorKind::NotFound.into())
    }

    fn attr(&self, ino: INodeNo) -> io::Result<FileAttr> {
        let meta = fs::symlink_metadata(self.path(ino)?)?;
        let time = |seconds: i64, nanos: i64| UNIX_EPOCH + Duration::new(seconds as u64, nanos as u32);
        Ok(FileAttr {
            ino,
            size: meta.size(),
            blocks: meta.blocks(),
            atime: time(meta.atime(), meta.atime_nsec()),
            mtime: time(meta.mtime(), meta.mtime_nsec()),
            ctime: time(meta.ctime(), meta.ctime_nsec()),
            crtime: UNIX_EPOCH,
            kind: if meta.is_dir() { FileType::Directory } else { FileType::RegularFile },
            perm: (meta.mode() & 0o7777) as u16,
            nlink: meta.nlink() as u32,
            uid: meta.uid(),
            gid: meta.gid(),
            rdev: 0,
            flags: 0,
            blksize: 4096,
        })
    }

    fn keep(&self, file: File) -> FileHandle {
        let mut files = self.files.lock().unwrap();
        let number = files.keys().max().map_or(1, |last| last + 1);
        files.insert(number, Arc::new(file));
        FileHandle(number)
    }

    fn file(&self, handle: FileHandle) -> Option<Arc<File>> {
        self.files.lock().unwrap().get(&u64::from(handle)).cloned()
    }

    fn open_path(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }
}

/// Runs `call` now, or on a thread of its own when the stall is over.
fn perhaps_later(switch: &Arc<Switch>, stalls: fn(&Faults) -> bool, call: impl FnOnce() + Send + 'static) {
    if !switch.stalls(stalls) {
        return call();
    }
    let switch = switch.clone();
    std::thread::spawn(move || {
        switch.wait_while(stalls);
        call();
    });
}

fn read_full(file: &File, offset: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let mut done = 0;
    while done < size {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

macro_rules! attempt {
    ($reply:ident, $what:expr) => {
        match $what {
            Ok(value) => value,
            Err(error) => return $reply.error(Errno::from(io::Error::from(error))),
        }
    };
}

impl Filesystem for Through {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Else a few stalled calls keep the kernel from sending others.
        let _ = config.set_max_background(1024);
        Ok(())
    }

    fn lookup(&self, _: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        attempt!(reply, fs::symlink_metadata(self.backing.join(name)));
        let ino = INodeNo(self.number(name));
        let attr = attempt!(reply, self.attr(ino));
        reply.entry(&NO_CACHE, &attr, ONCE);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let _ = handle;
        let attr = attempt!(reply, self.attr(ino));
        reply.attr(&NO_CACHE, &attr);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if let Some(size) = size {
            let path = attempt!(reply, self.path(ino));
            attempt!(reply, self.open_path(&path).and_then(|file| file.set_len(size)));
        }
        let attr = attempt!(reply, self.attr(ino));
        reply.attr(&NO_CACHE, &attr);
    }

    fn unlink(&self, _: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        attempt!(reply, fs::remove_file(self.backing.join(name)));
        self.names.lock().unwrap().by_name.remove(name);
        reply.ok();
    }

    fn rename(&self, _: &Request, _: INodeNo, from: &OsStr, _: INodeNo, to: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        attempt!(reply, fs::rename(self.backing.join(from), self.backing.join(to)));
        let mut names = self.names.lock().unwrap();
        if let Some(number) = names.by_name.remove(from) {
            names.by_name.insert(to.to_owned(), number);
            names.by_number.insert(number, to.to_owned());
        }
        reply.ok();
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _ = flags;
        let path = attempt!(reply, self.path(ino));
        let file = attempt!(reply, self.open_path(&path));
        reply.opened(self.keep(file), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn create(&self, _: &Request, _: INodeNo, name: &OsStr, _mode: u32, _umask: u32, _flags: i32, reply: ReplyCreate) {
        let mut options = OpenOptions::new();
        let file = attempt!(reply, options.read(true).write(true).create(true).truncate(false).open(self.backing.join(name)));
        let ino = INodeNo(self.number(name));
        let attr = attempt!(reply, self.attr(ino));
        reply.created(&NO_CACHE, &attr, ONCE, self.keep(file), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = self.file(handle) else { return reply.error(Errno::EBADF) };
        if self.switch.draw(|faults| faults.read_eio) {
            return reply.error(Errno::EIO);
        }
        let (short, flip) = (self.switch.draw(|faults| faults.read_short), self.switch.draw(|faults| faults.read_flip));
        perhaps_later(
            &self.switch,
            |faults| faults.stall_reads,
            move || {
                let mut bytes = attempt!(reply, read_full(&file, offset, size as usize));
                if flip && let Some(byte) = bytes.last_mut() {
                    *byte ^= 0x40;
                }
                let count = if short { bytes.len() / 3 } else { bytes.len() };
                reply.data(&bytes[..count]);
            },
        );
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(file) = self.file(handle) else { return reply.error(Errno::EBADF) };
        if self.switch.draw(|faults| faults.write_eio) {
            return reply.error(Errno::EIO);
        }
        if self.switch.draw(|faults| faults.write_full) {
            return reply.error(Errno::ENOSPC);
        }
        if self.switch.draw(|faults| faults.write_read_only) {
            return reply.error(Errno::EROFS);
        }
        let (short, torn) = (self.switch.draw(|faults| faults.write_short), self.switch.draw(|faults| faults.write_torn));
        let data = data.to_vec();
        perhaps_later(
            &self.switch,
            |faults| faults.stall_writes,
            move || {
                let count = if short || torn { data.len() / 3 } else { data.len() };
                attempt!(reply, file.write_all_at(&data[..count], offset));
                reply.written(if torn { data.len() } else { count } as u32);
            },
        );
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if self.switch.draw(|faults| faults.sync_eio) { reply.error(Errno::EIO) } else { reply.ok() }
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, _: Option<LockOwner>, _: bool, reply: ReplyEmpty) {
        self.files.lock().unwrap().remove(&u64::from(handle));
        reply.ok();
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = attempt!(reply, fs::read_dir(&self.backing));
        let mut names: Vec<OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        let fixed = [(INodeNo::ROOT, FileType::Directory, OsString::from(".")), (INodeNo::ROOT, FileType::Directory, OsString::from(".."))];
        let files = names.into_iter().map(|name| (INodeNo(self.number(&name)), FileType::RegularFile, name));
        for (at, (ino, kind, name)) in fixed.into_iter().chain(files).enumerate().skip(offset as usize) {
            if reply.add(ino, at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 20;
        reply.statfs(blocks, blocks, blocks, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}
