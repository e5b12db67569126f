//! A load that hands over layer by layer: the engine computes layer `i` while layer `i + 1` is still being copied.
//!
//! Every copying thread owns some of the blocks and takes them through the layers in order, so each block's checksum is one
//! stream and no thread waits for another. Whether the bytes were right is known only at the end: an engine that has used
//! a layer of a block that [`LoadJob::finish`] calls broken must compute that block again.

use crate::mapped::MappedArena;
use crate::pages::PagedKv;
use crate::pool::CopyPool;
use crate::transfer::{Moves, Scatter, TransferError, same_length};
use kvd_block::{SequenceHash, SlotIndex};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// A load under way. Dropping it stops the copy and waits until no thread writes to the engine's pages any more.
#[derive(Debug)]
pub struct LoadJob(Arc<Job>);

#[derive(Debug)]
struct Job {
    moves: Moves,
    hashes: Vec<SequenceHash>,
    parts: usize,
    stop: AtomicBool,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug)]
struct Progress {
    /// Layers that each part has copied; [`FINISHED`] once the part is over.
    layers: Vec<usize>,
    whole: Vec<bool>,
}

const FINISHED: usize = usize::MAX;

impl LoadJob {
    /// Starts copying `slots` into the pages of `blocks`, in the background.
    pub fn start(
        pool: &CopyPool,
        pages: &Arc<PagedKv>,
        arena: &Arc<MappedArena>,
        blocks: &[usize],
        slots: &[SlotIndex],
        hashes: &[SequenceHash],
    ) -> Result<LoadJob, TransferError> {
        let moves = Moves::new(pages, arena, blocks, slots)?;
        let hashes = same_length(&moves, hashes)?;
        let (count, parts) = (moves.len(), pool.threads().max(1).min(moves.len()));
        let progress = Mutex::new(Progress { layers: vec![0; parts], whole: vec![false; count] });
        let job = Arc::new(Job { moves, hashes, parts, stop: AtomicBool::new(false), progress, changed: Condvar::new() });
        for part in 0..parts {
            let job = job.clone();
            pool.spawn(move || job.run(part));
        }
        Ok(LoadJob(job))
    }

    /// Waits until layer `layer` of all blocks is copied.
    pub fn wait_layer(&self, layer: usize) {
        let layers = self.0.moves.pages.num_layers();
        drop(self.0.wait_until(|done| done > layer.min(layers - 1)));
    }

    /// Waits until all is copied. True for each block that arrived whole and is the one asked for.
    pub fn finish(&self) -> Vec<bool> {
        self.0.wait_until(|done| done == FINISHED).whole.clone()
    }
}

impl Drop for LoadJob {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        drop(self.0.wait_until(|done| done == FINISHED));
    }
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("no panic while held")
    }

    fn wait_until(&self, enough: impl Fn(usize) -> bool) -> MutexGuard<'_, Progress> {
        let missing = |progress: &mut Progress| !progress.layers.iter().all(|done| enough(*done));
        self.changed.wait_while(self.lock(), missing).expect("no panic while held")
    }

    fn reached(&self, part: usize, layers: usize) {
        self.lock().layers[part] = layers;
        self.changed.notify_all();
    }

    fn run(&self, part: usize) {
        // A panic must not leave a waiter behind: the blocks of this part stay "not whole".
        let _ = catch_unwind(AssertUnwindSafe(|| self.copy(part)));
        self.reached(part, FINISHED);
    }

    fn copy(&self, part: usize) {
        let mine = (part..self.moves.len()).step_by(self.parts);
        let mut blocks: Vec<(usize, Scatter<'_>)> =
            mine.filter_map(|index| Some((index, self.moves.begin(index, self.hashes[index])?))).collect();
        for layer in 0..self.moves.pages.num_layers() {
            for (_, block) in &mut blocks {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                block.next_layer();
            }
            self.reached(part, layer + 1);
        }
        let mut progress = self.lock();
        blocks.iter().for_each(|(index, block)| progress.whole[*index] = block.is_whole());
    }
}
