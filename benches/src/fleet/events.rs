//! Residency edges on their way from engines and nodes to the router's index.

use kvd_block::LocalHash;
use kvd_router::index::{BlockName, HolderId, Index, Medium};
use std::collections::VecDeque;

#[derive(Debug)]
enum Edge {
    Stored { parent: Option<BlockName>, names: Vec<BlockName> },
    Removed { names: Vec<BlockName> },
}

/// Edges in order, each with the moment at which it is known.
#[derive(Debug)]
pub struct Events {
    on_the_way: VecDeque<(f64, HolderId, Medium, Edge)>,
    delay_ms: f64,
    /// Without an index that wants to know, nothing is sent.
    are_wanted: bool,
}

fn names(blocks: &[u64]) -> Vec<BlockName> {
    blocks.iter().map(|block| BlockName(*block)).collect()
}

impl Events {
    pub fn new(delay_ms: f64, are_wanted: bool) -> Events {
        Events { on_the_way: VecDeque::new(), delay_ms, are_wanted }
    }

    /// Blocks `from..to` of a prompt came to a medium.
    pub fn stored(&mut self, now_ms: f64, holder: HolderId, medium: Medium, blocks: &[u64], from: usize, to: usize) {
        if self.are_wanted && from < to {
            let parent = from.checked_sub(1).map(|before| BlockName(blocks[before]));
            self.on_the_way.push_back((now_ms + self.delay_ms, holder, medium, Edge::Stored { parent, names: names(&blocks[from..to]) }));
        }
    }

    /// Blocks left a medium.
    pub fn removed(&mut self, now_ms: f64, holder: HolderId, medium: Medium, blocks: &[u64]) {
        if self.are_wanted && !blocks.is_empty() {
            self.on_the_way.push_back((now_ms + self.delay_ms, holder, medium, Edge::Removed { names: names(blocks) }));
        }
    }

    /// Tells the index all that it can know by now.
    pub fn arrive(&mut self, now_ms: f64, index: &mut Index) {
        while self.on_the_way.front().is_some_and(|(at_ms, ..)| *at_ms <= now_ms) {
            let Some((_, holder, medium, edge)) = self.on_the_way.pop_front() else { return };
            match edge {
                Edge::Stored { parent, names } => {
                    // Names here are hashes of the whole prefix, so they serve as hashes of the block as well.
                    let locals: Vec<LocalHash> = names.iter().map(|name| LocalHash(name.0)).collect();
                    index.store(holder, medium, parent, &names, &locals);
                }
                Edge::Removed { names } => {
                    index.remove(holder, medium, &names);
                }
            }
        }
    }
}
