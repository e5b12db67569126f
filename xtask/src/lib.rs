//! The chores behind `cargo xtask`, as functions, so that tests can run them too.

#![forbid(unsafe_code)]

pub mod bench;
pub mod docs;
pub mod graph;
pub mod repository;
pub mod sim;
pub mod tidy;
