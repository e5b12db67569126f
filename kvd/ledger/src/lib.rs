//! Every decision of kvd, as one pure state machine.
//!
//! [`Ledger::step`] takes the time and one input, and appends to a list what must happen next, in order. It does no I/O,
//! reads no clock, starts no thread and rolls no dice, so a seed replays any failure and a test needs no runtime.
//! The daemon around it turns sockets, timers and tiers into inputs, and actions into replies, transfers, catalog writes
//! and events.
//!
//! ```text
//!          prepare_store            complete_store
//! Absent ───────────────▶ Filling ────────────────▶ Resident{cpu} ⇄ Resident{cpu, nvme} ⇄ Resident{nvme}
//!   ▲                       │ lease ends first            │ last tier evicted                 │
//!   └───────────────────────┴─────────────────────────────┴───────────────────────────────────┘
//! ```
//!
//! A tier is gained only when a transfer reports success, and every gain and loss is published exactly once.

#![forbid(unsafe_code)]

pub mod admission;
pub mod config;
pub mod counters;
mod erase;
mod evict;
pub mod input;
mod invariant;
mod lease;
mod load;
mod lookup;
mod machine;
mod offload;
mod pin;
mod purge;
mod record;
mod recover;
mod residency;
pub mod snapshot;
pub mod space;
mod store;
pub mod view;

pub use admission::Admission;
pub use config::LedgerConfig;
pub use counters::Counters;
pub use evict::policy::Eviction;
pub use input::{Action, CatalogRow, Input, LedgerReply, ReadResult, SealedBlock, Transfer, WriteResult};
pub use machine::Ledger;
pub use space::SpaceConfig;
pub use view::{BlockView, TierTotals, WalkCursor};
