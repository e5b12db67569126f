//! The header in front of every payload, in the arena, on disk and on the wire.
//!
//! A block image describes itself: whoever finds one knows which block it is, of which layout, and can verify every
//! byte, with no other source. Format version 2, little-endian, one page:
//!
//! ```text
//!    0  8  magic "kvdblock"           64  8  local hash
//!    8  2  format version             72  4  position (blocks before it)
//!   10  2  ranks (r)                  76  4  tokens per block
//!   12  2  encoded layout bytes (n)   80  8  payload bytes
//!   14  2  token ids present (t)      88  8  created, ms since 1970
//!   16 16  layout id                  96  8  checksum of each rank's stripe (r × 8, room for 64)
//!   32 16  sequence hash             608  n  layout, canonical encoding
//!   48 16  parent sequence hash    608+n  4t token ids
//! 4080  8  generation: the last purge of the layout before this was stored
//! 4088  8  CRC-64/NVME of bytes 0..4088
//! ```
//!
//! Token ids are left out (t = 0) when they do not fit. Token ids that reach into the last field leave no generation, which counts as 0.

use crate::checksum::Checksum;
use crate::hash::{LayoutId, LocalHash, SequenceHash};
use crate::layout::{LayoutSpec, MAX_RANKS};
use crate::units::HEADER_BYTES;
use std::cmp::Ordering;

/// Format version written by this code.
pub const IMAGE_VERSION: u16 = 2;
const MAGIC: &[u8; 8] = b"kvdblock";
const STRIPES_AT: usize = 96;
const LAYOUT_AT: usize = STRIPES_AT + 8 * MAX_RANKS as usize;
const CHECKSUM_AT: usize = HEADER_BYTES as usize - 8;
const GENERATION_AT: usize = CHECKSUM_AT - 8;

/// One page holding a header.
pub type HeaderPage = [u8; HEADER_BYTES as usize];

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockHeader {
    /// The block.
    pub hash: SequenceHash,
    /// The block before it.
    pub parent: SequenceHash,
    /// What routers match its own tokens by.
    pub local: LocalHash,
    /// How many blocks come before it.
    pub position: u32,
    /// When it was stored, milliseconds since 1970.
    pub created_unix_ms: u64,
    /// The last purge of its layout before it was stored: see [`crate::Purges`].
    pub generation: u64,
    /// What gives the payload its meaning.
    pub layout: LayoutSpec,
    /// Checksum of each rank's stripe, in rank order.
    pub stripes: Vec<Checksum>,
    /// The block's tokens; empty when unknown or too many for the header.
    pub tokens: Vec<u32>,
}

/// Why bytes are not a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Nothing was ever written here.
    #[error("no block image (bad magic)")]
    NotAnImage,
    /// Written by a newer kvd.
    #[error("block image of format version {found}, this kvd reads version {IMAGE_VERSION} only")]
    Newer {
        /// The version found.
        found: u16,
    },
    /// Written by an older kvd, whose fields mean something else.
    #[error("block image of format version {found}, this kvd reads version {IMAGE_VERSION} only")]
    Older {
        /// The version found.
        found: u16,
    },
    /// Rot, or a torn write.
    #[error("block header failed its checksum")]
    Corrupt,
}

impl BlockHeader {
    /// Writes the header into `page`.
    ///
    /// # Panics
    /// When the number of stripes is not the layout's number of ranks, or the layout was never validated.
    pub fn encode(&self, page: &mut HeaderPage) {
        let layout = self.layout.encode();
        assert_eq!(self.stripes.len(), usize::from(self.layout.ranks), "one checksum per rank");
        assert!(LAYOUT_AT + layout.len() <= CHECKSUM_AT, "layout was not validated");
        let room = GENERATION_AT.saturating_sub(LAYOUT_AT + layout.len());
        let tokens: &[u32] = if self.tokens.len() * 4 <= room { &self.tokens } else { &[] };
        page.fill(0);
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(8, &IMAGE_VERSION.to_le_bytes());
        put(10, &self.layout.ranks.to_le_bytes());
        put(12, &(layout.len() as u16).to_le_bytes());
        put(14, &(tokens.len() as u16).to_le_bytes());
        put(16, &self.layout.id().0);
        put(32, &self.hash.0);
        put(48, &self.parent.0);
        put(64, &self.local.0.to_le_bytes());
        put(72, &self.position.to_le_bytes());
        put(76, &self.layout.block_tokens.to_le_bytes());
        put(80, &self.layout.payload_bytes().to_le_bytes());
        put(88, &self.created_unix_ms.to_le_bytes());
        for (rank, stripe) in self.stripes.iter().enumerate() {
            put(STRIPES_AT + 8 * rank, &stripe.0.to_le_bytes());
        }
        put(LAYOUT_AT, &layout);
        for (i, token) in tokens.iter().enumerate() {
            put(LAYOUT_AT + layout.len() + 4 * i, &token.to_le_bytes());
        }
        let used = LAYOUT_AT + layout.len() + 4 * tokens.len();
        if used <= GENERATION_AT {
            page[GENERATION_AT..CHECKSUM_AT].copy_from_slice(&self.generation.to_le_bytes());
        }
        let checksum = Checksum::of(&page[..CHECKSUM_AT]);
        page[CHECKSUM_AT..].copy_from_slice(&checksum.0.to_le_bytes());
    }

    /// Reads and verifies a header.
    pub fn decode(page: &HeaderPage) -> Result<BlockHeader, HeaderError> {
        verify_page(page)?;
        let ranks = usize::from(u16_at(page, 10));
        let (layout_len, token_count) = (usize::from(u16_at(page, 12)), usize::from(u16_at(page, 14)));
        let tokens_at = LAYOUT_AT + layout_len;
        let tokens_end = tokens_at + 4 * token_count;
        if ranks > usize::from(MAX_RANKS) || tokens_end > CHECKSUM_AT {
            return Err(HeaderError::Corrupt);
        }
        let layout = LayoutSpec::decode(&page[LAYOUT_AT..tokens_at]).ok_or(HeaderError::Corrupt)?;
        if usize::from(layout.ranks) != ranks || layout.id() != layout_id(page) {
            return Err(HeaderError::Corrupt);
        }
        Ok(BlockHeader {
            hash: sequence_hash(page),
            parent: SequenceHash(array_at(page, 48)),
            local: LocalHash(u64_at(page, 64)),
            position: u32_at(page, 72),
            created_unix_ms: u64_at(page, 88),
            generation: if tokens_end <= GENERATION_AT { u64_at(page, GENERATION_AT) } else { 0 },
            stripes: (0..ranks).map(|rank| stripe_checksum(page, rank as u16)).collect(),
            tokens: (0..token_count).map(|i| u32_at(page, tokens_at + 4 * i)).collect(),
            layout,
        })
    }
}

/// Checks magic, version and checksum of a header page, without reading the rest. Costs one CRC of 4 KiB.
pub fn verify_page(page: &HeaderPage) -> Result<(), HeaderError> {
    if &page[..8] != MAGIC {
        return Err(HeaderError::NotAnImage);
    }
    let found = u16_at(page, 8);
    match found.cmp(&IMAGE_VERSION) {
        Ordering::Less => return Err(HeaderError::Older { found }),
        Ordering::Greater => return Err(HeaderError::Newer { found }),
        Ordering::Equal => {}
    }
    if Checksum::of(&page[..CHECKSUM_AT]) != Checksum(u64_at(page, CHECKSUM_AT)) {
        return Err(HeaderError::Corrupt);
    }
    Ok(())
}

/// Layout named by a verified page.
pub fn layout_id(page: &HeaderPage) -> LayoutId {
    LayoutId(array_at(page, 16))
}

/// Block named by a verified page.
pub fn sequence_hash(page: &HeaderPage) -> SequenceHash {
    SequenceHash(array_at(page, 32))
}

/// Payload bytes of a verified page.
pub fn payload_bytes(page: &HeaderPage) -> u64 {
    u64_at(page, 80)
}

/// Ranks of a verified page.
pub fn ranks(page: &HeaderPage) -> u16 {
    u16_at(page, 10)
}

/// Checksum of `rank`'s stripe as a verified page gives it.
pub fn stripe_checksum(page: &HeaderPage, rank: u16) -> Checksum {
    Checksum(u64_at(page, STRIPES_AT + 8 * usize::from(rank)))
}

fn array_at<const N: usize>(page: &HeaderPage, at: usize) -> [u8; N] {
    page[at..at + N].try_into().expect("N bytes")
}
fn u16_at(page: &HeaderPage, at: usize) -> u16 {
    u16::from_le_bytes(array_at(page, at))
}
fn u32_at(page: &HeaderPage, at: usize) -> u32 {
    u32::from_le_bytes(array_at(page, at))
}
fn u64_at(page: &HeaderPage, at: usize) -> u64 {
    u64::from_le_bytes(array_at(page, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BlockHeader {
        BlockHeader {
            hash: SequenceHash([1; 16]),
            parent: SequenceHash([2; 16]),
            local: LocalHash(3),
            position: 4,
            created_unix_ms: 5,
            generation: 6,
            layout: LayoutSpec {
                model: "m".into(),
                weights: "w".into(),
                kv_dtype: "bfloat16".into(),
                block_tokens: 32,
                group: 1,
                attention: "full_attention".into(),
                geometry: "g".into(),
                ranks: 2,
                stripe_bytes: 5000,
            },
            stripes: vec![Checksum(6), Checksum(7)],
            tokens: (0..32).collect(),
        }
    }

    fn page(header: &BlockHeader) -> HeaderPage {
        let mut page = [0xAA; HEADER_BYTES as usize];
        header.encode(&mut page);
        page
    }

    #[test]
    fn a_header_reads_back() {
        assert_eq!(BlockHeader::decode(&page(&header())), Ok(header()));
    }

    #[test]
    fn too_many_tokens_are_left_out() {
        let long = BlockHeader { tokens: vec![9; 2000], ..header() };
        assert!(BlockHeader::decode(&page(&long)).unwrap().tokens.is_empty());
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let good = page(&header());
        for at in (0..good.len()).step_by(13) {
            let mut bad = good;
            bad[at] ^= 0x10;
            assert!(BlockHeader::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn another_format_is_named() {
        let mut other = page(&header());
        other[8] = 3;
        assert_eq!(BlockHeader::decode(&other), Err(HeaderError::Newer { found: 3 }));
        other[8] = 1;
        assert_eq!(BlockHeader::decode(&other), Err(HeaderError::Older { found: 1 }));
    }
}
