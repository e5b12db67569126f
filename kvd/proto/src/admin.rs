//! Administration of a daemon over gRPC, generated from `proto/kvd/admin/v1/admin.proto`, where it is documented.

#[allow(missing_docs, clippy::all)]
mod generated {
    tonic::include_proto!("kvd.admin.v1");
}

pub use generated::*;

/// Where a daemon's administration listens unless it is told otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7411";
