//! The Unix socket engines connect to.
//!
//! A socket file that nobody answers on is a leftover and is replaced; one that somebody answers on is never touched.

use crate::settings::EngineSettings;
use rustix::fs::{Gid, Mode, chmod, chown};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A running daemon.
    #[error("kvd (process {pid}) already serves {}; use `--takeover` to replace it and keep its blocks", path.display())]
    Serving {
        /// The socket.
        path: PathBuf,
        /// Who answers.
        pid: i32,
    },
    /// A file of somebody else.
    #[error("{} is there and is not a socket: set `[engine] socket` to another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A folder that another user could swap under us.
    #[error("the folder of the socket {} belongs to user {owner}: set `[engine] socket` to another path", path.display())]
    ForeignFolder {
        /// The socket.
        path: PathBuf,
        /// Whose the folder is.
        owner: u32,
    },
    /// The kernel said no.
    #[error("cannot listen on {}: {source}; set `[engine] socket` to a path that user {uid} may create", path.display())]
    Os {
        /// The socket.
        path: PathBuf,
        /// Who wanted to.
        uid: u32,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The listening socket. Dropping it removes the file, unless another daemon has put its own there.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Listener {
    /// Listens at the settings' path.
    pub fn bind(settings: &EngineSettings) -> Result<Listener, BindError> {
        let path = settings.socket.clone().unwrap_or_default();
        let os = |source| BindError::Os { path: path.clone(), uid: rustix::process::getuid().as_raw(), source };
        make_folder(&path, settings)?;
        clear_leftover(&path)?;
        let socket = UnixListener::bind(&path).map_err(os)?;
        open_to(&path, settings).map_err(os)?;
        let inode = fs::metadata(&path).map_err(os)?.ino();
        Ok(Listener { socket, path, inode })
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.socket.accept().await?.0)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the socket's folder for this user alone; who is listed may pass through it.
fn make_folder(path: &Path, settings: &EngineSettings) -> Result<(), BindError> {
    let own = rustix::process::getuid().as_raw();
    let os = |source| BindError::Os { path: path.into(), uid: own, source };
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    if !folder.exists() {
        let shared = !settings.allowed_uids.is_empty() || !settings.allowed_gids.is_empty();
        let mode = if shared { 0o711 } else { 0o700 };
        return fs::DirBuilder::new().recursive(true).mode(mode).create(folder).map_err(os);
    }
    let found = fs::metadata(folder).map_err(os)?;
    let sticky = found.mode() & 0o1000 != 0;
    if found.uid() == own || found.uid() == 0 || sticky {
        return Ok(());
    }
    Err(BindError::ForeignFolder { path: path.into(), owner: found.uid() })
}

fn clear_leftover(path: &Path) -> Result<(), BindError> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket { path: path.into() });
    }
    refuse_if_served(path)?;
    let uid = rustix::process::getuid().as_raw();
    fs::remove_file(path).map_err(|source| BindError::Os { path: path.into(), uid, source })
}

/// Refuses when somebody answers at `path`.
pub fn refuse_if_served(path: &Path) -> Result<(), BindError> {
    let Ok(stream) = StdStream::connect(path) else { return Ok(()) };
    let pid = kvd_shm::fds::peer(&stream).map_or(0, |peer| peer.pid);
    Err(BindError::Serving { path: path.into(), pid })
}

/// The file's mode is the first check; the peer's credentials are the second, on every connection.
fn open_to(path: &Path, settings: &EngineSettings) -> io::Result<()> {
    let mode = match (settings.allowed_uids.is_empty(), settings.allowed_gids.first()) {
        (true, None) => 0o600,
        (true, Some(group)) => {
            chown(path, None, Some(Gid::from_raw(*group)))?;
            0o660
        }
        // A mode cannot name several users: the credentials decide.
        (false, _) => 0o666,
    };
    chmod(path, Mode::from_raw_mode(mode))?;
    Ok(())
}
