//! What a person runs who has a mount point, a block device or an object store and a question.
//!
//! `conformance` asks whether the medium keeps a tier's promises; `bench` asks how fast it is under recorded KV traffic.
//! Both write only where they may: a target that holds other data is refused.

#![forbid(unsafe_code)]

pub mod bench;
pub mod conformance;
pub mod page;
pub mod payload;
pub mod preset;
pub mod target;
pub mod trace;

pub use target::{Target, TargetError};
