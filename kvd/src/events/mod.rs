//! Tells subscribers about every change of residency, numbered, over ZeroMQ.
//!
//! * [`EventFeed`] on the driver's thread collects edges, numbers messages and never waits.
//! * [`publisher`] turns them into bytes, keeps the last of them and sends them.
//!
//! A message that cannot be queued is dropped *after* it was numbered: a subscriber sees the gap and asks for a replay,
//! or for a snapshot when the message was never encoded. Every message carries a digest of what is resident after it, edges of
//! dropped messages included, so whoever has a wrong view finds out with the next message, and one comes at least every
//! two seconds ([`BEAT_MS`]).

mod feed;
mod line;
mod merge;
pub mod publisher;
mod ring;

pub use feed::{BEAT_MS, Content, EdgeFact, EventFeed, Numbered, QUEUE_MESSAGES};
pub use publisher::{EventsError, Publisher};
