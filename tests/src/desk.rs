//! A ledger on a desk: for scenarios of a few steps, told in the words of the test's name.
//!
//! Transfers wait in `writes` and `reads` until the test ends them, notices in `notices`. Every step is checked.

use crate::sim::setting::prompt;
use kvd_block::{
    BlockKey, BlockState, Checksum, FilledBlock, LayoutHandle, LeaseId, LoadGrant, NewBlock, OpId, PAGE_BYTES, RequestId, ResidencyEdge,
    SequenceHash, SessionId, SlotIndex, StoreGrant, Tick, TierKind,
};
use kvd_ledger::{Action, Input, Ledger, LedgerConfig, LedgerReply, ReadResult, SealedBlock, SpaceConfig, Transfer, WriteResult};

/// The layout of most scenarios: slots of two pages, one rank.
pub const SMALL: LayoutHandle = LayoutHandle(0);
/// Another layout: slots of four pages, two ranks.
pub const LARGE: LayoutHandle = LayoutHandle(1);
/// Pages of an extent: label and four small slots.
pub const EXTENT_PAGES: u64 = 9;

/// What an engine is told about a load that had to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The lease.
    pub lease: LeaseId,
    /// What can be copied now.
    pub ready: Vec<(u32, SlotIndex)>,
    /// What cannot be had.
    pub missing: Vec<u32>,
}

/// A ledger, and what it wants and was not given yet.
#[derive(Debug)]
pub struct Desk {
    /// The ledger.
    pub ledger: Ledger,
    /// The time, which only the test moves.
    pub now: u64,
    /// Writes under way.
    pub writes: Vec<Transfer>,
    /// Reads under way.
    pub reads: Vec<Transfer>,
    /// Erases under way.
    pub erases: Vec<(OpId, SlotIndex)>,
    /// Headers written, oldest first.
    pub sealed: Vec<SealedBlock>,
    /// Notices, oldest first.
    pub notices: Vec<Notice>,
    /// Residency edges, oldest first.
    pub events: Vec<ResidencyEdge>,
}

/// A lease for loading ends after this much time on a desk, one for storing after twice as much.
pub const LOAD_LEASE_MS: u64 = 100;

impl Desk {
    /// A ledger with that many extents in the arena and on NVMe; zero is no NVMe.
    pub fn new(arena_extents: u64, nvme_extents: u64) -> Desk {
        Desk::with(arena_extents, nvme_extents, |_| {})
    }

    /// As [`Desk::new`], with other limits.
    pub fn with(arena_extents: u64, nvme_extents: u64, change: impl FnOnce(&mut LedgerConfig)) -> Desk {
        let space =
            |extents: u64| SpaceConfig { capacity_bytes: extents * EXTENT_PAGES * PAGE_BYTES, extent_bytes: EXTENT_PAGES * PAGE_BYTES };
        let mut config = LedgerConfig::new(space(arena_extents), (nvme_extents > 0).then(|| space(nvme_extents)));
        (config.load_lease_ms, config.store_lease_ms, config.load_deadline_ms) = (LOAD_LEASE_MS, 2 * LOAD_LEASE_MS, LOAD_LEASE_MS / 2);
        change(&mut config);
        let ledger = Ledger::new(config);
        let mut desk = Desk {
            ledger,
            now: 1,
            writes: Vec::new(),
            reads: Vec::new(),
            erases: Vec::new(),
            sealed: Vec::new(),
            notices: Vec::new(),
            events: Vec::new(),
        };
        desk.tell(Input::DefineLayout { layout: SMALL, slot_pages: 2, ranks: 1, generation: 0 });
        desk.tell(Input::DefineLayout { layout: LARGE, slot_pages: 4, ranks: 2, generation: 0 });
        for session in [1, 2].map(SessionId) {
            desk.tell(Input::OpenSession { session });
        }
        desk
    }

    /// Steps the ledger and checks it. Returns the reply, if the input asked for one.
    pub fn tell(&mut self, input: Input) -> Option<LedgerReply> {
        let mut actions = Vec::new();
        self.ledger.step(Tick(self.now), input, &mut actions);
        self.ledger.check();
        let mut answer = None;
        for action in actions {
            match action {
                Action::Reply { reply, .. } => answer = Some(reply),
                Action::Notify { lease, ready, missing, .. } => self.notices.push(Notice { lease, ready, missing }),
                Action::Write(transfer) => self.writes.push(transfer),
                Action::Read(transfer) => self.reads.push(transfer),
                Action::Erase { op, address } => self.erases.push((op, address)),
                Action::Seal(block) => self.sealed.push(block),
                Action::Publish(edge) => self.events.push(edge),
                _ => {}
            }
        }
        answer
    }

    /// Lets time pass.
    pub fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.tell(Input::Tick);
    }

    /// Asks for slots.
    pub fn prepare_store(&mut self, session: SessionId, layout: LayoutHandle, blocks: &[NewBlock]) -> (LeaseId, Vec<StoreGrant>) {
        match self.tell(Input::PrepareStore { session, request: RequestId(1), layout, blocks: blocks.to_vec() }) {
            Some(LedgerReply::StoreLease { lease, grants }) => (lease, grants),
            other => panic!("no store lease but {other:?}"),
        }
    }

    /// Says that the first `blocks` blocks of a store lease are whole.
    pub fn complete_store(&mut self, session: SessionId, layout: LayoutHandle, lease: LeaseId, blocks: usize) {
        let ranks = if layout == SMALL { 1 } else { 2 };
        let filled = (0..blocks as u32).map(|index| FilledBlock { index, stripes: vec![Checksum(7); ranks] }).collect();
        self.tell(Input::CompleteStore { session, request: RequestId(2), lease, filled });
    }

    /// Stores blocks.
    pub fn store(&mut self, session: SessionId, layout: LayoutHandle, blocks: &[NewBlock]) {
        let (lease, _) = self.prepare_store(session, layout, blocks);
        self.complete_store(session, layout, lease, blocks.len());
    }

    /// Ends every write under way.
    pub fn end_writes(&mut self, result: WriteResult) {
        for Transfer { op, .. } in std::mem::take(&mut self.writes) {
            self.tell(Input::WriteDone { op, result });
        }
    }

    /// Ends every read under way.
    pub fn end_reads(&mut self, result: ReadResult) {
        for Transfer { op, .. } in std::mem::take(&mut self.reads) {
            self.tell(Input::ReadDone { op, result });
        }
    }

    /// Ends every erase under way.
    pub fn end_erases(&mut self, result: WriteResult) {
        for (op, _) in std::mem::take(&mut self.erases) {
            self.tell(Input::EraseDone { op, result });
        }
    }

    /// Asks to load; `deadline_ms` zero is the default.
    pub fn prepare_load(&mut self, session: SessionId, blocks: &[NewBlock], deadline_ms: u64) -> (LeaseId, Vec<LoadGrant>) {
        let keys = names(blocks);
        match self.tell(Input::PrepareLoad { session, request: RequestId(3), layout: SMALL, keys, deadline_ms }) {
            Some(LedgerReply::LoadLease { lease, grants }) => (lease, grants),
            other => panic!("no load lease but {other:?}"),
        }
    }

    /// Ends a load.
    pub fn complete_load(&mut self, session: SessionId, lease: LeaseId, corrupt: &[u32]) {
        self.tell(Input::CompleteLoad { session, request: RequestId(4), lease, corrupt: corrupt.to_vec() });
    }

    /// Where blocks of the small layout are. As every lookup, this is a use of them.
    pub fn lookup(&mut self, blocks: &[NewBlock]) -> Vec<BlockState> {
        let keys = names(blocks);
        match self.tell(Input::Lookup { session: SessionId(1), request: RequestId(5), layout: SMALL, keys, until_miss: false }) {
            Some(LedgerReply::Found(states)) => states.into_iter().filter_map(BlockState::from_byte).collect(),
            other => panic!("not found but {other:?}"),
        }
    }

    /// Moves blocks out of the arena by storing others, until only NVMe has them.
    pub fn push_out(&mut self, blocks: &[NewBlock]) {
        for chain in 100.. {
            let gone = |block: &NewBlock| self.ledger.inspect(key(SMALL, block)).is_none_or(|view| view.cpu.is_none());
            if blocks.iter().all(gone) {
                return;
            }
            assert!(chain < 200, "the blocks do not go");
            self.store(SessionId(2), SMALL, &own_chain(chain, 1));
            self.end_writes(WriteResult::Written);
        }
    }

    /// Bytes in use in a tier.
    pub fn used_bytes(&self, tier: TierKind) -> u64 {
        self.ledger.totals(tier).used_bytes
    }
}

/// The names of blocks.
pub fn names(blocks: &[NewBlock]) -> Vec<SequenceHash> {
    blocks.iter().map(|block| block.hash).collect()
}

/// The key of a block.
pub fn key(layout: LayoutHandle, block: &NewBlock) -> BlockKey {
    BlockKey { layout, hash: block.hash }
}

/// A chain of its own, which shares nothing with others.
pub fn own_chain(chain: u8, blocks: u64) -> Vec<NewBlock> {
    let rename = |hash: SequenceHash| {
        if hash.is_root() { hash } else { SequenceHash([hash.0.as_slice(), &[chain]].concat()[1..].try_into().expect("16 bytes")) }
    };
    let mut blocks = prompt(0, blocks);
    for block in &mut blocks {
        (block.hash, block.parent) = (rename(block.hash), rename(block.parent));
    }
    blocks
}
