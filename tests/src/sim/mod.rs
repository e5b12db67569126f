//! A whole node in one thread and one seed: the real ledger; engines, bytes, disk, catalog and crashes simulated.
//!
//! ```text
//! engines ──requests──▶ daemon (the real Ledger) ──Write, Read, Erase──▶ medium
//!    │  ▲                 │  │                                             │
//!    │  └──replies, notices  └──rows──▶ catalog                            │
//!    └──copy pages──▶ arena ◀──────────────────pages─────────────────────┘
//! ```
//!
//! Time is a number that jumps to the next event. Chance comes from [`dice`] only, so a seed is a whole run and replays
//! any failure. What is checked, and where:
//!
//! * after every step, in [`daemon`]: the ledger's invariants, one reply per request, one settlement per staged block in time;
//! * whenever a reader accepts bytes, in [`bytes`]: they are one whole copy of the block asked for, stored since its last purge;
//! * whenever a reader refuses bytes, in [`copying`](self): there is a reason for it, and under a valid lease only rot is one;
//! * after every step, in [`promises`]: purged and rotten blocks are not found, pinned ones stay;
//! * whenever a snapshot is complete, in [`subscriber`]: it is the residency, and so is what a subscriber follows from there;
//! * whenever a store ends: nobody else wrote into its slots;
//! * at the end of a run: nobody waits, no lease, transfer or slot is left over, the catalog has a row for each block on NVMe, and the events give
//!   the residency.
//!
//! Nothing here reads a clock, starts a thread or touches a file.

pub mod agenda;
pub mod bytes;
pub mod catalog;
mod copying;
pub mod coverage;
pub mod daemon;
pub mod dice;
mod engine;
mod fault;
pub mod medium;
mod node;
pub mod promises;
mod restart;
pub mod setting;
pub mod subscriber;

pub use coverage::{Coverage, Situation};
pub use node::{Line, Outcome, run, run_watched};
