//! KV events as vLLM 0.32 and SGLang 0.5 publish them over ZeroMQ, with what kvd adds.
//!
//! A message has three frames: topic (UTF-8), number (`u64` big-endian, from 0 per daemon life), payload. The payload is
//! MessagePack: `[seconds since 1970 (f64), [event …], rank|nil]`; an event is a map with a `type`. Readers skip keys they do
//! not know, so what is ours starts with `kvd_` and a router written for vLLM reads the stream as it is.

use kvd_block::SequenceHash;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum KvEvent {
    /// Blocks that follow one another can be read from a medium from now on.
    BlockStored(BlockStored),
    /// Blocks can no longer be read from a medium.
    BlockRemoved(BlockRemoved),
    /// Forget everything learned from this publisher so far.
    AllBlocksCleared {
        /// The life of the daemon that begins here.
        #[serde(default)]
        kvd_incarnation: u64,
    },
}

/// Blocks gained by a medium: each is the parent of the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockStored {
    /// The blocks, parents first.
    pub block_hashes: Vec<SequenceHash>,
    /// The block before the first; nothing when it starts a sequence.
    pub parent_block_hash: Option<ByteBuf>,
    /// The tokens of all blocks, or nothing when they are not known.
    pub token_ids: Vec<u32>,
    /// Tokens in each block.
    pub block_size: u32,
    /// Always nothing: hashes of adapters' blocks differ already.
    pub lora_id: Option<u64>,
    /// `CPU` or `STORAGE`.
    pub medium: String,
    /// KV group of the layout.
    pub group_idx: u16,
    /// Layout id, 32 hexadecimal digits.
    #[serde(default)]
    pub kvd_layout: String,
    /// Routing name of each block.
    #[serde(default)]
    pub kvd_route: Vec<u64>,
    /// How many blocks come before the first.
    #[serde(default)]
    pub kvd_position: u32,
}

/// Blocks lost by a medium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRemoved {
    /// The blocks.
    pub block_hashes: Vec<SequenceHash>,
    /// `CPU` or `STORAGE`.
    pub medium: String,
    /// KV group of the layout.
    pub group_idx: u16,
    /// Layout id, 32 hexadecimal digits.
    #[serde(default)]
    pub kvd_layout: String,
    /// Routing name of each block.
    #[serde(default)]
    pub kvd_route: Vec<u64>,
}

/// The payload of a message that was published at `unix_seconds`.
pub fn encode(unix_seconds: f64, events: &[KvEvent]) -> Vec<u8> {
    rmp_serde::to_vec_named(&(unix_seconds, events, None::<u32>)).expect("plain values in memory can be encoded")
}

/// Time and events of a payload that kvd published.
pub fn decode(payload: &[u8]) -> Result<(f64, Vec<KvEvent>), rmp_serde::decode::Error> {
    let (unix_seconds, events, _rank): (f64, Vec<KvEvent>, Option<u32>) = rmp_serde::from_slice(payload)?;
    Ok((unix_seconds, events))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> KvEvent {
        KvEvent::BlockStored(BlockStored {
            block_hashes: vec![SequenceHash([1; 16]), SequenceHash([2; 16])],
            parent_block_hash: None,
            token_ids: vec![7, 8],
            block_size: 1,
            lora_id: None,
            medium: "CPU".into(),
            group_idx: 0,
            kvd_layout: "ab".into(),
            kvd_route: vec![3, u64::MAX],
            kvd_position: 0,
        })
    }

    #[test]
    fn events_survive_the_wire() {
        let removed = KvEvent::BlockRemoved(BlockRemoved {
            block_hashes: vec![SequenceHash([9; 16])],
            medium: "STORAGE".into(),
            group_idx: 2,
            kvd_layout: String::new(),
            kvd_route: vec![1],
        });
        let events = vec![KvEvent::AllBlocksCleared { kvd_incarnation: 4 }, stored(), removed];
        assert_eq!(decode(&encode(1.5, &events)).unwrap(), (1.5, events));
    }

    /// The beginning is what vLLM 0.32 sends: array of 3, `f64`, array of events, map, `"type"` first.
    #[test]
    fn a_payload_begins_as_an_engines_does() {
        let payload = encode(0.0, &[stored()]);
        let mut expected = vec![0x93, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0, 0x91, 0x8b, 0xa4];
        expected.extend(b"type");
        expected.push(0xab);
        expected.extend(b"BlockStored");
        expected.push(0xac);
        expected.extend(b"block_hashes");
        expected.extend([0x92, 0xc4, 16]);
        assert_eq!(&payload[..expected.len()], expected);
        assert_eq!(payload.last(), Some(&0xc0), "no rank");
    }
}
