//! Where each block is, told by events, and which worker a request should go to.
//!
//! * [`index`]: exact membership of (block, holder, medium) and the longest usable prefix of a prompt per worker. Pure, a crate of
//!   its own.
//! * [`hash`]: prompts into the hashes the index is asked with. Pure.
//! * [`ingest`]: publishers' event streams into the index.
//! * [`route`]: what each worker would cost in milliseconds, and which one is taken. Pure.
//! * [`fleet`]: which workers and kvd nodes there are, and who says so.
//! * [`settings`]: everything that can be set.

#![forbid(unsafe_code)]

pub mod fleet;
pub mod hash;
pub use kvd_index as index;
pub mod ingest;
pub mod route;
pub mod settings;
