//! Opening a catalog: RocksDB's settings, and what is refused.
//!
//! Never makes a database in a folder that holds somebody else's files.

use super::error::{from_io, from_rocksdb};
use super::{BLOCKS, CATALOG_VERSION, Catalog, CatalogError, LAYOUTS, META, family};
use kvd_block::{LayoutHandle, LayoutSpec};
use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, IteratorMode, LogLevel, Options};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, RwLock};

const FAMILIES: [&str; 4] = ["default", BLOCKS, LAYOUTS, META];
/// Rows are 50 bytes: 8 MiB hold 100,000 of them.
const MEMTABLE_BYTES: usize = 8 << 20;
const LOG_BYTES: u64 = 32 << 20;

pub(super) fn open(path: &Path) -> Result<Catalog, CatalogError> {
    fs::create_dir_all(path).map_err(|error| from_io(path, "making its folder", error))?;
    refuse_other_files(path)?;
    refuse_unknown_families(path)?;
    let db = database(path, is_new(path))?;
    let catalog = Catalog { db: RwLock::new(Some(db)), path: path.to_owned(), layouts: Mutex::default() };
    check_version(&catalog)?;
    let layouts = read_layouts(&catalog)?;
    Ok(Catalog { layouts: Mutex::new(layouts), ..catalog })
}

/// Makes the database when `make` says so.
pub(super) fn database(path: &Path, make: bool) -> Result<DB, CatalogError> {
    let mut options = options();
    options.create_if_missing(make);
    options.create_missing_column_families(true);
    let families = FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, family_options()));
    DB::open_cf_descriptors(&options, path, families).map_err(|error| from_rocksdb(path, "opening it", error))
}

fn is_new(path: &Path) -> bool {
    !path.join("CURRENT").exists()
}

/// A folder without RocksDB's `CURRENT` file must be empty, or be a catalog that lost it.
fn refuse_other_files(path: &Path) -> Result<(), CatalogError> {
    if !is_new(path) {
        return Ok(());
    }
    let entries = fs::read_dir(path).map_err(|error| from_io(path, "reading its folder", error))?;
    let names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if names.iter().any(|name| name.starts_with("MANIFEST-") || name.ends_with(".sst")) {
        return Err(CatalogError::Corrupt { path: path.to_owned(), why: "its file `CURRENT` is missing".into() });
    }
    // A first start that died early leaves these.
    let ours = |name: &String| name == "LOCK" || name == "IDENTITY" || name.starts_with("LOG") || name.ends_with(".dbtmp");
    if names.iter().all(ours) { Ok(()) } else { Err(CatalogError::NotACatalog { path: path.to_owned() }) }
}

fn refuse_unknown_families(path: &Path) -> Result<(), CatalogError> {
    if is_new(path) {
        return Ok(());
    }
    let found = DB::list_cf(&Options::default(), path).map_err(|error| from_rocksdb(path, "reading its manifest", error))?;
    match found.iter().find(|name| !FAMILIES.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(CatalogError::Newer { path: path.to_owned(), found: format!("has a column family `{name}`") }),
    }
}

fn check_version(catalog: &Catalog) -> Result<(), CatalogError> {
    match catalog.meta(b"format")?.map(u16::from_le_bytes) {
        None => catalog.put_synced(META, b"format", &CATALOG_VERSION.to_le_bytes()),
        Some(CATALOG_VERSION) => Ok(()),
        Some(version) if version < CATALOG_VERSION => catalog.begin_anew(),
        Some(version) => Err(CatalogError::Newer { path: catalog.path.clone(), found: format!("is of format version {version}") }),
    }
}

fn read_layouts(catalog: &Catalog) -> Result<Vec<(LayoutHandle, LayoutSpec)>, CatalogError> {
    let rows = catalog.with("reading layouts", |db| {
        db.iterator_cf(family(db, LAYOUTS), IteratorMode::Start).collect::<Result<Vec<_>, rocksdb::Error>>()
    })?;
    let layout = |(key, value): (Box<[u8]>, Box<[u8]>)| {
        let handle = <[u8; 2]>::try_from(&*key).ok().map(|bytes| LayoutHandle(u16::from_be_bytes(bytes)));
        handle.zip(LayoutSpec::decode(&value)).ok_or_else(|| catalog.corrupt("a layout cannot be read".into()))
    };
    rows.into_iter().map(layout).collect()
}

fn options() -> Options {
    let mut options = Options::default();
    options.set_max_background_jobs(2);
    options.set_max_open_files(64);
    options.set_max_total_wal_size(LOG_BYTES);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// No bloom filters and hardly a cache: rows are written and scanned, never looked up one by one.
fn family_options() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(32 << 10);
    table.set_block_cache(&Cache::new_lru_cache(1 << 20));
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(rocksdb::DBCompressionType::None);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_target_file_size_base(16 << 20);
    options
}

pub(super) fn set_aside(path: &Path) -> Result<PathBuf, CatalogError> {
    let free = (1..=u32::MAX).map(|n| numbered(path, n)).find(|aside| !aside.exists());
    let aside = free.ok_or_else(|| from_io(path, "setting it aside", io::ErrorKind::AlreadyExists.into()))?;
    fs::rename(path, &aside).map_err(|error| from_io(path, "setting it aside", error))?;
    Ok(aside)
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".corrupt-{n}"));
    path.with_file_name(name)
}
