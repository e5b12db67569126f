//! Small names that are valid only inside one daemon.

use crate::hash::SequenceHash;
use crate::units::PAGE_BYTES;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// Stands for a [`crate::LayoutId`] inside one daemon. Assigned once per data directory and kept in the catalog.
    LayoutHandle(u16)
);
id!(
    /// One engine instance: its control connection and all its worker connections.
    SessionId(u64)
);
id!(
    /// A grant to write or to read a set of slots.
    LeaseId(u64)
);
id!(
    /// Chosen by the client, echoed by the answer. Unique per connection.
    RequestId(u64)
);
id!(
    /// One transfer between the arena and a tier.
    OpId(u64)
);
id!(
    /// Where a slot starts inside its medium, in 4 KiB pages. 32 bits reach 16 TiB.
    SlotIndex(u32)
);

impl SlotIndex {
    /// Offset of the slot's header from the start of the medium.
    pub fn offset_bytes(self) -> u64 {
        u64::from(self.0) * PAGE_BYTES
    }
}

/// The name of a block inside one daemon: layout and sequence hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    /// The layout that gives the bytes their meaning.
    pub layout: LayoutHandle,
    /// The tokens, and everything before them.
    pub hash: SequenceHash,
}

impl fmt::Display for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}/{}", self.layout, self.hash)
    }
}
