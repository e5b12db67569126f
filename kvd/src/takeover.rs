//! Replaces a running daemon without losing what is in the arena.
//!
//! ```text
//! new                                  old
//!  ├── Hello{role: Takeover} ──────────▶│  same user only
//!  │◀── Welcome + arena descriptor ─────┤  refuses new leases; waits for stores and transfers, 5 s at most;
//!  │                                    │  closes engines, slot file, catalog, addresses
//!  │◀── Handover{layouts, blocks} ──────┤
//!  │◀── Vec<HandedBlock> … ─────────────┤  exits
//! ```
//!
//! An engine that still copies into a slot after five seconds would write into memory the new daemon believes free, so
//! then the old daemon refuses and goes on. A copy out of the arena may be cut short: its reader's checksum tells.
//! The new daemon believes no row: it checks the header of every slot it is given.

use crate::layouts::Layouts;
use kvd_block::image::{self, HeaderPage};
use kvd_block::{BlockKey, LayoutHandle, LayoutSpec, LocalHash, SequenceHash, SlotIndex};
use kvd_ledger::CatalogRow;
use kvd_proto::PROTOCOL_VERSION;
use kvd_proto::frame::{self, FrameError};
use kvd_proto::local::{Hello, HelloAnswer, Role, Welcome};
use kvd_shm::{Arena, ArenaError, fds};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tracing::info;

/// How long the old daemon waits for stores and transfers.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How long the new daemon waits for the old one in all.
const PATIENCE: Duration = Duration::from_secs(60);
const FRAME_BLOCKS: usize = 8192;

/// Why a takeover failed. The old daemon is still serving, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// Nobody to take over from.
    #[error("there is no kvd to take over from at {}: {source}; start without `--takeover`", path.display())]
    NobodyThere {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The old daemon said no.
    #[error("the running kvd refused to hand over: {0}")]
    Refused(String),
    /// The conversation broke.
    #[error("the hand-over broke off: {0}; start again without `--takeover` when the old kvd is gone")]
    Broken(#[from] FrameError),
    /// What was received is no arena.
    #[error("the hand-over broke off: {0}")]
    Arena(#[from] ArenaError),
}

/// What the old daemon says once it has let go of everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// Size of the arena's extents.
    pub extent_bytes: u64,
    /// Every layout.
    pub layouts: Vec<(LayoutHandle, LayoutSpec)>,
    /// How many blocks follow.
    pub blocks: u64,
}

/// One block in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedBlock {
    layout: LayoutHandle,
    hash: SequenceHash,
    slot: SlotIndex,
    parent: SequenceHash,
    local: LocalHash,
    position: u32,
}

impl HandedBlock {
    /// From the ledger's row.
    pub fn new(row: CatalogRow) -> HandedBlock {
        let BlockKey { layout, hash } = row.key;
        HandedBlock { layout, hash, slot: row.address, parent: row.parent, local: row.local, position: row.position }
    }
}

/// What the new daemon starts with.
#[derive(Debug)]
pub struct Inherited {
    /// The arena, with every block in it.
    pub arena: Arc<Arena>,
    /// Size of its extents.
    pub extent_bytes: u64,
    /// Incarnation of the old daemon.
    pub incarnation: u64,
    layouts: Vec<(LayoutHandle, LayoutSpec)>,
    blocks: Vec<HandedBlock>,
}

/// Takes over from the daemon at `socket`. Blocks until it has let go.
pub fn take_over(socket: &Path) -> Result<Inherited, TakeoverError> {
    let stream = UnixStream::connect(socket).map_err(|source| TakeoverError::NobodyThere { path: socket.into(), source })?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(FrameError::from)?;
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        role: Role::Takeover,
        engine: "takeover".into(),
        software: crate::session::SOFTWARE.into(),
        layouts: Vec::new(),
    };
    frame::write(&mut &stream, &hello)?;
    let (welcome, arena) = read_welcome(&stream)?;
    info!(from = welcome.software, "the running kvd is handing over");
    let mut reader = io::BufReader::new(&stream);
    let handover: Handover = frame::read(&mut reader)?;
    let mut blocks = Vec::new();
    while (blocks.len() as u64) < handover.blocks {
        blocks.extend(frame::read::<Vec<HandedBlock>>(&mut reader)?);
    }
    Ok(Inherited {
        arena: Arc::new(arena),
        extent_bytes: handover.extent_bytes,
        incarnation: welcome.incarnation,
        layouts: handover.layouts,
        blocks,
    })
}

fn read_welcome(stream: &UnixStream) -> Result<(Welcome, Arena), TakeoverError> {
    let mut prefix = [0; frame::PREFIX_BYTES];
    let mut received = fds::receive_with_fds(stream, &mut prefix).map_err(FrameError::from)?;
    let mut body = vec![0; frame::body_bytes(&prefix)?];
    received.extend(fds::receive_with_fds(stream, &mut body).map_err(FrameError::from)?);
    match frame::decode(&body)? {
        HelloAnswer::Refusal(refusal) => Err(TakeoverError::Refused(refusal.why)),
        HelloAnswer::Welcome(welcome) => {
            let fd = received.pop().ok_or_else(|| TakeoverError::Refused("it sent no arena".into()))?;
            Ok((welcome, Arena::from_fd(fd)?))
        }
    }
}

/// Sends everything the new daemon needs. Blocks.
pub fn hand_over(mut stream: &UnixStream, extent_bytes: u64, layouts: &Layouts, rows: Vec<CatalogRow>) -> Result<(), FrameError> {
    let layouts = layouts.all().iter().map(|layout| (layout.handle, layout.spec.clone())).collect();
    frame::write(&mut stream, &Handover { extent_bytes, layouts, blocks: rows.len() as u64 })?;
    for rows in rows.chunks(FRAME_BLOCKS) {
        let blocks: Vec<HandedBlock> = rows.iter().map(|row| HandedBlock::new(*row)).collect();
        frame::write(&mut stream, &blocks)?;
    }
    Ok(stream.flush()?)
}

impl Inherited {
    /// The layouts of the arena's blocks.
    pub fn layout_specs(&self) -> impl Iterator<Item = &LayoutSpec> {
        self.layouts.iter().map(|(_, spec)| spec)
    }

    /// Rows of the blocks whose headers are sound, in this daemon's layout handles, and how many were not.
    pub fn verified_rows(&self, layouts: &Layouts) -> (Vec<CatalogRow>, usize) {
        let mut handles = std::collections::HashMap::new();
        for (old, spec) in &self.layouts {
            handles.extend(layouts.find(spec.id()).map(|layout| (*old, (layout.handle, layout.id))));
        }
        let rows: Vec<CatalogRow> = self
            .blocks
            .iter()
            .filter_map(|block| {
                let (layout, id) = handles.get(&block.layout)?;
                let inside = block.slot.offset_bytes() + kvd_block::HEADER_BYTES <= self.arena.bytes();
                let sound = inside && is_image_of(&self.arena.read_header(block.slot), *id, block.hash);
                sound.then_some(CatalogRow {
                    key: BlockKey { layout: *layout, hash: block.hash },
                    address: block.slot,
                    parent: block.parent,
                    local: block.local,
                    position: block.position,
                })
            })
            .collect();
        let refused = self.blocks.len() - rows.len();
        (rows, refused)
    }
}

fn is_image_of(page: &HeaderPage, layout: kvd_block::LayoutId, hash: SequenceHash) -> bool {
    image::verify_page(page).is_ok() && image::layout_id(page) == layout && image::sequence_hash(page) == hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_to_take_over_from_is_said_with_the_way_out() {
        let error = take_over(Path::new("/nonexistent/kvd.sock")).unwrap_err();
        assert!(error.to_string().contains("start without `--takeover`"));
    }
}
