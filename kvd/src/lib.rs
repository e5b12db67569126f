//! The daemon that keeps a node's KV blocks.
//!
//! The ledger decides, this crate does: sockets, timers and tiers become the ledger's inputs, and its actions become replies,
//! transfers, catalog rows and events.
//!
//! ```text
//! engines ⇄ session ─┐                        ┌─▶ session (answers)
//! operators ⇄ rpc ───┼─▶ driver ─▶ Ledger ─▶ executor ─▶ storage (slot file, catalog)
//! tiers' outcomes ───┘   one thread, pure     └─▶ events (PUB, replay)
//! ```

#![forbid(unsafe_code)]

pub mod client;
pub mod clock;
pub mod counters;
pub mod daemon;
pub mod driver;
pub mod events;
pub mod executor;
pub mod layouts;
pub mod logging;
pub mod machine;
pub mod measure;
pub mod metrics;
pub mod operator;
pub mod recovery;
pub mod rpc;
pub mod scrub;
pub mod session;
pub mod settings;
pub mod storage;
pub mod takeover;

pub use daemon::{Addresses, Daemon, ServeError};
pub use settings::Settings;
