//! Frames of the local protocol: `b"kvd1"`, a little-endian `u32` length, MessagePack.
//!
//! The magic is in every frame, so that a socket which is not kvd's is recognised by its first four bytes, and
//! a stream that lost its place is never misread.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"kvd1";
/// Bytes before the body.
pub const PREFIX_BYTES: usize = 8;
/// Longest body. A lookup of 100,000 blocks takes 1.6 MB.
pub const MAX_BODY_BYTES: usize = 16 << 20;

/// Why a frame cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side does not speak this protocol at all.
    #[error("the other side does not speak kvd's local protocol (it sent {0:02x?})")]
    NotKvd([u8; 4]),
    /// A length beyond the limit.
    #[error("a message of {0} bytes exceeds the limit of {MAX_BODY_BYTES}")]
    TooLong(usize),
    /// A body that is not the message expected.
    #[error("a message that cannot be read: {0}")]
    Malformed(String),
    /// The socket failed or was closed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A whole frame for `message`.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; PREFIX_BYTES];
    rmp_serde::encode::write(&mut frame, message).map_err(|error| FrameError::Malformed(error.to_string()))?;
    let body_bytes = frame.len() - PREFIX_BYTES;
    if body_bytes > MAX_BODY_BYTES {
        return Err(FrameError::TooLong(body_bytes));
    }
    frame[..4].copy_from_slice(&MAGIC);
    frame[4..8].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    Ok(frame)
}

/// Length of the body that follows `prefix`.
pub fn body_bytes(prefix: &[u8; PREFIX_BYTES]) -> Result<usize, FrameError> {
    let magic = prefix[..4].try_into().expect("4 bytes");
    if magic != MAGIC {
        return Err(FrameError::NotKvd(magic));
    }
    let bytes = u32::from_le_bytes(prefix[4..].try_into().expect("4 bytes")) as usize;
    if bytes > MAX_BODY_BYTES { Err(FrameError::TooLong(bytes)) } else { Ok(bytes) }
}

/// The message in `body`.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    rmp_serde::from_slice(body).map_err(|error| FrameError::Malformed(error.to_string()))
}

/// Reads one message, blocking as `source` does.
pub fn read<T: DeserializeOwned>(source: &mut impl Read) -> Result<T, FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    source.read_exact(&mut prefix)?;
    let mut body = vec![0; body_bytes(&prefix)?];
    source.read_exact(&mut body)?;
    decode(&body)
}

/// Writes one message, blocking as `sink` does.
pub fn write<T: Serialize>(sink: &mut impl Write, message: &T) -> Result<(), FrameError> {
    Ok(sink.write_all(&encode(message)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{Reply, Request, ToDaemon, ToEngine};
    use kvd_block::{LayoutHandle, RequestId, SequenceHash};

    #[test]
    fn a_message_survives_the_wire() {
        let keys = crate::local::Keys::from_hashes(&[SequenceHash([1; 16]), SequenceHash([2; 16])]);
        let body = Request::Lookup { layout: LayoutHandle(3), keys, until_miss: true };
        let message = ToDaemon { id: RequestId(9), body };
        let bytes = encode(&message).unwrap();
        let back: ToDaemon = read(&mut bytes.as_slice()).unwrap();
        assert_eq!(back, message);
        let answer = ToEngine { id: RequestId(9), body: Reply::Done };
        let back: ToEngine = read(&mut encode(&answer).unwrap().as_slice()).unwrap();
        assert_eq!(back, answer);
    }

    #[test]
    fn an_http_server_is_told_from_kvd() {
        let answer = read::<ToEngine>(&mut &b"HTTP/1.1 400 Bad Request"[..]);
        assert!(matches!(answer, Err(FrameError::NotKvd(_))));
    }

    #[test]
    fn an_absurd_length_is_refused_before_memory_is_taken() {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(u32::MAX.to_le_bytes());
        assert!(matches!(read::<ToEngine>(&mut bytes.as_slice()), Err(FrameError::TooLong(_))));
    }
}
