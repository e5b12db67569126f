//! Everything that is resident, for whoever lost events.
//!
//! A turn of the ledger's thread reads 4,096 records, about 0.1 ms, and only when the reader has taken the part before. Nothing is kept,
//! so a snapshot costs a few megabytes whatever its size. Its parts are of different moments: what makes them exact is told in
//! [`kvd_ledger::snapshot`] and, for readers, in `docs/formats/events.md`.

use crate::daemon::Shared;
use crate::driver::View;
use crate::layouts::Layout;
use kvd_block::digest::Digest;
use kvd_block::{LayoutHandle, ResidencyEdge};
use kvd_ledger::snapshot::Sweep;
use kvd_proto::admin::{self, SnapshotBlock, SnapshotLayout, SnapshotPart};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::SendTimeoutError;
use tonic::Status;

/// Snapshots at once; more are refused.
pub const MOST_SNAPSHOTS: usize = 4;
const PART_RECORDS: usize = 4096;
/// A reader that takes no part for this long loses its turn.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one turn of the ledger's thread reads.
#[derive(Debug)]
struct Part {
    sweep: Sweep,
    rows: Vec<ResidencyEdge>,
    over: bool,
    next_event: u64,
    digest: Digest,
}

/// Sends the snapshot in parts. Ends when the reader is gone.
pub async fn snapshot(shared: Arc<Shared>, answers: Sender<Result<SnapshotPart, Status>>) {
    if let Err(status) = send_all(&shared, &answers).await {
        let _ = answers.try_send(Err(status));
    }
}

async fn send_all(shared: &Shared, answers: &Sender<Result<SnapshotPart, Status>>) -> Result<(), Status> {
    let mut told = BTreeSet::new();
    let (mut sweep, mut is_first) = (Sweep::default(), true);
    loop {
        let part = shared.driver.ask(move |view| read(view, sweep)).await.map_err(super::stopping)?;
        sweep = part.sweep;
        let over = part.over;
        // Places without a block say nothing, unless they are the first or the last.
        if !part.rows.is_empty() || is_first || over {
            let message = message(shared, part, &mut told);
            match answers.send_timeout(Ok(message), PATIENCE).await {
                Ok(()) => {}
                Err(SendTimeoutError::Timeout(_)) => return Err(Status::deadline_exceeded("the parts of this snapshot were not read")),
                Err(SendTimeoutError::Closed(_)) => return Ok(()),
            }
        }
        if over {
            return Ok(());
        }
        is_first = false;
    }
}

fn read(view: &mut View<'_>, mut sweep: Sweep) -> Part {
    let mut rows = Vec::with_capacity(PART_RECORDS);
    let over = view.ledger.sweep(&mut sweep, PART_RECORDS, &mut rows);
    Part { sweep, rows, over, next_event: view.next_event, digest: view.digest }
}

fn message(shared: &Shared, mut part: Part, told: &mut BTreeSet<LayoutHandle>) -> SnapshotPart {
    // Parents of a part come before their children in it.
    part.rows.sort_by_key(|row| if let ResidencyEdge::Stored { position, .. } = row { *position } else { 0 });
    let layouts = shared.layouts.all().into_iter().filter(|layout| told.insert(layout.handle));
    SnapshotPart {
        incarnation: shared.incarnation,
        next_event: part.next_event,
        layouts: layouts.map(|layout| named(&layout)).collect(),
        blocks: part.rows.iter().filter_map(block).collect(),
        digest: part.over.then_some(admin::Digest { sum: part.digest.sum, count: part.digest.count }),
    }
}

fn named(layout: &Layout) -> SnapshotLayout {
    SnapshotLayout {
        handle: layout.handle.0.into(),
        id: layout.id.0.to_vec(),
        block_tokens: layout.spec.block_tokens,
        group: layout.spec.group.into(),
        model: layout.spec.model.clone(),
    }
}

fn block(row: &ResidencyEdge) -> Option<SnapshotBlock> {
    let ResidencyEdge::Stored { key, tier, parent, local, position } = row else { return None };
    Some(SnapshotBlock {
        layout: key.layout.0.into(),
        hash: key.hash.0.to_vec(),
        parent: parent.0.to_vec(),
        local: local.0,
        position: *position,
        medium: tier.medium().into(),
    })
}
