//! Everything that is resident, as of one event number.
//!
//! The rows are collected in one turn of the ledger's owner, so they and the number agree. Arithmetic: a million blocks in
//! two tiers are 56 MB and about 50 ms in which nothing else happens; a router asks once per loss of events.

use crate::daemon::Shared;
use kvd_block::TierKind;
use kvd_ledger::CatalogRow;
use kvd_proto::admin::{SnapshotBlock, SnapshotLayout, SnapshotPart};
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;

const PART_BLOCKS: usize = 4096;

/// Sends the snapshot in parts; the first names layouts and number. Ends when the reader is gone.
pub async fn snapshot(shared: Arc<Shared>, parts: mpsc::Sender<Result<SnapshotPart, Status>>) {
    let collect = |view: &mut crate::driver::View<'_>| {
        let rows = TierKind::ALL.map(|tier| view.ledger.resident(tier).collect::<Vec<CatalogRow>>());
        (view.next_event, rows)
    };
    let Ok((next_event, rows)) = shared.driver.ask(collect).await else {
        let _ = parts.send(Err(Status::unavailable("kvd is stopping"))).await;
        return;
    };
    let incarnation = shared.incarnation;
    let first = SnapshotPart { incarnation, next_event, layouts: layouts(&shared), blocks: Vec::new() };
    if parts.send(Ok(first)).await.is_err() {
        return;
    }
    for (tier, rows) in TierKind::ALL.into_iter().zip(rows) {
        for rows in rows.chunks(PART_BLOCKS) {
            let blocks = rows.iter().map(|row| block(tier, row)).collect();
            if parts.send(Ok(SnapshotPart { incarnation, next_event, layouts: Vec::new(), blocks })).await.is_err() {
                return;
            }
        }
    }
}

fn layouts(shared: &Shared) -> Vec<SnapshotLayout> {
    let layout = |layout: Arc<crate::layouts::Layout>| SnapshotLayout {
        handle: layout.handle.0.into(),
        id: layout.id.0.to_vec(),
        block_tokens: layout.spec.block_tokens,
        group: layout.spec.group.into(),
        model: layout.spec.model.clone(),
    };
    shared.layouts.all().into_iter().map(layout).collect()
}

fn block(tier: TierKind, row: &CatalogRow) -> SnapshotBlock {
    SnapshotBlock {
        layout: row.key.layout.0.into(),
        hash: row.key.hash.0.to_vec(),
        parent: row.parent.0.to_vec(),
        route: row.route.0,
        position: row.position,
        medium: tier.medium().into(),
    }
}
