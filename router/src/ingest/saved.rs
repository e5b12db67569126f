//! What a router knows, as a file for its next life. Described in `docs/formats/router-state.md`.
//!
//! Nothing in it is believed: a stream that is resumed is unknown until its publisher repeats the last message that was applied,
//! byte by byte, and what came since. A publisher that cannot is followed as if there had been no file.

use super::HolderKey;
use super::namespaces::{Namespace, NamespaceKey, Namespaces};
use super::wire::Attention;
use crate::index::{HolderId, Index, SnapshotError};
use kvd_block::LayoutId;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"kvdrout1";
/// Longest head that is read. A stream takes about 200 bytes, and 20 for each salted block.
const MOST_HEAD_BYTES: u32 = 256 << 20;

/// Where a stream was when it was saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedProgress {
    /// Number of the next message.
    pub next: u64,
    /// Fingerprint of the last one applied, and when it was published.
    pub print: u64,
    pub published: f64,
    pub complete: bool,
    /// First message of the view, and when it was published.
    pub floor: u64,
    pub floor_published: Option<f64>,
}

/// Whose edges a holder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SavedKey {
    Group { rank: u32, group: u16 },
    Layout([u8; 16]),
}

impl From<HolderKey> for SavedKey {
    fn from(key: HolderKey) -> SavedKey {
        match key {
            HolderKey::Group { rank, group } => SavedKey::Group { rank, group },
            HolderKey::Layout(layout) => SavedKey::Layout(layout.0),
        }
    }
}

impl From<SavedKey> for HolderKey {
    fn from(key: SavedKey) -> HolderKey {
        match key {
            SavedKey::Group { rank, group } => HolderKey::Group { rank, group },
            SavedKey::Layout(layout) => HolderKey::Layout(LayoutId(layout)),
        }
    }
}

/// One holder of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedSeat {
    pub key: SavedKey,
    pub namespace: NamespaceKey,
    pub domain: u16,
    /// Its id in the index.
    pub holder: u16,
    pub group: u16,
    pub attention: Attention,
    pub blocks: [u64; 4],
}

/// What a kvd says of one of its layouts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedLayout {
    pub id: [u8; 16],
    pub namespace: NamespaceKey,
    pub group: u16,
    pub attention: Attention,
}

/// One stream whose view was proven.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedStream {
    /// Of its source, and all that was declared of it: another publisher of that name is not resumed.
    pub source: String,
    pub declared: String,
    pub progress: SavedProgress,
    pub life: Option<u64>,
    pub block_tokens: Option<u32>,
    pub layouts: Vec<SavedLayout>,
    pub seats: Vec<SavedSeat>,
    /// Name, seed and media of the blocks of salted sequences.
    pub salted: Vec<(u64, u64, u8)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    namespaces: Vec<NamespaceKey>,
    streams: Vec<SavedStream>,
}

/// Why a file cannot be used. The router starts without it.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is something else, of another version, or damaged.
    #[error("it is no sound state of a router: {0}")]
    Unsound(String),
    /// One of its indexes is damaged.
    #[error(transparent)]
    Index(#[from] SnapshotError),
}

/// Writes `path` as a whole, or leaves what was there.
pub(super) fn write(path: &Path, namespaces: &[Arc<Namespace>], streams: Vec<SavedStream>) -> Result<u64, SavedError> {
    let fresh = path.with_extension("new");
    let mut out = BufWriter::new(File::create(&fresh)?);
    let head = Head { namespaces: namespaces.iter().map(|namespace| namespace.key.clone()).collect(), streams };
    let head = serde_json::to_vec(&head).expect("plain values");
    out.write_all(MAGIC)?;
    out.write_all(&(head.len() as u32).to_le_bytes())?;
    out.write_all(&head)?;
    out.write_all(&xxh3_64(&head).to_le_bytes())?;
    for namespace in namespaces {
        namespace.read().write_to(&mut out)?;
    }
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    Ok(file.metadata()?.len())
}

/// Reads `path` into `namespaces`; returns the streams that can be resumed. Nothing when there is no such file.
pub(super) fn read(path: &Path, namespaces: &Namespaces) -> Result<Vec<SavedStream>, SavedError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let mut input = BufReader::new(file);
    let head = read_head(&mut input)?;
    let mut indexes = Vec::new();
    for key in &head.namespaces {
        let index = Index::read_from(&mut input, namespaces.limits())?;
        indexes.push((key.clone(), index));
    }
    for (key, index) in indexes {
        restore(namespaces, key, index, &head.streams);
    }
    Ok(head.streams)
}

/// What was not proven when it was saved is forgotten.
fn restore(namespaces: &Namespaces, key: NamespaceKey, mut index: Index, streams: &[SavedStream]) {
    let seats: Vec<&SavedSeat> = streams.iter().flat_map(|stream| &stream.seats).filter(|seat| seat.namespace == key).collect();
    let domains = seats.iter().map(|seat| seat.domain).filter(|domain| *domain > 0).collect();
    let strangers: Vec<HolderId> = index.holders().filter(|holder| seats.iter().all(|seat| seat.holder != holder.0)).collect();
    strangers.into_iter().for_each(|holder| index.remove_holder(holder));
    namespaces.restore(key, index, domains);
}

fn read_head(input: &mut impl Read) -> Result<Head, SavedError> {
    let unsound = |why: &str| SavedError::Unsound(why.to_owned());
    let (mut magic, mut bytes, mut sum) = ([0; 8], [0; 4], [0; 8]);
    input.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(unsound("it does not begin as one of this version"));
    }
    input.read_exact(&mut bytes)?;
    let bytes = u32::from_le_bytes(bytes);
    if bytes > MOST_HEAD_BYTES {
        return Err(unsound("its head is too long"));
    }
    let mut head = vec![0; bytes as usize];
    input.read_exact(&mut head)?;
    input.read_exact(&mut sum)?;
    if xxh3_64(&head).to_le_bytes() != sum {
        return Err(unsound("the checksum of its head differs"));
    }
    serde_json::from_slice(&head).map_err(|error| SavedError::Unsound(error.to_string()))
}
