//! The contract every tier keeps.

use crate::completion::Completion;
use crate::error::TierError;
use kvd_block::{LayoutId, PAGE_BYTES, SequenceHash, SlotIndex, TierKind};
use kvd_shm::Slot;
use std::fmt::{self, Debug, Display};
use std::io;

/// The name of a block as its header gives it: valid on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockName {
    /// Its layout.
    pub layout: LayoutId,
    /// Its tokens, and everything before them.
    pub hash: SequenceHash,
}

impl Display for BlockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}/{}", self.layout, self.hash)
    }
}

/// One block to write: a slot whose header is sealed.
#[derive(Debug)]
pub struct WriteBlock {
    /// The image. Travels with the request and comes back in the outcome.
    pub slot: Slot,
    /// Where to put it.
    pub address: SlotIndex,
}

/// One block to read.
#[derive(Debug)]
pub struct ReadBlock {
    /// Where to put the image. Travels with the request and comes back in the outcome.
    pub slot: Slot,
    /// Where it is.
    pub address: SlotIndex,
    /// What must be there.
    pub name: BlockName,
}

/// What became of one write.
#[derive(Debug)]
pub struct WriteOutcome {
    /// The slot that travelled with the request.
    pub slot: Slot,
    /// Success means that a read of this address gives the image, after a crash of this process too.
    pub result: Result<(), TierError>,
}

/// What became of one read.
#[derive(Debug)]
pub struct ReadOutcome {
    /// The slot that travelled with the request. Its content is undefined unless `result` is a success.
    pub slot: Slot,
    /// Success means that header and payload are verified and are the block asked for.
    pub result: Result<(), TierError>,
}

/// What a tier can take at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierLimits {
    /// Size of the medium.
    pub capacity_bytes: u64,
    /// Bytes of each extent: slots never cross an extent's end, and an extent's first page is the tier's own.
    pub extent_bytes: u64,
    /// Blocks that may be under way; more are answered `Busy`.
    pub max_inflight_blocks: usize,
}

impl TierLimits {
    /// Refuses a slot that does not lie inside one extent, or that touches the extent's first page.
    pub(crate) fn check(&self, address: SlotIndex, bytes: u64) -> io::Result<()> {
        let start = address.offset_bytes();
        let in_extent = start % self.extent_bytes;
        let inside = bytes > 0
            && bytes.is_multiple_of(PAGE_BYTES)
            && in_extent >= PAGE_BYTES
            && in_extent + bytes <= self.extent_bytes
            && start + bytes <= self.capacity_bytes;
        let why = || format!("{bytes} bytes at page {address} are not a slot of this tier");
        if inside { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, why())) }
    }
}

/// Moves whole block images between arena slots and one storage medium.
///
/// * `read` returns the exact bytes of the last successful `write` to that address, or an error: it checks that the header
///   names the block asked for and that every checksum matches.
/// * Slots travel with the request and come back in the outcome: on success and on failure. When the `Completion` was dropped
///   they are released once the I/O is over. Dropping a `Completion` never cancels I/O.
/// * Outcomes are per block, in request order; one bad block does not fail its batch.
/// * A full queue answers `Busy` at once. No method blocks the caller on the medium.
pub trait Tier: Debug + Display + Send + Sync + 'static {
    /// Which tier this is.
    fn kind(&self) -> TierKind;
    /// What it can take.
    fn limits(&self) -> TierLimits;
    /// Writes images to the medium.
    fn write(&self, batch: Vec<WriteBlock>) -> Completion<Vec<WriteOutcome>>;
    /// Reads and verifies images from the medium.
    fn read(&self, batch: Vec<ReadBlock>) -> Completion<Vec<ReadOutcome>>;
    /// Makes the images at these addresses unreadable for good (their headers are overwritten).
    fn erase(&self, addresses: Vec<SlotIndex>) -> Completion<Vec<Result<(), TierError>>>;
}
