//! Messages between an engine and the daemon of its node.
//!
//! A connection starts with [`Hello`] answered by [`Welcome`] or [`Refusal`]; the arena's descriptor travels with the
//! welcome (SCM_RIGHTS). Then requests and replies, matched by id, in any order; several may be under way.
//!
//! One engine instance opens one `Control` connection (its scheduler: all requests) and one `Worker` connection per
//! process that copies bytes (no requests: it only maps the arena). The daemon ends the engine's leases when the control
//! connection and every worker connection of that instance are gone, so no slot is reused while a straggler
//! may still be copying.

pub use crate::socket_path::{SOCKET_VARIABLE, default_socket_path};
pub use kvd_block::lease::{BlockState, FilledBlock, LoadGrant, NewBlock, StoreGrant};
use kvd_block::{LayoutHandle, LayoutSpec, LeaseId, RequestId, SequenceHash, SessionId, SlotIndex};
use serde::{Deserialize, Serialize};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Asks for leases. One per engine instance.
    Control,
    /// Copies into and out of slots on behalf of the instance's control connection.
    Worker,
    /// A newer daemon that wants to take over the arena. Same user only.
    Takeover,
}

/// First message of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::PROTOCOL_VERSION`] of the sender.
    pub protocol: u16,
    /// What the connection is for.
    pub role: Role,
    /// Names the engine instance: equal for all connections of one, different for every start.
    pub engine: String,
    /// For people: engine and version, such as `vllm 0.32.0`.
    pub software: String,
    /// Layouts the engine will use, one per KV group. Empty for workers.
    pub layouts: Vec<LayoutSpec>,
}

/// The daemon accepts. One descriptor comes along: the arena.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Version of the daemon, for people.
    pub software: String,
    /// Number of this daemon's life; a different number means that everything learned before is void.
    pub incarnation: u64,
    /// The session this connection belongs to.
    pub session: SessionId,
    /// One handle per layout of the hello, in order.
    pub layouts: Vec<LayoutHandle>,
    /// Size of the arena.
    pub arena_bytes: u64,
}

/// The daemon refuses; the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong and what to do about it.
    pub why: String,
    /// The daemon's protocol version.
    pub protocol: u16,
}

/// Answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelloAnswer {
    /// Go on.
    Welcome(Welcome),
    /// Go away.
    Refusal(Refusal),
}

/// Sequence hashes, 16 bytes each, back to back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Keys(#[serde(with = "serde_bytes")] Vec<u8>);

impl Keys {
    /// Packs `hashes`.
    pub fn from_hashes(hashes: &[SequenceHash]) -> Keys {
        Keys(hashes.iter().flat_map(|hash| hash.0).collect())
    }

    /// The hashes, in order. A trailing partial hash is ignored.
    pub fn iter(&self) -> impl Iterator<Item = SequenceHash> + '_ {
        self.0.chunks_exact(16).map(|bytes| SequenceHash(bytes.try_into().expect("16 bytes")))
    }

    /// How many hashes there are.
    pub fn len(&self) -> usize {
        self.0.len() / 16
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A request with the id that its reply will carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToDaemon {
    /// Chosen by the engine, unique on the connection, not zero.
    pub id: RequestId,
    /// What is asked.
    pub body: Request,
}

/// A reply, or a notice (id zero) that no request asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToEngine {
    /// Id of the request answered; zero for a notice.
    pub id: RequestId,
    /// The answer.
    pub body: Reply,
}

/// What an engine asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Where are these blocks? Answered by [`Reply::Found`]. Counts as a use of the blocks found.
    Lookup {
        /// Layout of the blocks.
        layout: LayoutHandle,
        /// The blocks, in sequence order.
        keys: Keys,
        /// Stop at the first block that is nowhere: the states after it are left out.
        until_miss: bool,
    },
    /// May I store these? Answered by [`Reply::StoreLease`].
    PrepareStore {
        /// Layout of the blocks.
        layout: LayoutHandle,
        /// The blocks, parents before children.
        blocks: Vec<NewBlock>,
    },
    /// The bytes of these blocks are in their slots; all other blocks of the lease are given up. Ends the lease.
    /// Answered by [`Reply::Done`].
    CompleteStore {
        /// The lease.
        lease: LeaseId,
        /// The blocks that are whole.
        filled: Vec<FilledBlock>,
    },
    /// Bring these into the arena and keep them there. Answered at once by [`Reply::LoadLease`]; blocks that must come from a
    /// slower tier follow as [`Reply::Staged`] notices.
    PrepareLoad {
        /// Layout of the blocks.
        layout: LayoutHandle,
        /// The blocks, in sequence order.
        keys: Keys,
        /// Blocks that are not in the arena after this time are reported as missing. Zero means the daemon's default.
        deadline_ms: u32,
    },
    /// The blocks were copied, or are not wanted any more. Ends the lease. Answered by [`Reply::Done`].
    CompleteLoad {
        /// The lease.
        lease: LeaseId,
        /// Indices of blocks whose bytes did not match their header. The daemon forgets those images.
        corrupt: Vec<u32>,
    },
    /// These blocks are in use: keep them as if they had been looked up. Answered by [`Reply::Done`].
    Touch {
        /// Layout of the blocks.
        layout: LayoutHandle,
        /// The blocks, in sequence order.
        keys: Keys,
    },
    /// Do not evict these from their last tier for some time. Answered by [`Reply::Pinned`].
    Pin {
        /// Layout of the blocks.
        layout: LayoutHandle,
        /// The blocks.
        keys: Keys,
        /// How long; zero unpins.
        ttl_ms: u64,
    },
    /// Among blocks that may be evicted, these go before those of higher priority, for some time. Answered by [`Reply::Pinned`].
    Retain {
        /// Layout of the blocks.
        layout: LayoutHandle,
        /// The blocks.
        keys: Keys,
        /// 0 goes first, 50 is usual, 100 goes last.
        priority: u8,
        /// How long; zero ends it.
        ttl_ms: u64,
    },
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Lookup`]: a [`BlockState`] byte per block.
    Found {
        /// The states, in request order.
        #[serde(with = "serde_bytes")]
        states: Vec<u8>,
    },
    /// To [`Request::PrepareStore`].
    StoreLease {
        /// Names the lease. A lease with no `Write` grant is over already.
        lease: LeaseId,
        /// One per block, in request order.
        grants: Vec<StoreGrant>,
    },
    /// To [`Request::PrepareLoad`].
    LoadLease {
        /// Names the lease. A lease in which every block is a miss is over already.
        lease: LeaseId,
        /// One per block, in request order.
        grants: Vec<LoadGrant>,
    },
    /// Notice: some blocks of a load lease are settled. Each block that was `Staging` is settled exactly once.
    Staged {
        /// The lease.
        lease: LeaseId,
        /// Index and slot of blocks that can be copied now.
        ready: Vec<(u32, SlotIndex)>,
        /// Indices of blocks that cannot be had.
        missing: Vec<u32>,
    },
    /// To [`Request::Pin`] and [`Request::Retain`]: how many of the blocks are resident and kept so now.
    Pinned {
        /// Blocks.
        blocks: u32,
    },
    /// Done.
    Done,
    /// Too much is under way; nothing was done. Go on without.
    Busy {
        /// What is full.
        what: String,
    },
    /// The request makes no sense here; nothing was done.
    Invalid {
        /// What is wrong.
        why: String,
    },
}
