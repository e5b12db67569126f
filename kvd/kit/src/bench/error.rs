//! Why nothing could be measured.

use crate::trace::TraceError;
use std::path::PathBuf;

/// Why nothing could be measured. The medium is left as it was.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The trace.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The model.
    #[error(transparent)]
    Model(#[from] crate::preset::ModelError),
    /// Something chosen does not go with something else.
    #[error("{0}")]
    Choice(String),
    /// The directory to measure cannot be used.
    #[error("{}: {why}", .path.display())]
    Place {
        /// The directory or device.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// Less room than wanted.
    #[error("{}: needs {} for blocks, has {} free; give less with --storage-bytes", .path.display(), super::table::bytes(*needed), super::table::bytes(*free))]
    NoSpace {
        /// The directory.
        path: PathBuf,
        /// What is needed, in bytes.
        needed: u64,
        /// What is free, in bytes.
        free: u64,
    },
    /// The daemon did not start, or ended.
    #[error("the daemon under test {what}{}", said(journal))]
    Daemon {
        /// What it did.
        what: String,
        /// The end of what it said.
        journal: String,
    },
    /// A file of ours cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

fn said(journal: &str) -> String {
    if journal.is_empty() { String::new() } else { format!("; it said:\n{journal}") }
}
