//! All rows, once, in big sequential reads that leave the block cache alone.

use super::row::{self, CatalogRow};
use super::{BLOCKS, Catalog, CatalogError};
use rocksdb::{IteratorMode, ReadOptions};

const READAHEAD_BYTES: usize = 4 << 20;

pub(super) fn scan(catalog: &Catalog, batch_rows: usize, mut on_rows: impl FnMut(Vec<CatalogRow>)) -> Result<(), CatalogError> {
    let mut options = ReadOptions::default();
    options.set_readahead_size(READAHEAD_BYTES);
    options.fill_cache(false);
    options.set_total_order_seek(true);
    let batch_rows = batch_rows.max(1);
    let mut batch = Vec::with_capacity(batch_rows);
    for pair in catalog.db.iterator_cf_opt(catalog.family(BLOCKS), options, IteratorMode::Start) {
        let (key, value) = pair.map_err(|error| catalog.error("reading rows", error))?;
        batch.push(row::decode(&key, &value).ok_or_else(|| catalog.corrupt("a row has the wrong length".into()))?);
        if batch.len() == batch_rows {
            on_rows(std::mem::replace(&mut batch, Vec::with_capacity(batch_rows)));
        }
    }
    if !batch.is_empty() {
        on_rows(batch);
    }
    Ok(())
}
