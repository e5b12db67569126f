//! Reads every image at rest, slowly, and checks it, so that rot is found before a reader finds it.
//!
//! A pass walks both tiers by a cursor, so blocks may come and go meanwhile and the ledger never answers for more than a
//! piece of itself. It is spread over `[scrub] pass_days`, never faster than `[scrub] bytes_per_second`, one image at a time,
//! and waits while blocks are on their way to or from storage. What is corrupt is forgotten as if an engine had found it:
//! an event, a row of the catalog less, and the slot is free. An image that cannot be read is forgotten only when it still
//! cannot be read after another image could: a device that is away for a while costs nothing.
//!
//! Arithmetic: 1 TiB in a day is 12 MiB/s, 0.3 % of a core. With nothing at rest it wakes once a minute.

pub mod check;
mod pace;

use crate::clock::unix_ms;
use crate::daemon::Shared;
use crate::driver::Stopped;
use check::{Checker, Verdict};
use kvd_block::TierKind;
use kvd_ledger::{CatalogRow, WalkCursor};
use pace::Pace;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{info, warn};

/// Longest sleep: how fast the pace follows what is stored meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// A pass takes this long at least, so that few blocks are not read over and over.
const SHORTEST_PASS: Duration = Duration::from_secs(1);
/// While blocks move, a check waits this long at most: a busy device is scrubbed too.
const MOST_YIELD: Duration = Duration::from_millis(500);
const YIELD_STEP: Duration = Duration::from_millis(20);
/// Images remembered as unreadable. More of them mean that the device is away.
const MOST_SUSPECTS: usize = 256;

/// Scrubs until the task is aborted; `None` when the settings forbid it.
pub fn start(shared: Arc<Shared>) -> Option<JoinHandle<()>> {
    let enabled = shared.settings.scrub.enabled;
    enabled.then(|| {
        tokio::spawn(async move {
            let checker = Checker::new(shared.clone());
            // It ends when the daemon does.
            let Err(Stopped) = Scrubber { checker, shared, pace: Pace::new(Instant::now()), suspects: Vec::new() }.run().await;
        })
    })
}

struct Scrubber {
    shared: Arc<Shared>,
    checker: Checker,
    pace: Pace,
    /// Images on storage that could not be read.
    suspects: Vec<CatalogRow>,
}

/// What one pass found.
#[derive(Debug, Default, Clone, Copy)]
struct Found {
    checked: u64,
    corrupt: u64,
}

impl Scrubber {
    async fn run(mut self) -> Result<std::convert::Infallible, Stopped> {
        loop {
            let began = Instant::now();
            let mut found = Found::default();
            for tier in [TierKind::Nvme, TierKind::Cpu] {
                self.pass(tier, &mut found).await?;
            }
            self.checker.rest();
            if found.checked == 0 {
                let eager = self.shared.settings.scrub.pass_days == 0;
                sleep(if eager { SHORTEST_PASS } else { LONGEST_SLEEP }).await;
                continue;
            }
            let scrub = &self.shared.measures.scrub;
            scrub.passes.add(1);
            scrub.last_pass_unix_ms.set(unix_ms());
            let Found { checked, corrupt } = found;
            info!(checked, corrupt, seconds = began.elapsed().as_secs(), "a scrub pass is over");
            sleep(SHORTEST_PASS.saturating_sub(began.elapsed())).await;
        }
    }

    async fn pass(&mut self, tier: TierKind, found: &mut Found) -> Result<(), Stopped> {
        let mut cursor = Some(WalkCursor::default());
        while let Some(from) = cursor {
            let (rows, next) = self.shared.driver.ask(move |view| view.ledger.resident_from(tier, from)).await?;
            for row in rows {
                self.keep_pace().await?;
                self.check(tier, row, found).await?;
            }
            cursor = next;
        }
        Ok(())
    }

    async fn check(&mut self, tier: TierKind, row: CatalogRow, found: &mut Found) -> Result<(), Stopped> {
        let Some(layout) = self.shared.layouts.get(row.key.layout) else { return Ok(()) };
        let verdict = self.checker.check(tier, &row, &layout).await?;
        let scrub = &self.shared.measures.scrub;
        if !matches!(verdict, Verdict::Skipped) {
            let bytes = layout.spec.slot_bytes();
            found.checked += 1;
            scrub.checked_blocks.add(1);
            scrub.checked_bytes.add(bytes);
            self.pace.spent(bytes);
        }
        match verdict {
            Verdict::Sound if tier == TierKind::Nvme => self.check_suspects(found).await,
            Verdict::Sound | Verdict::Skipped => Ok(()),
            Verdict::Corrupt(why) => self.forget(tier, &row, &why, found).await,
            Verdict::Unreadable(why) => {
                scrub.unreadable.add(1);
                if self.suspects.len() < MOST_SUSPECTS {
                    warn!(key = %row.key, address = %row.address, why, "an image cannot be read: it is tried again");
                    self.suspects.push(row);
                }
                Ok(())
            }
        }
    }

    /// The device answers: what still cannot be read is lost.
    async fn check_suspects(&mut self, found: &mut Found) -> Result<(), Stopped> {
        for row in std::mem::take(&mut self.suspects) {
            let Some(layout) = self.shared.layouts.get(row.key.layout) else { continue };
            if let Verdict::Corrupt(why) | Verdict::Unreadable(why) = self.checker.check(TierKind::Nvme, &row, &layout).await? {
                self.forget(TierKind::Nvme, &row, &why, found).await?;
            }
        }
        Ok(())
    }

    async fn forget(&self, tier: TierKind, row: &CatalogRow, why: &str, found: &mut Found) -> Result<(), Stopped> {
        found.corrupt += 1;
        self.shared.measures.scrub.corrupt.add(1);
        self.checker.forget(tier, row, why).await
    }

    /// Waits until the next image is due, and while blocks are on their way.
    async fn keep_pace(&mut self) -> Result<(), Stopped> {
        let settings = &self.shared.settings.scrub;
        loop {
            let look = |view: &mut crate::driver::View<'_>| TierKind::ALL.map(|tier| view.ledger.totals(tier).used_bytes);
            let used_bytes = self.shared.driver.ask(look).await?.into_iter().sum();
            let wait = self.pace.wait(Instant::now(), pace::rate(settings, used_bytes));
            if wait.is_zero() {
                break;
            }
            sleep(wait.min(LONGEST_SLEEP)).await;
        }
        let mut yielded = Duration::ZERO;
        while yielded < MOST_YIELD && self.shared.driver.ask(|view| view.ledger.open_transfers()).await? > 0 {
            sleep(YIELD_STEP).await;
            yielded += YIELD_STEP;
        }
        Ok(())
    }
}
