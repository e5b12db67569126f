//! The places a block can be.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One place a block can be, fastest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum TierKind {
    /// The shared-memory arena of this node.
    Cpu = 0,
    /// The slot file of this node.
    Nvme = 1,
}

impl TierKind {
    /// Every tier, fastest first.
    pub const ALL: [TierKind; 2] = [TierKind::Cpu, TierKind::Nvme];

    /// The medium name that vLLM's KV events use for it.
    pub fn medium(self) -> &'static str {
        match self {
            TierKind::Cpu => "CPU",
            TierKind::Nvme => "STORAGE",
        }
    }
}

impl fmt::Display for TierKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TierKind::Cpu => "cpu",
            TierKind::Nvme => "nvme",
        })
    }
}

/// A set of tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TierSet(u8);

impl TierSet {
    /// No tier.
    pub const EMPTY: TierSet = TierSet(0);

    /// True when `tier` is in the set.
    pub fn contains(self, tier: TierKind) -> bool {
        self.0 & (1 << tier as u8) != 0
    }

    /// Adds `tier`; true when it was not there before.
    pub fn insert(&mut self, tier: TierKind) -> bool {
        let had = self.contains(tier);
        self.0 |= 1 << tier as u8;
        !had
    }

    /// Removes `tier`; true when it was there.
    pub fn remove(&mut self, tier: TierKind) -> bool {
        let had = self.contains(tier);
        self.0 &= !(1 << tier as u8);
        had
    }

    /// True when no tier is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The fastest tier of the set.
    pub fn fastest(self) -> Option<TierKind> {
        TierKind::ALL.into_iter().find(|tier| self.contains(*tier))
    }
}
