//! The daemon as its users meet it: a real process, real sockets, a real file.

mod support;

mod engines;
mod events;
mod example_config;
mod follower;
mod media;
mod memory;
mod operate;
mod recovery;
mod scrub;
mod start;
mod takeover;
