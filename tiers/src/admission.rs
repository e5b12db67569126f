//! How many blocks a tier has under way: the one place where `Busy` is decided.
//!
//! Never waits: a block gets its permit at once or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts blocks under way, up to a limit.
#[derive(Debug)]
pub(crate) struct Admission {
    inflight: AtomicUsize,
    most: usize,
}

/// One block's place. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Admission>);

impl Admission {
    pub fn new(most: usize) -> Arc<Admission> {
        Arc::new(Admission { inflight: AtomicUsize::new(0), most })
    }

    /// A place, or `None` when all are taken.
    pub fn admit(self: &Arc<Self>) -> Option<Permit> {
        let one_more = |inflight| (inflight < self.most).then_some(inflight + 1);
        self.inflight.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Permit(self.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Ordering::AcqRel);
    }
}
