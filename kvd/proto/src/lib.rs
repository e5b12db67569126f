//! What kvd's processes say to each other.
//!
//! * [`local`]: an engine and the daemon of its node, over a Unix socket.
//! * [`frame`]: how a local message becomes bytes.
//! * [`wire`]: formats that other projects read, too: KV events.
//! * `admin` (with the feature of that name): administration over gRPC.
//! * `router` (likewise): what a router is asked over gRPC.

#![forbid(unsafe_code)]

#[cfg(feature = "admin")]
pub mod admin;
pub mod frame;
pub mod local;
#[cfg(feature = "router")]
pub mod router;
mod socket_path;
pub mod wire;

/// Version of the local protocol. A daemon and an engine with different versions refuse each other by name.
pub const PROTOCOL_VERSION: u16 = 2;
