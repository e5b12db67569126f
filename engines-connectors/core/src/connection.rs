//! One connection to the daemon: dial, shake hands, receive and map the arena.
//!
//! Blocks, up to [`HANDSHAKE_TIMEOUT`]: only a link's own thread calls it. Every error names the socket, and what to do.

use crate::mapped::MappedArena;
use kvd_proto::PROTOCOL_VERSION;
use kvd_proto::frame::{self, FrameError, PREFIX_BYTES};
use kvd_proto::local::{Hello, HelloAnswer, Welcome};
use kvd_shm::{Arena, ArenaError, fds};
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens.
    #[error("no kvd at {} ({why}): start it with `kvd serve`, or name its socket in KVD_SOCKET", .socket.display())]
    Absent {
        /// Where.
        socket: PathBuf,
        /// What the kernel said.
        why: io::Error,
    },
    /// The socket's permissions keep this user out.
    #[error("user {uid} may not use kvd's socket {}: run the engine as the user, or in the group, that owns it", .socket.display())]
    Forbidden {
        /// Where.
        socket: PathBuf,
        /// This process's user.
        uid: u32,
    },
    /// A socket in a place that anybody can write to, served by somebody else.
    #[error("{} is served by user {theirs}, not by you (user {ours}): remove it, or name kvd's own socket in KVD_SOCKET", .socket.display())]
    Stranger {
        /// Where.
        socket: PathBuf,
        /// Who serves it.
        theirs: u32,
        /// This process's user.
        ours: u32,
    },
    /// Something else listens there.
    #[error("{} is not kvd's socket ({why}): name kvd's own socket in KVD_SOCKET", .socket.display())]
    NotKvd {
        /// Where.
        socket: PathBuf,
        /// What it sent.
        why: FrameError,
    },
    /// Daemon and connector are too far apart.
    #[error("kvd at {} speaks local protocol {theirs}, this connector speaks {PROTOCOL_VERSION}: upgrade the older of the two (kvd says: {why})", .socket.display())]
    OtherProtocol {
        /// Where.
        socket: PathBuf,
        /// The daemon's version.
        theirs: u16,
        /// The daemon's own words.
        why: String,
    },
    /// The daemon does not want this engine.
    #[error("kvd at {} refuses this engine: {why}", .socket.display())]
    Refused {
        /// Where.
        socket: PathBuf,
        /// The daemon's own words.
        why: String,
    },
    /// The daemon accepted and then handed over something unusable.
    #[error("kvd at {} handed over no usable arena: {why}", .socket.display())]
    NoArena {
        /// Where.
        socket: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The daemon went away, or is silent.
    #[error("kvd at {} does not answer ({why}): see its log", .socket.display())]
    Silent {
        /// Where.
        socket: PathBuf,
        /// What happened.
        why: String,
    },
}

impl ConnectError {
    /// True when trying again soon will not help: a person must change something.
    pub fn is_lasting(&self) -> bool {
        !matches!(self, ConnectError::Absent { .. } | ConnectError::Silent { .. })
    }
}

/// A connection that shook hands.
#[derive(Debug)]
pub(crate) struct Connection {
    pub stream: UnixStream,
    pub welcome: Welcome,
    pub arena: Arc<MappedArena>,
}

/// Connects to `socket` and introduces this engine.
pub(crate) fn dial(socket: &Path, hello: &Hello) -> Result<Connection, ConnectError> {
    let stream = UnixStream::connect(socket).map_err(|error| refused_by_kernel(socket, error))?;
    check_owner(socket, &stream)?;
    let (answer, fds) = shake_hands(&stream, hello).map_err(|error| no_answer(socket, error))?;
    let welcome = accept(socket, hello, answer)?;
    let no_arena = |why: String| ConnectError::NoArena { socket: socket.into(), why };
    let fd = fds.into_iter().next().ok_or_else(|| no_arena("no descriptor came along".into()))?;
    let arena = Arena::from_fd(fd).map_err(|error: ArenaError| no_arena(error.to_string()))?;
    if arena.bytes() != welcome.arena_bytes {
        return Err(no_arena(format!("it has {} bytes, {} were announced", arena.bytes(), welcome.arena_bytes)));
    }
    Ok(Connection { stream, welcome, arena: Arc::new(MappedArena::new(arena)) })
}

/// In /tmp anybody can listen under our name; KV from a stranger would be believed.
fn check_owner(socket: &Path, stream: &UnixStream) -> Result<(), ConnectError> {
    let ours = rustix::process::getuid().as_raw();
    if !socket.starts_with(format!("/tmp/kvd-{ours}")) {
        return Ok(());
    }
    match fds::peer(stream) {
        Ok(peer) if peer.uid != ours && peer.uid != 0 => Err(ConnectError::Stranger { socket: socket.into(), theirs: peer.uid, ours }),
        _ => Ok(()),
    }
}

fn shake_hands(stream: &UnixStream, hello: &Hello) -> Result<(HelloAnswer, Vec<rustix::fd::OwnedFd>), FrameError> {
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
    frame::write(&mut &*stream, hello)?;
    // The descriptor is attached to the first bytes of the answer: they must be read with `recvmsg`.
    let mut prefix = [0; PREFIX_BYTES];
    let fds = fds::receive_with_fds(stream, &mut prefix[..4])?;
    if prefix[..4] == frame::MAGIC {
        (&mut &*stream).read_exact(&mut prefix[4..])?;
    }
    let mut body = vec![0; frame::body_bytes(&prefix)?];
    (&mut &*stream).read_exact(&mut body)?;
    stream.set_read_timeout(None)?;
    Ok((frame::decode(&body)?, fds))
}

fn accept(socket: &Path, hello: &Hello, answer: HelloAnswer) -> Result<Welcome, ConnectError> {
    match answer {
        HelloAnswer::Welcome(welcome) if welcome.layouts.len() == hello.layouts.len() => Ok(welcome),
        HelloAnswer::Welcome(_) => {
            Err(ConnectError::Silent { socket: socket.into(), why: "it did not name a handle for each layout".into() })
        }
        HelloAnswer::Refusal(refusal) if refusal.protocol != PROTOCOL_VERSION => {
            Err(ConnectError::OtherProtocol { socket: socket.into(), theirs: refusal.protocol, why: refusal.why })
        }
        HelloAnswer::Refusal(refusal) => Err(ConnectError::Refused { socket: socket.into(), why: refusal.why }),
    }
}

fn refused_by_kernel(socket: &Path, why: io::Error) -> ConnectError {
    let socket = socket.to_path_buf();
    match why.kind() {
        ErrorKind::PermissionDenied => ConnectError::Forbidden { socket, uid: rustix::process::getuid().as_raw() },
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => ConnectError::Absent { socket, why },
        _ => ConnectError::Silent { socket, why: why.to_string() },
    }
}

fn no_answer(socket: &Path, error: FrameError) -> ConnectError {
    let socket = socket.to_path_buf();
    match error {
        FrameError::Io(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            ConnectError::Silent { socket, why: format!("no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs()) }
        }
        FrameError::Io(error) => ConnectError::Silent { socket, why: error.to_string() },
        why => ConnectError::NotKvd { socket, why },
    }
}
