//! Blocks of a kvd's snapshot into the index, in runs of blocks that follow one another.

use super::{Applier, Refusal};
use crate::index::{BlockName, Medium};
use kvd_block::{LayoutId, LocalHash};
use kvd_proto::admin::{SnapshotBlock, SnapshotLayout, SnapshotPart};
use std::collections::HashMap;

impl Applier {
    /// Adds blocks of a snapshot.
    pub fn place(&mut self, part: &SnapshotPart) -> Result<(), Refusal> {
        self.life = Some(part.incarnation);
        for SnapshotLayout { handle, id, block_tokens, group, model, .. } in &part.layouts {
            let id = self.learn_one(id, model, *block_tokens, *group, "")?;
            self.handles.insert(*handle, id);
        }
        let mut run = Run::default();
        for block in &part.blocks {
            let Some(next) = Edge::of(block, &self.handles) else {
                self.tally.skipped.media += 1;
                continue;
            };
            if !run.continued_by(&next) {
                self.store_run(&mut run)?;
            }
            run.push(next);
        }
        self.store_run(&mut run)
    }

    fn store_run(&mut self, run: &mut Run) -> Result<(), Refusal> {
        let Some((layout, medium)) = run.of.take() else { return Ok(()) };
        let seat = self.add_layout(layout)?;
        let (mut indexes, seats) = self.holders.lock();
        let seat = &mut seats[seat];
        let stored = indexes[seat.space].store(seat.holder, medium, run.parent, &run.names, &run.locals);
        self.tally.stored(stored);
        seat.blocks[medium as usize] += u64::from(stored.added + stored.orphaned);
        run.names.clear();
        run.locals.clear();
        Ok(())
    }
}

/// One block of a snapshot.
struct Edge {
    layout: LayoutId,
    medium: Medium,
    parent: Option<BlockName>,
    name: BlockName,
    local: LocalHash,
}

fn name(hash: &[u8]) -> Option<BlockName> {
    hash.first_chunk().filter(|_| hash.len() == 16).map(|first| BlockName(u64::from_le_bytes(*first)))
}

impl Edge {
    fn of(block: &SnapshotBlock, handles: &HashMap<u32, LayoutId>) -> Option<Edge> {
        let parent = if block.parent.iter().all(|byte| *byte == 0) { None } else { Some(name(&block.parent)?) };
        Some(Edge {
            layout: *handles.get(&block.layout)?,
            medium: Medium::named(&block.medium)?,
            parent,
            name: name(&block.hash)?,
            local: LocalHash(block.local),
        })
    }
}

/// Blocks of a snapshot that follow one another.
#[derive(Default)]
struct Run {
    of: Option<(LayoutId, Medium)>,
    parent: Option<BlockName>,
    names: Vec<BlockName>,
    locals: Vec<LocalHash>,
}

impl Run {
    fn continued_by(&self, next: &Edge) -> bool {
        self.of == Some((next.layout, next.medium)) && next.parent == self.names.last().copied()
    }

    fn push(&mut self, next: Edge) {
        if self.of.is_none() {
            (self.of, self.parent) = (Some((next.layout, next.medium)), next.parent);
        }
        self.names.push(next.name);
        self.locals.push(next.local);
    }
}
