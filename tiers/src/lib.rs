//! Where blocks live below the arena.
//!
//! A tier only moves whole block images between arena slots and one medium. It decides nothing: which block goes where is
//! the ledger's business. The catalog remembers across restarts what a tier holds.

#![deny(unsafe_code)]

mod admission;
pub mod catalog;
pub mod completion;
pub mod conformance;
pub mod error;
mod gather;
pub mod memory;
pub mod null;
pub mod nvme;
pub mod tier;
mod verify;
pub mod wrap;

pub use catalog::{Catalog, CatalogChange, CatalogError, CatalogRow, CatalogWriter};
pub use completion::{Completer, Completion};
pub use error::TierError;
pub use memory::MemoryTier;
pub use null::NullTier;
pub use nvme::{FoundImage, IoEngine, NvmeConfig, NvmeTier, OpenError, PurgeTable};
pub use tier::{BlockName, ReadBlock, ReadOutcome, Tier, TierLimits, WriteBlock, WriteOutcome};
pub use wrap::{FaultPlan, Faulty};
