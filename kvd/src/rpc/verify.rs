//! Reads images and checks every byte. What is corrupt is dropped, as if an engine had found it.
//!
//! Images on storage are read into memory of their own, never into a slot, at a limited rate, one at a time.

use crate::daemon::Shared;
use crate::driver::Stopped;
use crate::layouts::Layout;
use kvd_block::image;
use kvd_block::{SlotIndex, TierKind};
use kvd_ledger::{CatalogRow, Input};
use kvd_proto::admin::{VerifyProgress, VerifyRequest};
use kvd_shm::{Arena, HugePages, Slot};
use kvd_tiers::{BlockName, ReadBlock, TierError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::Status;
use tracing::{info, warn};

const DEFAULT_BYTES_PER_SECOND: u64 = 256 << 20;
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Findings told in one message; the journal has them all.
const MOST_FINDINGS: usize = 64;

enum Verdict {
    Sound,
    Corrupt(String),
    /// Moved, busy, or gone.
    Skipped,
}

/// Verifies as asked and tells the progress until the reader is gone.
pub async fn verify(shared: Arc<Shared>, request: VerifyRequest, progress: mpsc::Sender<Result<VerifyProgress, Status>>) {
    let outcome = match tiers(&request.medium) {
        Ok(tiers) => {
            Verification { shared, request, told: Instant::now(), so_far: VerifyProgress::default(), scratch: None }
                .run(tiers, &progress)
                .await
        }
        Err(status) => Err(status),
    };
    if let Err(status) = outcome {
        let _ = progress.send(Err(status)).await;
    }
}

fn tiers(medium: &str) -> Result<Vec<TierKind>, Status> {
    let tiers: Vec<TierKind> =
        TierKind::ALL.into_iter().filter(|tier| medium.is_empty() || medium.eq_ignore_ascii_case(tier.medium())).collect();
    if tiers.is_empty() { Err(Status::invalid_argument(format!("no medium `{medium}`: use CPU or STORAGE"))) } else { Ok(tiers) }
}

struct Verification {
    shared: Arc<Shared>,
    request: VerifyRequest,
    told: Instant,
    so_far: VerifyProgress,
    scratch: Option<Arc<Arena>>,
}

impl Verification {
    async fn run(mut self, tiers: Vec<TierKind>, progress: &mpsc::Sender<Result<VerifyProgress, Status>>) -> Result<(), Status> {
        let most = if self.request.most_blocks == 0 { usize::MAX } else { self.request.most_blocks as usize };
        let mut work = Vec::new();
        for tier in tiers {
            let rows = self
                .shared
                .driver
                .ask(move |view| view.ledger.resident(tier).take(most).collect::<Vec<_>>())
                .await
                .map_err(super::stopping)?;
            work.extend(rows.into_iter().map(|row| (tier, row)));
        }
        work.truncate(most);
        self.so_far.total_blocks = work.len() as u64;
        let started = Instant::now();
        for (tier, row) in work {
            let Some(layout) = self.shared.layouts.get(row.key.layout) else { continue };
            let verdict = self.check(tier, &row, &layout).await.map_err(super::stopping)?;
            self.count(tier, &row, &layout, verdict).await.map_err(super::stopping)?;
            self.hold_back(started).await;
            if self.told.elapsed() >= TELL_EVERY && self.tell(progress).await.is_err() {
                return Ok(());
            }
        }
        self.so_far.done = true;
        info!(checked = self.so_far.checked_blocks, corrupt = self.so_far.corrupt_blocks, "verification is done");
        let _ = self.tell(progress).await;
        Ok(())
    }

    /// Sleeps as long as reading was faster than allowed.
    async fn hold_back(&self, started: Instant) {
        let rate = if self.request.bytes_per_second == 0 { DEFAULT_BYTES_PER_SECOND } else { self.request.bytes_per_second };
        let due = Duration::from_secs_f64(self.so_far.checked_bytes as f64 / rate as f64);
        tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
    }

    async fn tell(&mut self, progress: &mpsc::Sender<Result<VerifyProgress, Status>>) -> Result<(), ()> {
        self.told = Instant::now();
        let message = self.so_far.clone();
        self.so_far.findings.clear();
        progress.send(Ok(message)).await.map_err(drop)
    }

    async fn count(&mut self, tier: TierKind, row: &CatalogRow, layout: &Layout, verdict: Verdict) -> Result<(), Stopped> {
        match verdict {
            Verdict::Skipped => self.so_far.skipped_blocks += 1,
            Verdict::Sound => {
                self.so_far.checked_blocks += 1;
                self.so_far.checked_bytes += layout.spec.slot_bytes();
            }
            Verdict::Corrupt(why) => {
                self.so_far.checked_blocks += 1;
                self.so_far.checked_bytes += layout.spec.slot_bytes();
                self.so_far.corrupt_blocks += 1;
                warn!(key = %row.key, %tier, address = %row.address, why, "an image is corrupt: forgotten");
                if self.so_far.findings.len() < MOST_FINDINGS {
                    self.so_far.findings.push(format!("{} in {}: {why}", row.key, tier.medium()));
                }
                let input = Input::FoundCorrupt { key: row.key, tier, address: row.address };
                self.shared.driver.inputs(vec![input]).await?;
            }
        }
        Ok(())
    }

    /// A mismatch counts only when the block was at the same place before and after it was read.
    async fn check(&mut self, tier: TierKind, row: &CatalogRow, layout: &Layout) -> Result<Verdict, Stopped> {
        if !self.is_there(tier, row).await? {
            return Ok(Verdict::Skipped);
        }
        let verdict = match tier {
            TierKind::Cpu => self.check_slot(row, layout).await,
            TierKind::Nvme => self.check_storage(row, layout).await,
        };
        match verdict {
            Verdict::Corrupt(_) if !self.is_there(tier, row).await? => Ok(Verdict::Skipped),
            verdict => Ok(verdict),
        }
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
        let Some(tier) = self.shared.storage.as_ref().and_then(|storage| storage.tier()) else { return Verdict::Skipped };
        let Some(slot) = self.scratch_slot(layout.spec.slot_bytes()) else { return Verdict::Skipped };
        let name = BlockName { layout: layout.id, hash: row.key.hash };
        let outcomes = tier.read(vec![ReadBlock { slot, address: row.address, name }]).await;
        match outcomes.and_then(|mut outcomes| outcomes.pop()).map(|outcome| outcome.result) {
            Some(Ok(())) => Verdict::Sound,
            Some(Err(TierError::Corrupt { why, .. })) => Verdict::Corrupt(why),
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
