//! What a router is asked over gRPC, generated from `proto/kvd/router/v1/router.proto`, where it is documented.

#[allow(missing_docs, clippy::all)]
mod generated {
    tonic::include_proto!("kvd.router.v1");
}

pub use generated::*;

/// Where a router listens unless it is told otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7422";
