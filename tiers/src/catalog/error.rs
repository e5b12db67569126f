//! Why a catalog cannot be used. Every text names the folder and the way out.

use super::CATALOG_VERSION;
use std::io;
use std::path::{Path, PathBuf};

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum CatalogError {
    /// Its files are damaged.
    #[error(
        "catalog {}: damaged: {why}: move the folder away and start again, the catalog is then rebuilt from the slot file",
        path.display()
    )]
    Corrupt { path: PathBuf, why: String },
    /// Written by a newer kvd.
    #[error(
        "catalog {}: {found}, this kvd reads up to format version {CATALOG_VERSION}: run the newer kvd, \
         or move the folder away to have the catalog rebuilt from the slot file",
        path.display()
    )]
    Newer { path: PathBuf, found: String },
    /// Another process has it open.
    #[error("catalog {}: in use by another running kvd: stop that one, or set another data folder", path.display())]
    Locked { path: PathBuf },
    /// The folder holds something else.
    #[error("catalog {}: the folder holds other files, so it was left untouched: set another data folder", path.display())]
    NotACatalog { path: PathBuf },
    /// All 65,536 handles are taken.
    #[error(
        "catalog {}: no layout handle is left: move the folder away to have the catalog rebuilt from the slot file",
        path.display()
    )]
    TooManyLayouts { path: PathBuf },
    /// The kernel does not let us.
    #[error("catalog {}: {doing}: {why}: give kvd's user read and write permission on the folder", path.display())]
    Permission { path: PathBuf, doing: &'static str, why: String },
    /// The disk failed or is full.
    #[error("catalog {}: {doing}: {why}", path.display())]
    Storage { path: PathBuf, doing: &'static str, why: String },
}

pub(super) fn from_rocksdb(path: &Path, doing: &'static str, source: rocksdb::Error) -> CatalogError {
    let (path, why) = (path.to_owned(), source.to_string());
    match source.kind() {
        _ if why.contains("ock file") || why.contains("lock hold by current process") => CatalogError::Locked { path },
        _ if why.contains("Permission denied") || why.contains("Read-only file system") => CatalogError::Permission { path, doing, why },
        rocksdb::ErrorKind::Corruption => CatalogError::Corrupt { path, why },
        // RocksDB answers so when a file that its manifest names is gone.
        rocksdb::ErrorKind::IOError if why.contains("No such file") => CatalogError::Corrupt { path, why },
        // A sector that cannot be read any more: the rows in it are as lost as if they were changed.
        rocksdb::ErrorKind::IOError if why.contains("Input/output error") => CatalogError::Corrupt { path, why },
        _ => CatalogError::Storage { path, doing, why },
    }
}

pub(super) fn from_io(path: &Path, doing: &'static str, source: io::Error) -> CatalogError {
    let (path, why) = (path.to_owned(), source.to_string());
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => CatalogError::Permission { path, doing, why },
        _ => CatalogError::Storage { path, doing, why },
    }
}
