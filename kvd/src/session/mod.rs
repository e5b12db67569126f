//! Engines: who connects, what they say, and when they are gone.
//!
//! One engine instance is one session of the ledger: a control connection (requests) and worker connections (which only
//! keep the instance alive while they may still be copying). The session ends when the last of them is gone.

mod access;
mod connection;
mod engines;
mod greeting;
mod listener;
mod outbox;
mod requests;

pub use access::Access;
pub use connection::{SOFTWARE, Service, send_with_arena};
pub use engines::{EngineView, Engines, OPERATOR};
pub use greeting::{Greeting, read_hello};
pub use listener::{BindError, Listener, refuse_if_served};
pub use outbox::{NotQueued, Outbox};
