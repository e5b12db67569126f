//! Everything that is resident, as of one event number, without keeping the ledger's thread from anybody for long.
//!
//! A turn of that thread sweeps 4,096 records, about 0.1 ms, and engines have their turns in between. The edges that happen
//! meanwhile are noted there and applied here at the end, so rows and number agree to the edge: see [`kvd_ledger::snapshot`].

use crate::daemon::Shared;
use crate::driver::View;
use kvd_block::ResidencyEdge;
use kvd_ledger::snapshot::{Sweep, amend};
use tonic::Status;

const TURN_RECORDS: usize = 4096;

/// What is resident.
#[derive(Debug)]
pub struct Collected {
    /// Number of the next event message: every smaller one is in the rows.
    pub next_event: u64,
    /// A `Stored` edge per block and tier, in parts of some thousand.
    pub parts: Vec<Vec<ResidencyEdge>>,
}

/// Collects, in as many turns as it takes.
pub async fn collect(shared: &Shared) -> Result<Collected, Status> {
    let opened = shared.driver.ask(|view| view.taps.open()).await.map_err(super::stopping)?;
    let tap = opened.ok_or_else(|| Status::resource_exhausted("too many snapshots at once: try again"))?;
    let mut sweep = Sweep::default();
    let mut parts = Vec::new();
    loop {
        let turn = move |view: &mut View<'_>| {
            let mut rows = Vec::with_capacity(TURN_RECORDS);
            let over = view.ledger.sweep(&mut sweep, TURN_RECORDS, &mut rows);
            (sweep, rows, over.then(|| (view.taps.close(tap), view.next_event)))
        };
        let (so_far, rows, end) = shared.driver.ask(turn).await.map_err(super::stopping)?;
        sweep = so_far;
        parts.push(rows);
        if let Some((edges, next_event)) = end {
            let edges = edges.ok_or_else(|| Status::aborted("too much changed while the snapshot was collected: try again"))?;
            amend(&mut parts, edges);
            return Ok(Collected { next_event, parts });
        }
    }
}
