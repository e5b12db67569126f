//! The three hashes of kvd and how they print.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Names one block of one sequence: its tokens, all tokens before it, and everything else that changes
/// the KV (LoRA, salt, multimodal content). 128 bits of a keyed BLAKE3 chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SequenceHash(pub [u8; 16]);

impl SequenceHash {
    /// The parent of the first block of a sequence.
    pub const ROOT: SequenceHash = SequenceHash([0; 16]);

    /// True for [`SequenceHash::ROOT`].
    pub fn is_root(&self) -> bool {
        *self == Self::ROOT
    }

    /// Eight bytes that are already uniformly distributed: what hash tables use.
    pub fn table_hash(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("8 of 16 bytes"))
    }
}

/// Names a layout: the BLAKE3 of its canonical encoding, 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LayoutId(pub [u8; 16]);

impl LayoutId {
    /// Its first eight bytes, little-endian: what keeps layouts apart in a [`crate::digest`].
    pub fn salt(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("8 of 16 bytes"))
    }
}

/// A 64-bit hash of one block's own content: its tokens, with the sequence's adapter and salt mixed in, without the blocks
/// before it. What routers match prompts by; never used to find bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LocalHash(pub u64);

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

macro_rules! sixteen_byte_name {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl $name {
            /// Reads the 32 hexadecimal digits that `Display` prints.
            pub fn from_hex(text: &str) -> Option<Self> {
                parse_hex(text).map(Self)
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                serde_bytes::Bytes::new(&self.0).serialize(out)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                Ok(Self(serde_bytes::ByteArray::<16>::deserialize(input)?.into_array()))
            }
        }
    };
}

sixteen_byte_name!(SequenceHash);
sixteen_byte_name!(LayoutId);

impl fmt::Debug for LocalHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalHash({:016x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_printing() {
        let hash = SequenceHash(*b"0123456789abcdef");
        assert_eq!(SequenceHash::from_hex(&hash.to_string()), Some(hash));
        assert_eq!(SequenceHash::from_hex("30"), None);
        assert_eq!(SequenceHash::from_hex(&"zz".repeat(16)), None);
    }
}
