//! Where each block is, told by events, and which worker a request should go to.
//!
//! * [`index`]: exact membership of (block, holder, medium) and the longest usable prefix of a prompt per worker. Pure, a crate of
//!   its own.
//! * [`hash`]: prompts into the hashes the index is asked with. Pure.
//! * [`ingest`]: publishers' event streams into the index.
//! * [`route`]: what each worker would cost in milliseconds, and which one is taken. Pure.
//! * [`fleet`]: which workers and kvd nodes there are, and who says so.
//! * [`service`]: all of it together, for a process that embeds it; [`http`] and [`rpc`] serve it to others.
//! * [`settings`], [`metrics`], [`logging`]: everything that can be set, is measured, and is written to the journal.

#![forbid(unsafe_code)]

mod clock;
pub mod fleet;
pub mod hash;
pub mod http;
pub use kvd_index as index;
pub mod ingest;
pub mod logging;
pub mod metrics;
pub mod route;
pub mod rpc;
pub mod service;
pub mod settings;
