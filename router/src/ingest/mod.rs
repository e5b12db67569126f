//! Publishers' streams into the index, and whether the result is complete.
//!
//! * [`wire`]: payloads into residency edges. Pure.

pub mod wire;
