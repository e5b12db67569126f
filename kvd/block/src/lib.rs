//! The vocabulary of kvd: what a block is called, what its image looks like, where it can live.
//!
//! Everything here is a value or a pure function. No file, socket, clock, thread or random source is
//! ever touched in this crate, and nothing of ours is below it.

#![forbid(unsafe_code)]

pub mod chain;
pub mod checksum;
pub mod digest;
pub mod event;
pub mod hash;
pub mod ids;
pub mod image;
pub mod layout;
pub mod lease;
pub mod purges;
pub mod route;
pub mod tier;
pub mod units;

pub use chain::{ChainIdentity, HashChain, LinkedBlock};
pub use checksum::Checksum;
pub use event::ResidencyEdge;
pub use hash::{LayoutId, LocalHash, SequenceHash};
pub use ids::{BlockKey, LayoutHandle, LeaseId, OpId, RequestId, SessionId, SlotIndex};
pub use image::{BlockHeader, HeaderError};
pub use layout::{LayoutError, LayoutSpec};
pub use lease::{BlockState, FilledBlock, LoadGrant, NewBlock, StoreGrant};
pub use purges::Purges;
pub use tier::{TierKind, TierSet};
pub use units::{HEADER_BYTES, PAGE_BYTES, Tick};
