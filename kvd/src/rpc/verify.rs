//! Checks every image because an operator asks, at a limited rate. What is corrupt is dropped, as if an engine had found it.

use crate::daemon::Shared;
use crate::driver::Stopped;
use crate::layouts::Layout;
use crate::scrub::check::{Checker, Verdict};
use kvd_block::TierKind;
use kvd_ledger::{CatalogRow, WalkCursor};
use kvd_proto::admin::{VerifyProgress, VerifyRequest};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::Status;
use tracing::info;

const DEFAULT_BYTES_PER_SECOND: u64 = 256 << 20;
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Findings told in one message; the journal has them all.
const MOST_FINDINGS: usize = 64;

/// Verifies as asked and tells the progress until the reader is gone.
pub async fn verify(shared: Arc<Shared>, request: VerifyRequest, progress: mpsc::Sender<Result<VerifyProgress, Status>>) {
    let outcome = match tiers(&request.medium) {
        Ok(tiers) => {
            let checker = Checker::new(shared.clone());
            let so_far = VerifyProgress::default();
            Verification { shared, request, told: Instant::now(), so_far, checker }.run(tiers, &progress).await
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
    checker: Checker,
}

impl Verification {
    async fn run(mut self, tiers: Vec<TierKind>, progress: &mpsc::Sender<Result<VerifyProgress, Status>>) -> Result<(), Status> {
        let most = if self.request.most_blocks == 0 { u64::MAX } else { self.request.most_blocks };
        let totals = self.shared.driver.ask(|view| TierKind::ALL.map(|tier| view.ledger.totals(tier).blocks)).await;
        let totals = totals.map_err(super::stopping)?;
        self.so_far.total_blocks = tiers.iter().map(|tier| totals[*tier as usize]).sum::<u64>().min(most);
        let started = Instant::now();
        for tier in tiers {
            let mut cursor = Some(WalkCursor::default());
            while let Some(from) = cursor {
                let piece = self.shared.driver.ask(move |view| view.ledger.resident_from(tier, from)).await;
                let (rows, next) = piece.map_err(super::stopping)?;
                for row in rows {
                    if self.so_far.checked_blocks + self.so_far.skipped_blocks >= most {
                        return self.finish(progress).await;
                    }
                    self.check(tier, &row).await.map_err(super::stopping)?;
                    self.hold_back(started).await;
                    if self.told.elapsed() >= TELL_EVERY && self.tell(progress).await.is_err() {
                        return Ok(());
                    }
                }
                cursor = next;
            }
        }
        self.finish(progress).await
    }

    async fn finish(&mut self, progress: &mpsc::Sender<Result<VerifyProgress, Status>>) -> Result<(), Status> {
        self.so_far.done = true;
        info!(checked = self.so_far.checked_blocks, corrupt = self.so_far.corrupt_blocks, "verification is done");
        let _ = self.tell(progress).await;
        Ok(())
    }

    async fn check(&mut self, tier: TierKind, row: &CatalogRow) -> Result<(), Stopped> {
        let Some(layout) = self.shared.layouts.get(row.key.layout) else { return Ok(()) };
        let verdict = self.checker.check(tier, row, &layout).await?;
        self.count(tier, row, &layout, verdict).await
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
        if matches!(verdict, Verdict::Skipped | Verdict::Unreadable(_)) {
            self.so_far.skipped_blocks += 1;
        } else {
            self.so_far.checked_blocks += 1;
            self.so_far.checked_bytes += layout.spec.slot_bytes();
        }
        let (why, corrupt) = match verdict {
            Verdict::Sound | Verdict::Skipped => return Ok(()),
            Verdict::Corrupt(why) => (why, true),
            Verdict::Unreadable(why) => (why, false),
        };
        if self.so_far.findings.len() < MOST_FINDINGS {
            self.so_far.findings.push(format!("{} in {}: {why}", row.key, tier.medium()));
        }
        if corrupt {
            self.so_far.corrupt_blocks += 1;
            self.checker.forget(tier, row, &why).await?;
        }
        Ok(())
    }
}
