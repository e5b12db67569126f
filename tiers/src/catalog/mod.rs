//! What is where in the slot file, remembered across restarts.
//!
//! A row per block, in RocksDB. The catalog is a convenience, not the truth: images name and verify themselves, so a row
//! that is missing, stale or lost in a power failure costs a miss and never a wrong byte. That is why its log is not synced
//! and why no answer ever waits for it ([`CatalogWriter`]).
//!
//! Arithmetic: 3,300 blocks a second (a 7 GB/s device of 2 MiB blocks) are 6,600 row changes of 50 bytes, 330 kB/s.
//!
//! # Format, version 2
//!
//! ```text
//! column family `blocks`    key: layout handle u16 BE, sequence hash 16
//!                           value: slot address u32 LE, position u32 LE, local hash u64 LE, parent hash 16
//! column family `layouts`   key: layout handle u16 BE        value: canonical encoding of the layout
//! column family `meta`      "format" u16 LE, "incarnation" u64 LE, "data_file_id" 16,
//!                           "purged" (of all layouts) u64 LE, "purged" + layout handle u16 BE (of one) u64 LE
//! ```

mod error;
mod open;
mod row;
mod scan;
mod writer;

pub use error::CatalogError;
pub use row::{CatalogChange, CatalogRow};
pub use writer::{CatalogWriter, QueueFull};

use kvd_block::{BlockKey, LayoutHandle, LayoutSpec};
use rocksdb::{ColumnFamily, DB, WriteBatch, WriteOptions};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// Format version written by this code.
pub const CATALOG_VERSION: u16 = 2;

const BLOCKS: &str = "blocks";
const LAYOUTS: &str = "layouts";
const META: &str = "meta";

/// The catalog of one slot file, held by one process.
pub struct Catalog {
    /// Nothing only while, or after, it could not be opened again.
    db: RwLock<Option<DB>>,
    path: PathBuf,
    layouts: Mutex<Vec<(LayoutHandle, LayoutSpec)>>,
}

impl Catalog {
    /// Opens the catalog in folder `dir`, making it when there is none.
    pub fn open(dir: impl AsRef<Path>) -> Result<Catalog, CatalogError> {
        open::open(dir.as_ref())
    }

    /// Renames a broken catalog's folder to `<dir>.corrupt-<n>` and returns the new path. Nothing is ever deleted.
    ///
    /// The caller opens a new catalog at `dir` and fills it from a scan of the slot file.
    pub fn set_aside(dir: impl AsRef<Path>) -> Result<PathBuf, CatalogError> {
        open::set_aside(dir.as_ref())
    }

    /// Opens it again. RocksDB gives a database up once its log could not be written, also when the disk is well again.
    pub fn reopen(&self) -> Result<(), CatalogError> {
        let mut db = self.db.write().expect("no code panics while it holds this lock");
        // Closed first: it is locked.
        *db = None;
        *db = Some(open::database(&self.path, false)?);
        Ok(())
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Applies deletes, then puts, all or nothing.
    pub fn put_and_delete(&self, puts: &[CatalogRow], deletes: &[BlockKey]) -> Result<(), CatalogError> {
        let deletes = deletes.iter().map(|key| CatalogChange::Delete(*key));
        let puts = puts.iter().map(|row| CatalogChange::Put(*row));
        self.apply(deletes.chain(puts))
    }

    /// Applies changes in order, all or nothing.
    ///
    /// Survives a crash of this process when it returns; a power failure may take the last of them back.
    pub fn apply(&self, changes: impl IntoIterator<Item = CatalogChange>) -> Result<(), CatalogError> {
        self.with("writing rows", |db| {
            let blocks = family(db, BLOCKS);
            let mut batch = WriteBatch::default();
            for change in changes {
                match change {
                    CatalogChange::Put(row) => batch.put_cf(blocks, row::encode_key(row.key), row::encode_value(&row)),
                    CatalogChange::Delete(key) => batch.delete_cf(blocks, row::encode_key(key)),
                    CatalogChange::Purge { layout, generation } => {
                        delete_rows(db, layout, &mut batch);
                        batch.put_cf(family(db, META), purged_key(layout), generation.to_le_bytes());
                    }
                }
            }
            if batch.is_empty() { Ok(()) } else { db.write(batch) }
        })
    }

    /// Calls `on_rows` with all rows, `batch_rows` at a time, ordered by key.
    pub fn scan(&self, batch_rows: usize, on_rows: impl FnMut(Vec<CatalogRow>)) -> Result<(), CatalogError> {
        scan::scan(self, batch_rows, on_rows)
    }

    /// The handle of a layout; assigned at the first call and the same ever after.
    pub fn layout_handle(&self, layout: &LayoutSpec) -> Result<LayoutHandle, CatalogError> {
        let mut layouts = self.layouts.lock().expect("no code panics while it holds this lock");
        if let Some((handle, _)) = layouts.iter().find(|(_, known)| known == layout) {
            return Ok(*handle);
        }
        let next = layouts.iter().map(|(handle, _)| u32::from(handle.0) + 1).max().unwrap_or(0);
        let too_many = || CatalogError::TooManyLayouts { path: self.path.clone() };
        let handle = LayoutHandle(u16::try_from(next).map_err(|_| too_many())?);
        self.put_synced(LAYOUTS, &handle.0.to_be_bytes(), &layout.encode())?;
        layouts.push((handle, layout.clone()));
        Ok(handle)
    }

    /// Every layout that has a handle, ordered by handle.
    pub fn layouts(&self) -> Vec<(LayoutHandle, LayoutSpec)> {
        self.layouts.lock().expect("no code panics while it holds this lock").clone()
    }

    /// A number greater than every one before it, also after a power failure. Call it once per start.
    ///
    /// A new catalog begins with the time, because the one it may stand in for has given out numbers already: an engine that
    /// remembers one of them must not take this life for that one.
    pub fn next_incarnation(&self) -> Result<u64, CatalogError> {
        let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64);
        let next = self.meta(b"incarnation")?.map_or_else(now_ms, |last| u64::from_le_bytes(last) + 1);
        self.put_synced(META, b"incarnation", &next.to_le_bytes())?;
        Ok(next)
    }

    /// The slot file that the rows describe; `None` in a new catalog.
    pub fn data_file_id(&self) -> Result<Option<[u8; 16]>, CatalogError> {
        self.meta(b"data_file_id")
    }

    /// Says which slot file the rows describe.
    pub fn set_data_file_id(&self, id: [u8; 16]) -> Result<(), CatalogError> {
        self.put_synced(META, b"data_file_id", &id)
    }

    /// Makes a catalog of an older format one of this format: its rows mean something else, so it describes no slot file until a scan
    /// has filled it again. Layouts and incarnation stay.
    fn begin_anew(&self) -> Result<(), CatalogError> {
        self.with("removing rows of an older format", |db| {
            let mut batch = WriteBatch::default();
            delete_rows(db, None, &mut batch);
            batch.delete_cf(family(db, META), b"data_file_id");
            batch.put_cf(family(db, META), b"format", CATALOG_VERSION.to_le_bytes());
            db.write(batch)
        })
    }

    /// Removes every row, because they describe another slot file. Layouts and incarnation stay.
    pub fn clear(&self) -> Result<(), CatalogError> {
        self.with("removing all rows", |db| {
            let mut batch = WriteBatch::default();
            delete_rows(db, None, &mut batch);
            db.write(batch)
        })
    }

    /// The last purge of a layout that left no row behind; 0 before the first. When it was purged later, its rows are of dead blocks.
    pub fn purged(&self, layout: LayoutHandle) -> Result<u64, CatalogError> {
        let of = |layout| Ok(self.meta(&purged_key(layout))?.map_or(0, u64::from_le_bytes));
        Ok(of(None)?.max(of(Some(layout))?))
    }

    fn meta<const N: usize>(&self, name: &[u8]) -> Result<Option<[u8; N]>, CatalogError> {
        let value = self.with("reading its settings", |db| db.get_cf(family(db, META), name))?;
        let why = || format!("`{}` has the wrong length", String::from_utf8_lossy(name));
        value.map(|bytes| bytes.try_into().map_err(|_| self.corrupt(why()))).transpose()
    }

    fn put_synced(&self, name: &str, key: &[u8], value: &[u8]) -> Result<(), CatalogError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.with("writing its settings", |db| db.put_cf_opt(family(db, name), key, value, &options))
    }

    fn with<T>(&self, doing: &'static str, work: impl FnOnce(&DB) -> Result<T, rocksdb::Error>) -> Result<T, CatalogError> {
        let db = self.db.read().expect("no code panics while it holds this lock");
        let closed = || CatalogError::Storage { path: self.path.clone(), doing, why: "it could not be opened again".into() };
        work(db.as_ref().ok_or_else(closed)?).map_err(|error| self.error(doing, error))
    }

    fn error(&self, doing: &'static str, source: rocksdb::Error) -> CatalogError {
        error::from_rocksdb(&self.path, doing, source)
    }

    fn corrupt(&self, why: String) -> CatalogError {
        CatalogError::Corrupt { path: self.path.clone(), why }
    }
}

fn family<'a>(db: &'a DB, name: &str) -> &'a ColumnFamily {
    db.cf_handle(name).expect("every column family was opened with the catalog")
}

fn delete_rows(db: &DB, layout: Option<LayoutHandle>, batch: &mut WriteBatch) {
    let blocks = family(db, BLOCKS);
    let (from, until) = layout.map_or(([0; row::KEY_BYTES], None), row::layout_keys);
    let until = until.unwrap_or_else(|| {
        batch.delete_cf(blocks, [0xff; row::KEY_BYTES]);
        [0xff; row::KEY_BYTES]
    });
    batch.delete_range_cf(blocks, &from[..], &until[..]);
}

fn purged_key(layout: Option<LayoutHandle>) -> Vec<u8> {
    let handle = layout.map(|layout| layout.0.to_be_bytes());
    [b"purged".as_slice(), handle.as_ref().map_or(&[], |handle| handle.as_slice())].concat()
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Catalog({})", self.path.display())
    }
}
