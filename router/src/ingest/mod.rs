//! Publishers' streams into the index, and whether the result is complete.
//!
//! ```text
//! sockets ──▶ stream ──▶ apply (wire) ──▶ namespaces: one index each
//!             numbers,     decode, hash,
//!             repairs      one lock a message
//! ```
//!
//! * [`wire`]: payloads into residency edges. Pure.
//! * [`stream`]: one publisher's numbers, losses, lives and repairs. Pure.
//! * [`source`]: sockets and tasks around them.
//! * [`apply`]: messages and snapshots into the index.
//! * [`namespaces`]: the indexes, one for each model and block size.

pub mod apply;
mod holders;
pub mod namespaces;
mod saved;
pub mod source;
pub mod stream;
pub mod wire;

pub use holders::{HolderKey, HolderView};
pub use saved::SavedError;
