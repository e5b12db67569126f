//! A router in a process, and fake engines that publish to it.

mod engine;
mod http;
mod node;
mod router;

pub use engine::Engine;
pub use http::call;
pub use node::Node;
pub use router::{Router, eventually, program};

/// Tokens `first..first + count`.
pub fn tokens(first: u32, count: u32) -> Vec<u32> {
    (first..first + count).collect()
}
