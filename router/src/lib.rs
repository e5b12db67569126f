//! Where each block is, told by events, and which worker a request should go to.
//!
//! * [`index`]: exact membership of (block, holder, medium) and the longest usable prefix of a prompt per worker. Pure.
//! * [`hash`]: prompts into the hashes the index is asked with. Pure.
//! * [`ingest`]: publishers' event streams into the index.

#![forbid(unsafe_code)]

pub mod hash;
pub mod index;
pub mod ingest;
