//! Descriptors over a Unix socket (SCM_RIGHTS), and who is at the other end.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// Most descriptors one message carries here; the kernel's own limit is 253.
pub const MAX_FDS: usize = 8;

/// Sends `bytes` whole, with `fds` attached to the first of them. Blocks as the socket does.
pub fn send_with_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!(fds.len() <= MAX_FDS && !bytes.is_empty());
    let mut sent = 0;
    while sent < bytes.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if sent == 0 && !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        sent += sendmsg(&socket, &[IoSlice::new(&bytes[sent..])], &mut control, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// Fills `bytes` whole and returns the descriptors that came along. Blocks as the socket does.
pub fn receive_with_fds(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<Vec<OwnedFd>> {
    let mut fds = Vec::new();
    let mut filled = 0;
    while filled < bytes.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes[filled..])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += got.bytes;
    }
    Ok(fds)
}

/// Process and user at the other end of a Unix socket, as the kernel recorded them at connect time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Who is at the other end.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(Peer { pid: credentials.pid.as_raw_pid(), uid: credentials.uid.as_raw(), gid: credentials.gid.as_raw() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, HugePages};
    use kvd_block::SlotIndex;
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_arena_crosses_a_socket() {
        let (left, right) = UnixStream::pair().unwrap();
        let arena = Arena::create(1 << 20, HugePages::Never).unwrap();
        arena.write_header(SlotIndex(1), &[5; 4096]);
        send_with_fds(&left, b"hello", &[arena.fd()]).unwrap();
        let mut bytes = [0; 5];
        let mut fds = receive_with_fds(&right, &mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        let theirs = Arena::from_fd(fds.pop().unwrap()).unwrap();
        assert_eq!(theirs.read_header(SlotIndex(1)), [5; 4096]);
        assert_eq!(peer(&right).unwrap().pid, std::process::id() as i32);
    }
}
