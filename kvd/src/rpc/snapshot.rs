//! Everything that is resident, as of one event number, for whoever lost events.

use super::collect::{Collected, collect};
use crate::daemon::Shared;
use kvd_block::ResidencyEdge;
use kvd_proto::admin::{SnapshotBlock, SnapshotLayout, SnapshotPart};
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;

const PART_BLOCKS: usize = 4096;

/// Sends the snapshot in parts; the first names layouts and number. Ends when the reader is gone.
pub async fn snapshot(shared: Arc<Shared>, answers: mpsc::Sender<Result<SnapshotPart, Status>>) {
    let Collected { next_event, parts } = match collect(&shared).await {
        Ok(collected) => collected,
        Err(status) => return drop(answers.send(Err(status)).await),
    };
    let incarnation = shared.incarnation;
    let first = SnapshotPart { incarnation, next_event, layouts: layouts(&shared), blocks: Vec::new() };
    if answers.send(Ok(first)).await.is_err() {
        return;
    }
    for rows in parts.iter().flat_map(|part| part.chunks(PART_BLOCKS)) {
        let blocks = rows.iter().filter_map(block).collect();
        if answers.send(Ok(SnapshotPart { incarnation, next_event, layouts: Vec::new(), blocks })).await.is_err() {
            return;
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
