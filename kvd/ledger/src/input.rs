//! What can happen to the ledger, and what it wants done.

use kvd_block::{
    BlockKey, Checksum, FilledBlock, LayoutHandle, LeaseId, LoadGrant, LocalHash, NewBlock, OpId, RequestId, ResidencyEdge, SequenceHash,
    SessionId, SlotIndex, StoreGrant, TierKind,
};

/// Something that happened. Inputs about unknown sessions, leases or operations are ignored: they come late, not wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Time passed: see [`crate::Ledger::next_deadline`].
    Tick,
    /// A layout may be used from now on. Repeating it changes nothing.
    DefineLayout {
        /// Its handle.
        layout: LayoutHandle,
        /// Pages of one slot, header included.
        slot_pages: u32,
        /// Stripes of one payload.
        ranks: u16,
        /// What headers of its blocks say until the next purge: see [`SealedBlock::generation`].
        generation: u64,
    },
    /// An engine connected.
    OpenSession {
        /// Its session.
        session: SessionId,
    },
    /// Every connection of an engine is gone: its leases end.
    CloseSession {
        /// Its session.
        session: SessionId,
    },
    /// Where are these blocks? Answered by [`LedgerReply::Found`].
    Lookup {
        /// Who asks.
        session: SessionId,
        /// What to answer to.
        request: RequestId,
        /// Layout of the blocks.
        layout: LayoutHandle,
        /// The blocks, in sequence order.
        keys: Vec<SequenceHash>,
        /// Leave out everything after the first block that is nowhere.
        until_miss: bool,
    },
    /// Slots to store into. Answered by [`LedgerReply::StoreLease`].
    PrepareStore {
        /// Who asks.
        session: SessionId,
        /// What to answer to.
        request: RequestId,
        /// Layout of the blocks.
        layout: LayoutHandle,
        /// The blocks, parents before children.
        blocks: Vec<NewBlock>,
    },
    /// The slots are filled; ends the lease. Answered by [`LedgerReply::Done`].
    CompleteStore {
        /// Who asks.
        session: SessionId,
        /// What to answer to.
        request: RequestId,
        /// The lease.
        lease: LeaseId,
        /// The blocks that are whole; all others are given up.
        filled: Vec<FilledBlock>,
    },
    /// Slots to load from. Answered by [`LedgerReply::LoadLease`], then [`Action::Notify`] for what must be staged.
    PrepareLoad {
        /// Who asks.
        session: SessionId,
        /// What to answer to.
        request: RequestId,
        /// Layout of the blocks.
        layout: LayoutHandle,
        /// The blocks, in sequence order.
        keys: Vec<SequenceHash>,
        /// Longest wait for slower tiers; zero means the default.
        deadline_ms: u64,
    },
    /// The load is over; ends the lease. Answered by [`LedgerReply::Done`].
    CompleteLoad {
        /// Who asks.
        session: SessionId,
        /// What to answer to.
        request: RequestId,
        /// The lease.
        lease: LeaseId,
        /// Indices of blocks whose bytes did not match.
        corrupt: Vec<u32>,
    },
    /// These blocks are in use. Answered by [`LedgerReply::Done`].
    Touch {
        /// Who asks.
        session: SessionId,
        /// What to answer to.
        request: RequestId,
        /// Layout of the blocks.
        layout: LayoutHandle,
        /// The blocks, in sequence order.
        keys: Vec<SequenceHash>,
    },
    /// Keep these blocks. Answered by [`LedgerReply::Pinned`].
    Pin {
        /// Who asks.
        session: SessionId,
        /// What to answer to.
        request: RequestId,
        /// Layout of the blocks.
        layout: LayoutHandle,
        /// The blocks.
        keys: Vec<SequenceHash>,
        /// How long; zero unpins.
        ttl_ms: u64,
    },
    /// Give these blocks a priority: among blocks that may be evicted, lower ones go before higher ones. Answered by
    /// [`LedgerReply::Pinned`] with how many are resident.
    Retain {
        /// Who asks.
        session: SessionId,
        /// What to answer to.
        request: RequestId,
        /// Layout of the blocks.
        layout: LayoutHandle,
        /// The blocks.
        keys: Vec<SequenceHash>,
        /// 0 goes first, 50 is usual, 100 goes last; more counts as 100.
        priority: u8,
        /// How long; zero ends it.
        ttl_ms: u64,
    },
    /// An [`Action::Write`] ended.
    WriteDone {
        /// Which.
        op: OpId,
        /// How.
        result: WriteResult,
    },
    /// An [`Action::Read`] ended.
    ReadDone {
        /// Which.
        op: OpId,
        /// How.
        result: ReadResult,
    },
    /// An [`Action::Erase`] ended.
    EraseDone {
        /// Which.
        op: OpId,
        /// How. A failure leaves the image to its generation, which tells a later scan that it was purged.
        result: WriteResult,
    },
    /// Blocks that a tier held when this daemon started: catalog rows, found images, or a handed-over arena. Publishes no events of
    /// its own: the daemon announces a snapshot when recovery is over.
    Recovered {
        /// The tier.
        tier: TierKind,
        /// What it holds.
        rows: Vec<CatalogRow>,
    },
    /// An image was found not to match, by the scrubber or an operator's verification.
    FoundCorrupt {
        /// The block.
        key: BlockKey,
        /// Where.
        tier: TierKind,
        /// The address that was checked; ignored when the block has moved since.
        address: SlotIndex,
    },
    /// Forget blocks for good: all of one layout, or everything. What is in use goes when it is released.
    Purge {
        /// Which layout; `None` is all.
        layout: Option<LayoutHandle>,
        /// What headers of blocks stored from now on say: greater than ever before, and remembered already.
        generation: u64,
    },
    /// Refuse (true) or accept (false) new leases.
    Drain(bool),
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteResult {
    /// The image is there.
    Written,
    /// The tier was too busy to take it.
    Busy,
    /// The medium is full or failed; stop writing for a while.
    Failed,
}

/// How a read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadResult {
    /// Header and payload are in the slot, verified.
    Read,
    /// The tier was too busy to take it; the image is still there.
    Busy,
    /// The image does not match or the medium failed on it: forget it.
    Corrupt,
    /// The medium failed; the image may be there.
    Failed,
}

/// A block in a tier, as the catalog keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogRow {
    /// The block.
    pub key: BlockKey,
    /// Where its image starts.
    pub address: SlotIndex,
    /// The block before it.
    pub parent: SequenceHash,
    /// What routers match its own tokens by.
    pub local: LocalHash,
    /// How many blocks come before it.
    pub position: u32,
}

/// One image on its way between a slot and an NVMe address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Names it; given back when it ends.
    pub op: OpId,
    /// The block.
    pub key: BlockKey,
    /// The arena slot.
    pub slot: SlotIndex,
    /// Pages of the slot.
    pub pages: u32,
    /// The NVMe address.
    pub address: SlotIndex,
}

/// What a header must say about a block that was just stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBlock {
    /// The block.
    pub key: BlockKey,
    /// Its slot.
    pub slot: SlotIndex,
    /// The block before it.
    pub parent: SequenceHash,
    /// What routers match its own tokens by.
    pub local: LocalHash,
    /// How many blocks come before it.
    pub position: u32,
    /// Its tokens, `u32` little-endian.
    pub tokens: Vec<u8>,
    /// Checksum of each rank's stripe.
    pub stripes: Vec<Checksum>,
    /// That of the last purge of its layout: an image with a smaller one was purged.
    pub generation: u64,
}

/// Something that must be done, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answer a request.
    Reply {
        /// Whose.
        session: SessionId,
        /// Which.
        request: RequestId,
        /// With what.
        reply: LedgerReply,
    },
    /// Tell an engine that blocks of its load lease are settled.
    Notify {
        /// Whose.
        session: SessionId,
        /// The lease.
        lease: LeaseId,
        /// Index and slot of blocks that can be copied now.
        ready: Vec<(u32, SlotIndex)>,
        /// Indices of blocks that cannot be had.
        missing: Vec<u32>,
    },
    /// Write this header into its slot, before anything that follows.
    Seal(SealedBlock),
    /// Write an image to NVMe and answer [`Input::WriteDone`].
    Write(Transfer),
    /// Read and verify an image from NVMe and answer [`Input::ReadDone`].
    Read(Transfer),
    /// Overwrite the header at this NVMe address, so that the image can never be read again, and answer [`Input::EraseDone`]. No
    /// image is written there before the answer.
    Erase {
        /// Names it; given back when it ends.
        op: OpId,
        /// Where.
        address: SlotIndex,
    },
    /// Keep this row; nobody waits for it.
    CatalogPut(CatalogRow),
    /// Forget every row of this layout, or all: they were purged. Nobody waits for it.
    CatalogPurge {
        /// Which layout; `None` is all.
        layout: Option<LayoutHandle>,
        /// The purge, to be remembered with the rows' absence.
        generation: u64,
    },
    /// Forget this row; nobody waits for it.
    CatalogDelete(BlockKey),
    /// Tell the world.
    Publish(ResidencyEdge),
}

/// Answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerReply {
    /// A [`kvd_block::BlockState`] byte per block.
    Found(Vec<u8>),
    /// Slots to fill.
    StoreLease {
        /// The lease; over already when nothing is to be written.
        lease: LeaseId,
        /// One per block.
        grants: Vec<StoreGrant>,
    },
    /// Slots to copy from.
    LoadLease {
        /// The lease; over already when every block is a miss.
        lease: LeaseId,
        /// One per block.
        grants: Vec<LoadGrant>,
    },
    /// Blocks pinned.
    Pinned(u32),
    /// Done.
    Done,
    /// A limit is reached.
    Busy(&'static str),
    /// Makes no sense.
    Invalid(String),
}
