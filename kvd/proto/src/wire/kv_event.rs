//! KV events as vLLM 0.32 and SGLang 0.5 publish them over ZeroMQ, with what kvd adds.
//!
//! A message has three frames: topic (UTF-8), number (`u64` big-endian, from 0 per daemon life), payload. The payload is
//! MessagePack: `[seconds since 1970 (f64), [event …], rank|nil]`; an event is a map with a `type`. Readers skip keys they do
//! not know, so what is ours starts with `kvd_` and a router written for vLLM reads the stream as it is.
//!
//! The last event of every message says which life of the daemon speaks, and what is resident after the message ([`KvEvent::stamp`]).

use kvd_block::digest::Digest;
use kvd_block::{SequenceHash, TierKind};
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
        /// See [`BlockStored::kvd_incarnation`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kvd_incarnation: Option<u64>,
        /// See [`BlockStored::kvd_digest`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kvd_digest: Option<[u64; 2]>,
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
    /// Always nothing, for the same reason. vLLM's decoder wants the key.
    #[serde(default)]
    pub lora_name: Option<String>,
    /// `CPU` or `STORAGE`.
    pub medium: String,
    /// KV group of the layout.
    pub group_idx: u16,
    /// Layout id, 32 hexadecimal digits.
    #[serde(default)]
    pub kvd_layout: String,
    /// Local hash of each block: what routers match its own tokens by.
    #[serde(default)]
    pub kvd_local: Vec<u64>,
    /// How many blocks come before the first.
    #[serde(default)]
    pub kvd_position: u32,
    /// In the last event of a message: the life of the daemon that speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvd_incarnation: Option<u64>,
    /// In the last event of a message: sum and count of what is resident after it, see [`kvd_block::digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvd_digest: Option<[u64; 2]>,
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
    /// See [`BlockStored::kvd_incarnation`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvd_incarnation: Option<u64>,
    /// See [`BlockStored::kvd_digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvd_digest: Option<[u64; 2]>,
}

impl KvEvent {
    /// An event without effect, for a message that only says what is resident. Every reader knows what to do about no blocks.
    pub fn nothing() -> KvEvent {
        KvEvent::BlockRemoved(BlockRemoved {
            block_hashes: Vec::new(),
            medium: TierKind::Cpu.medium().into(),
            group_idx: 0,
            kvd_layout: String::new(),
            kvd_incarnation: None,
            kvd_digest: None,
        })
    }

    /// Makes it the last event of a message: `digest` is of everything resident after it.
    pub fn stamp(&mut self, incarnation: u64, digest: Digest) {
        let (life, sum_and_count) = match self {
            KvEvent::BlockStored(BlockStored { kvd_incarnation, kvd_digest, .. })
            | KvEvent::BlockRemoved(BlockRemoved { kvd_incarnation, kvd_digest, .. })
            | KvEvent::AllBlocksCleared { kvd_incarnation, kvd_digest } => (kvd_incarnation, kvd_digest),
        };
        *life = Some(incarnation);
        *sum_and_count = Some([digest.sum, digest.count]);
    }

    /// Life and digest, when it is the last event of a message.
    pub fn stamped(&self) -> Option<(u64, Digest)> {
        let (life, sum_and_count) = match self {
            KvEvent::BlockStored(BlockStored { kvd_incarnation, kvd_digest, .. })
            | KvEvent::BlockRemoved(BlockRemoved { kvd_incarnation, kvd_digest, .. })
            | KvEvent::AllBlocksCleared { kvd_incarnation, kvd_digest } => (kvd_incarnation, kvd_digest),
        };
        life.zip(*sum_and_count).map(|(life, [sum, count])| (life, Digest { sum, count }))
    }
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
            lora_name: None,
            medium: "CPU".into(),
            group_idx: 0,
            kvd_layout: "ab".into(),
            kvd_local: vec![3, u64::MAX],
            kvd_position: 0,
            kvd_incarnation: None,
            kvd_digest: None,
        })
    }

    #[test]
    fn events_survive_the_wire() {
        let removed = KvEvent::BlockRemoved(BlockRemoved {
            block_hashes: vec![SequenceHash([9; 16])],
            medium: "STORAGE".into(),
            group_idx: 2,
            kvd_layout: String::new(),
            kvd_incarnation: None,
            kvd_digest: None,
        });
        let cleared = KvEvent::AllBlocksCleared { kvd_incarnation: None, kvd_digest: None };
        let mut events = vec![cleared, stored(), removed, KvEvent::nothing()];
        assert_eq!(decode(&encode(1.5, &events)).unwrap(), (1.5, events.clone()));
        let digest = Digest { sum: u64::MAX, count: 3 };
        events.iter_mut().for_each(|event| event.stamp(4, digest));
        assert_eq!(decode(&encode(1.5, &events)).unwrap(), (1.5, events.clone()));
        assert!(events.iter().all(|event| event.stamped() == Some((4, digest))));
    }

    /// The beginning is what vLLM 0.32 sends: array of 3, `f64`, array of events, map, `"type"` first.
    #[test]
    fn a_payload_begins_as_an_engines_does() {
        let payload = encode(0.0, &[stored()]);
        let mut expected = vec![0x93, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0, 0x91, 0x8c, 0xa4];
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
