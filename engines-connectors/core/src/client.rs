//! The scheduler's side of kvd: where are these blocks, may I load them, may I store those.
//!
//! A client always exists, whether kvd runs or not: it connects in the background and keeps trying. No call
//! waits longer than [`ClientOptions::timeout`]; completing a lease never waits for an answer.

use crate::exchange::{Answer, Exchange};
use crate::journal::Journal;
use crate::lease::{Load, Store};
use crate::link::Link;
use kvd_block::{LayoutSpec, SequenceHash};
use kvd_proto::PROTOCOL_VERSION;
use kvd_proto::local::{BlockState, Hello, Keys, NewBlock, Reply, Request, Role};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use crate::exchange::Unavailable;

/// What a client says about itself, and how patient it is.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Names the engine instance: equal in all its processes, different for every start.
    pub engine: String,
    /// For people: engine and version.
    pub software: String,
    /// One layout per KV group. Calls name them by their place in this list.
    pub layouts: Vec<LayoutSpec>,
    /// Longest time a call may take.
    pub timeout: Duration,
}

impl ClientOptions {
    /// The longest a call may take unless said otherwise: a lookup takes well under a millisecond, and an engine's step
    /// takes tens.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(200);
}

/// One control connection, kept alive.
#[derive(Debug)]
pub struct Client {
    // Before the exchange, so that the link is told to stop first.
    link: Link,
    exchange: Arc<Exchange>,
    journal: Arc<Journal>,
}

impl Client {
    /// Starts connecting in the background and returns at once.
    pub fn connect(options: ClientOptions) -> Client {
        let ClientOptions { socket, engine, software, layouts, timeout } = options;
        let hello = Hello { protocol: PROTOCOL_VERSION, role: Role::Control, engine, software, layouts };
        let exchange = Exchange::new(timeout);
        let journal = Arc::new(Journal::default());
        let link = Link::start(socket, hello, journal.clone(), exchange.clone());
        Client { link, exchange, journal }
    }

    /// Waits until connected, at most `limit`; returns early when a person must change something first.
    pub fn wait_connected(&self, limit: Duration) -> bool {
        self.link.wait_connected(limit)
    }

    /// True while there is a connection.
    pub fn connected(&self) -> bool {
        self.link.connection().is_some()
    }

    /// How many connections there have been. Leases of an earlier one are void.
    pub fn generation(&self) -> u64 {
        self.link.generation()
    }

    /// The daemon's life; zero when not connected.
    pub fn incarnation(&self) -> u64 {
        self.link.connection().map_or(0, |connection| connection.welcome.incarnation)
    }

    /// Why there is no connection; `None` when there is one.
    pub fn last_error(&self) -> Option<String> {
        self.link.last_error()
    }

    /// Where the client connects to.
    pub fn socket(&self) -> &Path {
        self.link.socket()
    }

    /// What there is to log.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Closes the connection for good. The daemon ends all leases of this engine.
    pub fn close(&self) {
        self.link.close();
    }

    /// Where are these blocks? With `until_miss` the answer ends before the first block that is nowhere.
    pub fn lookup(&self, layout: usize, hashes: &[SequenceHash], until_miss: bool) -> Result<Vec<BlockState>, Unavailable> {
        let keys = Keys::from_hashes(hashes);
        match self.exchange.call(Request::Lookup { layout: self.exchange.handle(layout)?, keys, until_miss })? {
            // A state this connector does not know is one it cannot use.
            Answer::Plain(Reply::Found { states }) => {
                Ok(states.into_iter().map(|byte| BlockState::from_byte(byte).unwrap_or(BlockState::Miss)).collect())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Keeps these blocks in the arena, bringing them from slower tiers. `deadline_ms`: what is not there by then is missing;
    /// zero is the daemon's default.
    pub fn prepare_load(&self, layout: usize, hashes: &[SequenceHash], deadline_ms: u32) -> Result<Load, Unavailable> {
        let keys = Keys::from_hashes(hashes);
        match self.exchange.call(Request::PrepareLoad { layout: self.exchange.handle(layout)?, keys, deadline_ms })? {
            Answer::Load(load) => Ok(load),
            other => Err(unexpected(&other)),
        }
    }

    /// Borrows slots for these blocks, parents before children.
    pub fn prepare_store(&self, layout: usize, blocks: Vec<NewBlock>) -> Result<Store, Unavailable> {
        match self.exchange.call(Request::PrepareStore { layout: self.exchange.handle(layout)?, blocks })? {
            Answer::Store(store) => Ok(store),
            other => Err(unexpected(&other)),
        }
    }

    /// These blocks are in use. Waits for nothing and promises nothing.
    pub fn touch(&self, layout: usize, hashes: &[SequenceHash]) {
        if let (Some(generation), Ok(layout)) = (self.exchange.generation(), self.exchange.handle(layout)) {
            self.exchange.tell(generation, Request::Touch { layout, keys: Keys::from_hashes(hashes) });
        }
    }

    /// Keeps these blocks from being evicted from their last tier for `ttl_ms`; zero unpins. Returns how many are pinned now.
    pub fn pin(&self, layout: usize, hashes: &[SequenceHash], ttl_ms: u64) -> Result<u32, Unavailable> {
        let keys = Keys::from_hashes(hashes);
        match self.exchange.call(Request::Pin { layout: self.exchange.handle(layout)?, keys, ttl_ms })? {
            Answer::Plain(Reply::Pinned { blocks }) => Ok(blocks),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives these blocks a priority for `ttl_ms`, zero ends it: among blocks that may be evicted 0 goes first, 50 is usual, 100 goes
    /// last. Returns how many are resident and have it now.
    pub fn retain(&self, layout: usize, hashes: &[SequenceHash], priority: u8, ttl_ms: u64) -> Result<u32, Unavailable> {
        let keys = Keys::from_hashes(hashes);
        match self.exchange.call(Request::Retain { layout: self.exchange.handle(layout)?, keys, priority, ttl_ms })? {
            Answer::Plain(Reply::Pinned { blocks }) => Ok(blocks),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(answer: &Answer) -> Unavailable {
    Unavailable::Invalid(format!("an answer that does not fit the question: {answer:?}"))
}
