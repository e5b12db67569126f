//! Exact membership of (block, holder, medium), and how far a prompt's prefix reaches in each holder.
//!
//! A **holder** is one stream of residency edges: one data-parallel rank and KV group of an engine, or one layout of a kvd node.
//! A block is what it is by its own [`LocalHash`](kvd_block::LocalHash) and the block before it; publishers call it by a
//! [`BlockName`], whose meaning a [`NameDomain`] shares. Membership may have holes, and a block may be in several media.
//!
//! Pure: no clock, socket or thread.

#![forbid(unsafe_code)]

mod alias;
#[cfg(test)]
mod check;
mod evict;
mod find;
mod held;
mod naive;
mod orphan;
mod reach;
mod remove;
mod run;
mod slab;
mod snapshot;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod tree;

pub use find::Walk;
pub use naive::NaiveIndex;
pub use reach::{Group, Reach, Span, WorkerShape};
pub use snapshot::SnapshotError;
pub use tree::{Index, IndexLimits, IndexStats};

use std::fmt;

/// What a publisher calls a block: the low 64 bits of its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockName(pub u64);

/// Publishers that call equal blocks by equal names share one; names of different domains are unrelated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NameDomain(pub u16);

/// One stream of residency edges. Given out by [`Index::add_holder`], and again after it was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HolderId(pub u16);

/// Where a holder has a block, fastest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Medium {
    /// GPU memory.
    Device = 0,
    /// Host memory.
    Host = 1,
    /// A local disk.
    Disk = 2,
    /// Somewhere else: an object store, a peer.
    External = 3,
}

impl Medium {
    /// Every medium, fastest first.
    pub const ALL: [Medium; 4] = [Medium::Device, Medium::Host, Medium::Disk, Medium::External];

    /// The medium an engine's event names; `None` when nobody uses that name.
    pub fn named(name: &str) -> Option<Medium> {
        Some(match name {
            "GPU" | "DEVICE" => Medium::Device,
            "CPU" | "CPU_PINNED" | "CPU_TIER1" => Medium::Host,
            "CPU_TIER2" | "DISK" | "NVME" | "STORAGE" => Medium::Disk,
            "EXTERNAL" | "REMOTE" | "SHARED" => Medium::External,
            _ => return None,
        })
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(["device", "host", "disk", "external"][*self as usize])
    }
}

/// A set of media.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Media(u8);

impl Media {
    /// No medium.
    pub const NONE: Media = Media(0);

    /// Just `medium`.
    pub fn of(medium: Medium) -> Media {
        Media(1 << medium as u8)
    }

    /// True when `medium` is in the set.
    pub fn contains(self, medium: Medium) -> bool {
        self.0 & (1 << medium as u8) != 0
    }

    /// The set with `medium` in it.
    pub fn with(self, medium: Medium) -> Media {
        Media(self.0 | (1 << medium as u8))
    }

    /// The set without `medium`.
    pub fn without(self, medium: Medium) -> Media {
        Media(self.0 & !(1 << medium as u8))
    }

    /// What is in either.
    pub fn or(self, other: Media) -> Media {
        Media(self.0 | other.0)
    }

    /// True when there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// One bit for each, the fastest lowest.
    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// The set that [`Media::bits`] made this of; `None` when it is empty or says more.
    pub(crate) fn of_bits(bits: u8) -> Option<Media> {
        (1..16).contains(&bits).then_some(Media(bits))
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The number of the fastest medium of a set that is not empty; of an empty one, of the slowest.
    pub(crate) fn fastest_index(self) -> usize {
        (self.0.trailing_zeros() as usize).min(3)
    }

    /// The fastest medium of the set.
    pub fn fastest(self) -> Option<Medium> {
        Medium::ALL.into_iter().find(|medium| self.contains(*medium))
    }
}

/// What a [`Index::store`] did, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    /// Were not in that holder's medium before.
    pub added: u32,
    /// Were there already: an edge came twice.
    pub again: u32,
    /// Wait for their parent, which nobody has told of. They are found once it is.
    pub orphaned: u32,
}

/// What a [`Index::remove`] did, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Were there and no longer are.
    pub removed: u32,
    /// Were not there.
    pub unknown: u32,
}

/// 65,535 holders are registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the index already follows {} publishers' streams, which is all it can", u16::MAX)]
pub struct TooManyHolders;
