//! Ours, as the router uses it: behind a lock, taken once a message.

use crate::inputs::Message;
use kvd_block::LocalHash;
use kvd_index::{HolderId, Index, IndexLimits, Medium, NameDomain, Walk};
use std::sync::RwLock;

/// See the module.
pub struct Ours {
    index: RwLock<Index>,
    holders: Vec<HolderId>,
}

impl Ours {
    /// With a holder for each worker.
    pub fn new(workers: usize) -> Ours {
        let mut index = Index::new(IndexLimits::default());
        let holders = (0..workers).map(|_| index.add_holder(NameDomain(0), 0).expect("room")).collect();
        Ours { index: RwLock::new(index), holders }
    }

    /// Applies one message.
    pub fn apply(&self, message: &Message) {
        let mut index = self.index.write().expect("no panic while held");
        let holder = self.holders[message.worker];
        if message.locals.is_empty() {
            index.remove(holder, Medium::Device, &message.names);
        } else {
            index.store(holder, Medium::Device, message.parent, &message.names, &message.locals);
        }
    }

    /// Blocks of the prompt's prefix by worker.
    pub fn scores(&self, prompt: &[LocalHash], walk: &mut Walk) -> Vec<(usize, u32)> {
        self.find(prompt, walk);
        let mut scores: Vec<(usize, u32)> = walk.found().map(|(holder, reach)| (usize::from(holder.0), reach.blocks)).collect();
        scores.sort_unstable();
        scores
    }

    /// The look-up alone.
    pub fn find(&self, prompt: &[LocalHash], walk: &mut Walk) -> usize {
        self.index.read().expect("no panic while held").find(prompt, walk);
        walk.found().count()
    }

    /// Memberships the index counts.
    pub fn memberships(&self) -> u64 {
        self.index.read().expect("no panic while held").stats().memberships
    }
}
