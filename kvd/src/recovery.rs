//! Brings back what storage held when the daemon last ran.
//!
//! Rows of the catalog stream into the ledger in batches; no image is read, each verifies itself when it is first used.
//! Without a usable catalog the headers of the whole slot file are read instead, and the catalog is filled from them.
//! Arithmetic: a row is 56 bytes; a million of them (2 TB of 2 MiB blocks) are measured by the ignored test
//! `a_million_rows_come_back_in_seconds`.

use crate::layouts::Layouts;
use crate::storage::{Medium, Opened, Purged, Storage, StorageError};
use kvd_block::{BlockKey, LayoutHandle, LayoutSpec, Tick, TierKind};
use kvd_ledger::{Action, CatalogRow, Input, Ledger};
use kvd_tiers::{Catalog, CatalogChange, CatalogError};
use std::sync::Arc;
use std::time::Instant;
use tracing::{info, warn};

const BATCH_ROWS: usize = 8192;

/// What came back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recovered {
    /// Blocks that can be read from storage again.
    pub blocks: u64,
    /// Milliseconds it took.
    pub ms: u64,
    /// By reading headers, because the catalog was lost.
    pub scanned: bool,
}

/// Defines a layout in the registry and in the ledger.
pub fn define(ledger: &mut Ledger, layouts: &Layouts, handle: LayoutHandle, spec: LayoutSpec, generation: u64) {
    let (slot_pages, ranks) = (spec.slot_pages(), spec.ranks);
    layouts.insert(handle, spec);
    ledger.step(Tick(0), Input::DefineLayout { layout: handle, slot_pages, ranks, generation }, &mut Vec::new());
}

/// Fills `ledger` and `layouts` from opened storage, and makes it ready for transfers. Blocks.
pub fn recover(opened: Opened, detail: String, ledger: &mut Ledger, layouts: &Layouts) -> Result<(Storage, Recovered), StorageError> {
    let started = Instant::now();
    let Opened { medium, catalog, purges, must_scan } = opened;
    let mut actions = Vec::new();
    for (handle, spec) in catalog.layouts() {
        let generation = purges.generation(spec.id());
        define(ledger, layouts, handle, spec, generation);
    }
    finish_purges(&catalog, &purges)?;
    if must_scan {
        scan(&medium, &catalog, &purges, ledger, layouts, &mut actions)?;
        if let Some(id) = medium.id() {
            // Last, so that a scan that is cut off is done again.
            catalog.set_data_file_id(id)?;
        }
    } else {
        catalog.scan(BATCH_ROWS, |rows| feed(ledger, rows.into_iter().map(ledger_row).collect(), &mut actions))?;
    }
    let detail = format!("{detail} ({})", medium.probe_line());
    let storage = Storage::new(medium.into_tier(), Arc::new(catalog), purges, detail)?;
    forget_refused(&storage, actions);
    let blocks = ledger.totals(TierKind::Nvme).blocks;
    let recovered = Recovered { blocks, ms: started.elapsed().as_millis() as u64, scanned: must_scan };
    info!(blocks, ms = recovered.ms, scanned = must_scan, "storage is ready");
    Ok((storage, recovered))
}

/// Removes the rows of layouts whose purge the catalog did not live to see. Without a catalog there are none, and it has seen all.
fn finish_purges(catalog: &Catalog, purges: &Purged) -> Result<(), StorageError> {
    let mut missed = Vec::new();
    for (layout, spec) in catalog.layouts() {
        let generation = purges.generation(spec.id());
        if catalog.purged(layout)? < generation {
            missed.push(CatalogChange::Purge { layout: Some(layout), generation });
        }
    }
    if !missed.is_empty() {
        info!(layouts = missed.len(), "rows of purged blocks are removed");
    }
    Ok(catalog.apply(missed)?)
}

/// The handle of a layout, kept. Rows that a layout new to the catalog will get are of blocks younger than its last purge.
pub fn layout_handle(catalog: &Catalog, spec: &LayoutSpec, generation: u64) -> Result<LayoutHandle, CatalogError> {
    let layout = catalog.layout_handle(spec)?;
    if catalog.purged(layout)? < generation {
        catalog.apply([CatalogChange::Purge { layout: Some(layout), generation }])?;
    }
    Ok(layout)
}

fn feed(ledger: &mut Ledger, rows: Vec<CatalogRow>, actions: &mut Vec<Action>) {
    ledger.step(Tick(0), Input::Recovered { tier: TierKind::Nvme, rows }, actions);
}

/// Reads every header of the slot file into the ledger and into the (empty) catalog, but those of images that were purged.
fn scan(
    medium: &Medium,
    catalog: &Catalog,
    purges: &Purged,
    ledger: &mut Ledger,
    layouts: &Layouts,
    actions: &mut Vec<Action>,
) -> Result<(), StorageError> {
    let mut failure = None;
    let mut dead = 0u64;
    let mut rows = Vec::with_capacity(BATCH_ROWS);
    medium.scan(|image| {
        let header = image.header;
        let generation = purges.generation(header.layout.id());
        if header.generation < generation {
            dead += 1;
            return;
        }
        let handle = match layouts.find(header.layout.id()) {
            Some(layout) => Ok(layout.handle),
            None => layout_handle(catalog, &header.layout, generation).inspect(|handle| {
                define(ledger, layouts, *handle, header.layout.clone(), generation);
            }),
        };
        match handle {
            Ok(layout) => rows.push(CatalogRow {
                key: BlockKey { layout, hash: header.hash },
                address: image.address,
                parent: header.parent,
                local: header.local,
                position: header.position,
            }),
            Err(error) => failure = Some(error),
        }
        if rows.len() >= BATCH_ROWS {
            failure = keep_found(catalog, ledger, &mut rows, actions).err().or(failure.take());
        }
    });
    keep_found(catalog, ledger, &mut rows, actions)?;
    if dead > 0 {
        info!(images = dead, "images that were purged are left where they are, to be overwritten");
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

fn keep_found(catalog: &Catalog, ledger: &mut Ledger, rows: &mut Vec<CatalogRow>, actions: &mut Vec<Action>) -> Result<(), CatalogError> {
    let rows = std::mem::take(rows);
    catalog.apply(rows.iter().map(|row| CatalogChange::Put(catalog_row(*row))))?;
    feed(ledger, rows, actions);
    Ok(())
}

/// Removes or mends the rows that the ledger did not believe.
fn forget_refused(storage: &Storage, actions: Vec<Action>) {
    let refused: Vec<_> = actions
        .into_iter()
        .filter_map(|action| match action {
            Action::CatalogDelete(key) => Some(CatalogChange::Delete(key)),
            Action::CatalogPut(row) => Some(CatalogChange::Put(catalog_row(row))),
            _ => None,
        })
        .collect();
    if !refused.is_empty() {
        warn!(rows = refused.len(), "rows of the catalog contradict one another or the settings: forgotten");
        refused.chunks(BATCH_ROWS).for_each(|rows| storage.record(rows.to_vec()));
    }
}

/// The row as the ledger wants it.
pub fn ledger_row(row: kvd_tiers::CatalogRow) -> CatalogRow {
    CatalogRow { key: row.key, address: row.address, parent: row.parent, local: row.local, position: row.position }
}

/// The row as the catalog wants it.
pub fn catalog_row(row: CatalogRow) -> kvd_tiers::CatalogRow {
    kvd_tiers::CatalogRow { key: row.key, address: row.address, parent: row.parent, local: row.local, position: row.position }
}
