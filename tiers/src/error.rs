//! What can go wrong in a tier, named by what the caller can do about it.

use crate::tier::BlockName;
use kvd_block::{SlotIndex, TierKind};
use std::io;

/// Outcome of one block's transfer that was not a success.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// Too much is under way. Try again later, or go on without.
    #[error("queue of the {tier} tier is full")]
    Busy {
        /// The tier.
        tier: TierKind,
    },
    /// The medium holds something else than the block asked for, or damaged bytes. Forget that residency.
    #[error("{name} at page {address} of the {tier} tier: {why}")]
    Corrupt {
        /// The tier.
        tier: TierKind,
        /// The block asked for.
        name: BlockName,
        /// Where it was expected.
        address: SlotIndex,
        /// What was found.
        why: String,
    },
    /// The medium has no room. Stop writing for a while.
    #[error("the {tier} tier is full: {source}")]
    Full {
        /// The tier.
        tier: TierKind,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The medium failed. Forget that residency.
    #[error("the {tier} tier failed at page {address}: {source}")]
    Io {
        /// The tier.
        tier: TierKind,
        /// Where.
        address: SlotIndex,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The tier is shutting down, or its I/O thread died.
    #[error("the {tier} tier is closed")]
    Closed {
        /// The tier.
        tier: TierKind,
    },
}
