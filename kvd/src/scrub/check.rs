//! Judges one image at rest: header and every checksum. Used by the scrubber and by `kvctl verify`.
//!
//! Images on storage are read into memory of their own, never into a slot, one at a time.

use crate::daemon::Shared;
use crate::driver::Stopped;
use crate::layouts::Layout;
use kvd_block::image;
use kvd_block::{SlotIndex, TierKind};
use kvd_ledger::{CatalogRow, Input};
use kvd_shm::{Arena, HugePages, Slot};
use kvd_tiers::{BlockName, ReadBlock, TierError};
use std::sync::Arc;
use tracing::warn;

/// What an image turned out to be.
#[derive(Debug)]
pub enum Verdict {
    /// Every byte is what it was.
    Sound,
    /// It is not, for this reason.
    Corrupt(String),
    /// The device failed on it.
    Unreadable(String),
    /// Moved, busy, or gone.
    Skipped,
}

/// Checks images, one at a time.
#[derive(Debug)]
pub struct Checker {
    shared: Arc<Shared>,
    scratch: Option<Arc<Arena>>,
}

impl Checker {
    /// A checker of this daemon's blocks.
    pub fn new(shared: Arc<Shared>) -> Checker {
        Checker { shared, scratch: None }
    }

    /// Gives back the memory that images are read into.
    pub fn rest(&mut self) {
        self.scratch = None;
    }

    /// Judges the image of `row`. A mismatch counts only when the block was at the same place before and after it was read.
    pub async fn check(&mut self, tier: TierKind, row: &CatalogRow, layout: &Layout) -> Result<Verdict, Stopped> {
        if !self.is_there(tier, row).await? {
            return Ok(Verdict::Skipped);
        }
        let verdict = match tier {
            TierKind::Cpu => self.check_slot(row, layout).await,
            TierKind::Nvme => self.check_storage(row, layout).await,
        };
        match verdict {
            Verdict::Corrupt(_) | Verdict::Unreadable(_) if !self.is_there(tier, row).await? => Ok(Verdict::Skipped),
            verdict => Ok(verdict),
        }
    }

    /// Says that the image of `row` is lost, and has it forgotten.
    pub async fn forget(&self, tier: TierKind, row: &CatalogRow, why: &str) -> Result<(), Stopped> {
        warn!(key = %row.key, %tier, address = %row.address, why, "an image is corrupt: forgotten");
        let input = Input::FoundCorrupt { key: row.key, tier, address: row.address };
        self.shared.driver.inputs(vec![input]).await
    }

    async fn is_there(&self, tier: TierKind, row: &CatalogRow) -> Result<bool, Stopped> {
        let (key, address) = (row.key, row.address);
        let at = move |view: kvd_ledger::BlockView| match tier {
            TierKind::Cpu => view.cpu,
            TierKind::Nvme => view.nvme,
        };
        self.shared.driver.ask(move |view| view.ledger.inspect(key).and_then(at) == Some(address)).await
    }

    async fn check_slot(&self, row: &CatalogRow, layout: &Layout) -> Verdict {
        let slot = Slot::new(self.shared.arena.clone(), row.address, layout.spec.slot_bytes());
        let (id, hash, spec) = (layout.id, row.key.hash, layout.spec.clone());
        let judged = tokio::task::spawn_blocking(move || judge(&slot, id, hash, &spec)).await;
        judged.unwrap_or(Verdict::Skipped)
    }

    async fn check_storage(&mut self, row: &CatalogRow, layout: &Layout) -> Verdict {
        let Some(slot) = self.scratch_slot(layout.spec.slot_bytes()) else { return Verdict::Skipped };
        let name = BlockName { layout: layout.id, hash: row.key.hash };
        let block = ReadBlock { slot, address: row.address, name };
        // The tier itself is not held while waiting: closing it must not depend on this task.
        let reading = self.shared.storage.as_ref().and_then(|storage| storage.tier()).map(|tier| tier.read(vec![block]));
        let Some(reading) = reading else { return Verdict::Skipped };
        match reading.await.and_then(|mut outcomes| outcomes.pop()).map(|outcome| outcome.result) {
            Some(Ok(())) => Verdict::Sound,
            Some(Err(TierError::Corrupt { why, .. })) => Verdict::Corrupt(why),
            Some(Err(error @ TierError::Io { .. })) => Verdict::Unreadable(error.to_string()),
            Some(Err(_)) | None => Verdict::Skipped,
        }
    }

    fn scratch_slot(&mut self, bytes: u64) -> Option<Slot> {
        if self.scratch.as_ref().is_none_or(|scratch| scratch.bytes() < bytes) {
            self.scratch = Arena::create(bytes, HugePages::Never).ok().map(Arc::new);
        }
        self.scratch.clone().map(|scratch| Slot::new(scratch, SlotIndex(0), bytes))
    }
}

fn judge(slot: &Slot, id: kvd_block::LayoutId, hash: kvd_block::SequenceHash, spec: &kvd_block::LayoutSpec) -> Verdict {
    let page = slot.read_header();
    if let Err(error) = image::verify_page(&page) {
        return Verdict::Corrupt(error.to_string());
    }
    if image::layout_id(&page) != id || image::sequence_hash(&page) != hash {
        return Verdict::Corrupt("the header names another block".into());
    }
    for rank in 0..spec.ranks {
        let found = slot.checksum_at(spec.stripe_offset(rank), spec.stripe_bytes);
        if found != image::stripe_checksum(&page, rank) {
            return Verdict::Corrupt(format!("the stripe of rank {rank} failed its checksum"));
        }
    }
    Verdict::Sound
}
