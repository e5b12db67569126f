//! All rows, once, in big sequential reads that leave the block cache alone.

use super::row::{self, CatalogRow};
use super::{BLOCKS, Catalog, CatalogError, family};
use rocksdb::{IteratorMode, ReadOptions};

const READAHEAD_BYTES: usize = 4 << 20;

pub(super) fn scan(catalog: &Catalog, batch_rows: usize, mut on_rows: impl FnMut(Vec<CatalogRow>)) -> Result<(), CatalogError> {
    let mut options = ReadOptions::default();
    options.set_readahead_size(READAHEAD_BYTES);
    options.fill_cache(false);
    options.set_total_order_seek(true);
    let batch_rows = batch_rows.max(1);
    let mut batch = Vec::with_capacity(batch_rows);
    let mut broken = None;
    catalog.with("reading rows", |db| {
        for pair in db.iterator_cf_opt(family(db, BLOCKS), options, IteratorMode::Start) {
            let (key, value) = pair?;
            let Some(row) = row::decode(&key, &value) else {
                broken = Some(catalog.corrupt("a row has the wrong length".into()));
                break;
            };
            batch.push(row);
            if batch.len() == batch_rows {
                on_rows(std::mem::replace(&mut batch, Vec::with_capacity(batch_rows)));
            }
        }
        Ok(())
    })?;
    if let Some(broken) = broken {
        return Err(broken);
    }
    if !batch.is_empty() {
        on_rows(batch);
    }
    Ok(())
}
