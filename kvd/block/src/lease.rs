//! What is said about single blocks when slots are granted.

use crate::checksum::Checksum;
use crate::hash::{LocalHash, SequenceHash};
use crate::ids::SlotIndex;
use crate::tier::TierKind;
use serde::{Deserialize, Serialize};

/// One block an engine has computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewBlock {
    /// The block.
    pub hash: SequenceHash,
    /// The block before it; [`SequenceHash::ROOT`] for the first.
    pub parent: SequenceHash,
    /// What routers match its own tokens by.
    pub local: LocalHash,
    /// How many blocks come before it.
    pub position: u32,
    /// Its tokens, `u32` little-endian; may be empty.
    #[serde(with = "serde_bytes")]
    pub tokens: Vec<u8>,
}

/// One block whose bytes are in its slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilledBlock {
    /// Index into the blocks of the `PrepareStore` that made the lease.
    pub index: u32,
    /// Checksum of each rank's stripe, in rank order.
    pub stripes: Vec<Checksum>,
}

/// Where a block was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum BlockState {
    /// Nowhere.
    Miss = 0,
    /// Someone is storing it right now.
    Pending = 1,
    /// In the arena.
    Cpu = 2,
    /// On NVMe.
    Nvme = 3,
}

impl BlockState {
    /// The state for the fastest tier that has the block.
    pub fn in_tier(tier: TierKind) -> BlockState {
        match tier {
            TierKind::Cpu => BlockState::Cpu,
            TierKind::Nvme => BlockState::Nvme,
        }
    }

    /// True when the block can be loaded.
    pub fn is_hit(self) -> bool {
        matches!(self, BlockState::Cpu | BlockState::Nvme)
    }

    /// Reads the byte that `state as u8` gives.
    pub fn from_byte(byte: u8) -> Option<BlockState> {
        [BlockState::Miss, BlockState::Pending, BlockState::Cpu, BlockState::Nvme].into_iter().find(|state| *state as u8 == byte)
    }
}

/// What the daemon says to one block of a `PrepareStore`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreGrant {
    /// Copy it into this slot.
    Write(SlotIndex),
    /// It is stored already.
    Present,
    /// Someone else is storing it.
    Pending,
    /// No slot can be had now. Do not store it, do not wait.
    Busy,
}

/// What the daemon says to one block of a `PrepareLoad`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadGrant {
    /// Copy it out of this slot.
    Ready(SlotIndex),
    /// It is being read from a slower tier: a [`Reply::Staged`] will follow.
    Staging,
    /// It cannot be had.
    Miss,
}
