//! What gives a block's bytes their meaning.

use crate::hash::LayoutId;
use crate::units::{HEADER_BYTES, PAGE_BYTES, round_up_to_page};
use serde::{Deserialize, Serialize};

/// Most tensor- or pipeline-parallel ranks whose stripes one image can hold: a header keeps a checksum for each.
pub const MAX_RANKS: u16 = 64;
/// Longest canonical encoding of a layout that fits a block header.
pub const MAX_ENCODED_BYTES: usize = 1280;
/// Most tokens in one block.
pub const MAX_BLOCK_TOKENS: u32 = 1 << 16;
/// Largest payload of one block.
pub const MAX_PAYLOAD_BYTES: u64 = 1 << 30;

/// Everything that must be equal for one engine to read the bytes another engine wrote.
///
/// One layout describes one KV group of one model in one engine configuration. A payload is the concatenation of one
/// stripe per rank, each `stripe_bytes` long; what a stripe contains is the engine's business and is named by `geometry`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LayoutSpec {
    /// Model name or path, as the operator knows it.
    pub model: String,
    /// Digest or revision of the weights.
    pub weights: String,
    /// Data type of the cached keys and values, such as `bfloat16` or `fp8_e4m3`.
    pub kv_dtype: String,
    /// Tokens in each block.
    pub block_tokens: u32,
    /// KV group inside the model (hybrid models have several).
    pub group: u16,
    /// What the group attends to: `full_attention`, `sliding_window:4096`, `mla`, …
    pub attention: String,
    /// How bytes are laid out inside a stripe: engine, layers, heads, order, CPU instruction set or GPU layout.
    pub geometry: String,
    /// Ranks that each own one stripe of the payload.
    pub ranks: u16,
    /// Bytes of each rank's stripe.
    pub stripe_bytes: u64,
}

/// Why a layout is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A number is outside its range.
    #[error("layout field `{field}` is {value}, allowed is {least} to {most}")]
    OutOfRange {
        /// Name of the field.
        field: &'static str,
        /// What was given.
        value: u64,
        /// Least value allowed.
        least: u64,
        /// Greatest value allowed.
        most: u64,
    },
    /// The text fields together do not fit a block header.
    #[error(
        "layout of model `{model}` takes {bytes} bytes to describe, a block header has room for {MAX_ENCODED_BYTES}: shorten `geometry` (a digest will do)"
    )]
    TooLong {
        /// Model of the refused layout.
        model: String,
        /// Length of its encoding.
        bytes: usize,
    },
}

impl LayoutSpec {
    /// Refuses layouts that cannot be stored.
    pub fn validate(&self) -> Result<(), LayoutError> {
        let payload_bytes = self.stripe_bytes.saturating_mul(u64::from(self.ranks));
        let ranges = [
            ("block_tokens", u64::from(self.block_tokens), 1, u64::from(MAX_BLOCK_TOKENS)),
            ("ranks", u64::from(self.ranks), 1, u64::from(MAX_RANKS)),
            ("stripe_bytes", self.stripe_bytes, 1, MAX_PAYLOAD_BYTES),
            ("ranks × stripe_bytes", payload_bytes, 1, MAX_PAYLOAD_BYTES),
        ];
        for (field, value, least, most) in ranges {
            if value < least || value > most {
                return Err(LayoutError::OutOfRange { field, value, least, most });
            }
        }
        let bytes = self.encode().len();
        if bytes > MAX_ENCODED_BYTES {
            return Err(LayoutError::TooLong { model: self.model.clone(), bytes });
        }
        Ok(())
    }

    /// Canonical encoding: numbers little-endian, texts with a `u16` length in front, in the order of the fields.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as u16).to_le_bytes());
            out.extend(text.as_bytes());
        };
        text(&mut out, &self.model);
        text(&mut out, &self.weights);
        text(&mut out, &self.kv_dtype);
        out.extend(self.block_tokens.to_le_bytes());
        out.extend(self.group.to_le_bytes());
        text(&mut out, &self.attention);
        text(&mut out, &self.geometry);
        out.extend(self.ranks.to_le_bytes());
        out.extend(self.stripe_bytes.to_le_bytes());
        out
    }

    /// Reads what [`LayoutSpec::encode`] wrote; `None` when the bytes are not exactly that.
    pub fn decode(bytes: &[u8]) -> Option<LayoutSpec> {
        let mut rest = Rest(bytes);
        let spec = LayoutSpec {
            model: rest.text()?,
            weights: rest.text()?,
            kv_dtype: rest.text()?,
            block_tokens: u32::from_le_bytes(rest.array()?),
            group: u16::from_le_bytes(rest.array()?),
            attention: rest.text()?,
            geometry: rest.text()?,
            ranks: u16::from_le_bytes(rest.array()?),
            stripe_bytes: u64::from_le_bytes(rest.array()?),
        };
        rest.0.is_empty().then_some(spec)
    }

    /// The layout's name.
    pub fn id(&self) -> LayoutId {
        let digest = blake3::derive_key("kvd 2026 layout v1", &self.encode());
        LayoutId(digest[..16].try_into().expect("16 of 32 bytes"))
    }

    /// Bytes of one block's payload: all stripes.
    pub fn payload_bytes(&self) -> u64 {
        self.stripe_bytes * u64::from(self.ranks)
    }

    /// Bytes of the slot that holds one block image: header and payload, in whole pages.
    pub fn slot_bytes(&self) -> u64 {
        HEADER_BYTES + round_up_to_page(self.payload_bytes())
    }

    /// [`LayoutSpec::slot_bytes`] in pages.
    pub fn slot_pages(&self) -> u32 {
        (self.slot_bytes() / PAGE_BYTES) as u32
    }

    /// Offset of `rank`'s stripe from the start of the slot.
    pub fn stripe_offset(&self, rank: u16) -> u64 {
        HEADER_BYTES + u64::from(rank) * self.stripe_bytes
    }
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::from(u16::from_le_bytes(self.array()?));
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        String::from_utf8(head.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> LayoutSpec {
        LayoutSpec {
            model: "m".into(),
            weights: "w".into(),
            kv_dtype: "bfloat16".into(),
            block_tokens: 32,
            group: 0,
            attention: "full_attention".into(),
            geometry: "g".into(),
            ranks: 2,
            stripe_bytes: 5000,
        }
    }

    #[test]
    fn an_encoded_layout_reads_back() {
        assert_eq!(LayoutSpec::decode(&spec().encode()), Some(spec()));
        assert_eq!(LayoutSpec::decode(&spec().encode()[1..]), None);
    }

    #[test]
    fn a_slot_is_a_header_and_whole_pages() {
        assert_eq!(spec().slot_bytes(), 4096 + 12288);
        assert_eq!(spec().stripe_offset(1), 4096 + 5000);
    }

    #[test]
    fn every_field_changes_the_name() {
        let base = spec().id();
        let changes: [fn(&mut LayoutSpec); 9] = [
            |s| s.model.push('x'),
            |s| s.weights.push('x'),
            |s| s.kv_dtype.push('x'),
            |s| s.block_tokens += 1,
            |s| s.group += 1,
            |s| s.attention.push('x'),
            |s| s.geometry.push('x'),
            |s| s.ranks += 1,
            |s| s.stripe_bytes += 1,
        ];
        for change in changes {
            let mut other = spec();
            change(&mut other);
            assert_ne!(other.id(), base);
        }
    }

    #[test]
    fn impossible_numbers_are_named() {
        let error = LayoutSpec { ranks: 65, ..spec() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "layout field `ranks` is 65, allowed is 1 to 64");
    }
}
