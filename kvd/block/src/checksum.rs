//! The checksum that guards every header and payload: CRC-64/NVME.
//!
//! Why a CRC and not a hash: it finds every burst up to 64 bits and it can be continued over pieces, so a copy can
//! checksum each piece while it is in the first-level cache. It guards against rot and torn writes, not against
//! an adversary who can write to the disk.

use crc_fast::{CrcAlgorithm, Digest};
use serde::{Deserialize, Serialize};
use std::fmt;

/// CRC-64/NVME of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Checksum(pub u64);

impl Checksum {
    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum(crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({:016x})", self.0)
    }
}

/// A checksum in the making.
#[derive(Clone)]
pub struct ChecksumStream(Digest);

impl Default for ChecksumStream {
    fn default() -> Self {
        ChecksumStream(Digest::new(CrcAlgorithm::Crc64Nvme))
    }
}

impl ChecksumStream {
    /// Continues over `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The remainder so far, bit-reflected, before the final inversion: what a copy that divides by itself begins with.
    pub fn register(&self) -> u64 {
        self.0.get_state()
    }

    /// Continues from a remainder.
    pub fn from_register(register: u64) -> ChecksumStream {
        ChecksumStream(Digest::new_with_init_state(CrcAlgorithm::Crc64Nvme, register))
    }

    /// The checksum of everything given so far.
    pub fn finish(&self) -> Checksum {
        Checksum(self.0.finalize())
    }
}

impl fmt::Debug for ChecksumStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.finish().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_give_the_same_checksum_as_the_whole() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i * 31) as u8).collect();
        let mut stream = ChecksumStream::default();
        bytes.chunks(777).for_each(|piece| stream.update(piece));
        assert_eq!(stream.finish(), Checksum::of(&bytes));
    }

    #[test]
    fn the_published_check_value_holds() {
        assert_eq!(Checksum::of(b"123456789"), Checksum(0xae8b_1486_0a79_9888));
    }
}
