//! What every engine connector needs, without Python: a link to kvd that never hangs, names for a request's blocks,
//! and copies between the engine's KV pages and the arena whose every byte is checksummed.
//!
//! * [`client`]: the scheduler's side. Lookups and leases, each answered within a deadline or not at all.
//! * [`worker`]: the side that copies. Maps the arena, and refuses slots of another life of the daemon.
//! * [`pages`], [`transfer`], [`layerwise`]: the engine's pages, and the copies between them and slots.
//! * [`chain`]: from the tokens of one request to the names of its blocks.
//!
//! An engine must run as well without kvd as it did before it had kvd: every failure in here is an answer
//! ("not cached", "cannot store now"), never an exception in the middle of a step and never a wait without a limit.

pub mod chain;
pub mod client;
mod connection;
mod exchange;
pub mod journal;
pub mod layerwise;
pub mod lease;
mod link;
pub mod mapped;
pub mod owned;
pub mod pages;
pub mod pool;
pub mod transfer;
pub mod worker;

pub use chain::{Extra, RequestChain};
pub use client::{Client, ClientOptions, Unavailable};
pub use connection::ConnectError;
pub use journal::{Event, Level};
pub use kvd_proto::local::default_socket_path;
pub use layerwise::LoadJob;
pub use lease::{Load, Store};
pub use mapped::MappedArena;
pub use owned::OwnedPages;
pub use pages::{LayerPages, PagedKv, PagesError};
pub use pool::CopyPool;
pub use transfer::TransferError;
pub use worker::{CopyError, WorkerLink};
