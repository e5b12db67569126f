//! What kvd tells the world: a block came to a tier, or left it.

use crate::hash::{LocalHash, SequenceHash};
use crate::ids::BlockKey;
use crate::tier::TierKind;

/// One change of residency. Exactly one exists for every change, in every tier.
///
/// Replaying all edges of a daemon's incarnation, in order, reproduces its residency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResidencyEdge {
    /// The block can be read from `tier` from now on.
    Stored {
        /// The block.
        key: BlockKey,
        /// Where.
        tier: TierKind,
        /// The block before it in its sequence.
        parent: SequenceHash,
        /// What routers match its own tokens by.
        local: LocalHash,
        /// How many blocks come before it.
        position: u32,
    },
    /// The block can no longer be read from `tier`.
    Removed {
        /// The block.
        key: BlockKey,
        /// Where.
        tier: TierKind,
    },
}

impl ResidencyEdge {
    /// The block.
    pub fn key(&self) -> BlockKey {
        let (ResidencyEdge::Stored { key, .. } | ResidencyEdge::Removed { key, .. }) = self;
        *key
    }
}
