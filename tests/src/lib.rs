//! Tests that need more than one crate: the deterministic simulation of a whole node, and named scenarios.

#![forbid(unsafe_code)]

pub mod desk;
pub mod sim;
