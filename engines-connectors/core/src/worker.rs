//! The side that copies: one connection per process, which only maps the arena.
//!
//! Slots mean something only in the life of the daemon that granted them, so every copy names that incarnation and is
//! refused when the arena at hand is another's. The connection stays open while a copy runs, even when the link is
//! closed meanwhile: its end is what tells the daemon that the slots can be reused.

use crate::connection::Connection;
use crate::journal::Journal;
use crate::layerwise::LoadJob;
use crate::link::{Link, Listener};
use crate::pages::PagedKv;
use crate::pool::CopyPool;
use crate::transfer::{self, TransferError};
use kvd_block::{Checksum, SequenceHash, SlotIndex};
use kvd_proto::PROTOCOL_VERSION;
use kvd_proto::local::{Hello, Role, ToEngine};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Why nothing was copied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The slots belong to another life of the daemon, or there is none.
    #[error("not connected to the kvd that granted these slots")]
    OtherIncarnation,
    /// The request is wrong.
    #[error(transparent)]
    Wrong(#[from] TransferError),
}

/// One worker connection, kept alive.
#[derive(Debug)]
pub struct WorkerLink {
    link: Link,
    pool: CopyPool,
    journal: Arc<Journal>,
}

/// A layer-wise load, with the connection that its slots need.
#[derive(Debug)]
pub struct ConnectedLoadJob {
    job: LoadJob,
    // After the job: dropping the job waits for the copy, and only then may the connection end.
    _connection: Arc<Connection>,
}

impl std::ops::Deref for ConnectedLoadJob {
    type Target = LoadJob;
    fn deref(&self) -> &LoadJob {
        &self.job
    }
}

struct Deaf;

impl Listener for Deaf {
    fn connected(&self, _: &Arc<Connection>, _: u64) {}
    fn message(&self, _: ToEngine) {}
    fn lost(&self) {}
}

impl WorkerLink {
    /// Starts connecting in the background and returns at once. `engine` must equal the client's; `threads`: see [`CopyPool::new`].
    pub fn connect(socket: PathBuf, engine: String, software: String, threads: usize) -> WorkerLink {
        let hello = Hello { protocol: PROTOCOL_VERSION, role: Role::Worker, engine, software, layouts: Vec::new() };
        let journal = Arc::new(Journal::default());
        let link = Link::start(socket, hello, journal.clone(), Arc::new(Deaf));
        WorkerLink { link, pool: CopyPool::new(threads), journal }
    }

    /// Waits until connected, at most `limit`; returns early when a person must change something first.
    pub fn wait_connected(&self, limit: Duration) -> bool {
        self.link.wait_connected(limit)
    }

    /// True while there is a connection.
    pub fn connected(&self) -> bool {
        self.link.connection().is_some()
    }

    /// The daemon's life; zero when not connected.
    pub fn incarnation(&self) -> u64 {
        self.link.connection().map_or(0, |connection| connection.welcome.incarnation)
    }

    /// Why there is no connection; `None` when there is one.
    pub fn last_error(&self) -> Option<String> {
        self.link.last_error()
    }

    /// Where the link connects to.
    pub fn socket(&self) -> &Path {
        self.link.socket()
    }

    /// What there is to log.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Closes the connection, once running copies are done.
    pub fn close(&self) {
        self.link.close();
    }

    /// Copies the pages of `blocks` into `slots`. Returns the checksum of each block's stripe.
    pub fn store(&self, pages: &Arc<PagedKv>, incarnation: u64, blocks: &[usize], slots: &[SlotIndex]) -> Result<Vec<Checksum>, CopyError> {
        let connection = self.connection(incarnation)?;
        Ok(transfer::store(&self.pool, pages, &connection.arena, blocks, slots)?)
    }

    /// Copies `slots` into the pages of `blocks`. True for each block that arrived whole and is the one in `hashes`.
    pub fn load(
        &self,
        pages: &Arc<PagedKv>,
        incarnation: u64,
        blocks: &[usize],
        slots: &[SlotIndex],
        hashes: &[SequenceHash],
    ) -> Result<Vec<bool>, CopyError> {
        let connection = self.connection(incarnation)?;
        Ok(transfer::load(&self.pool, pages, &connection.arena, blocks, slots, hashes)?)
    }

    /// As [`WorkerLink::load`], in the background and layer by layer.
    pub fn start_load(
        &self,
        pages: &Arc<PagedKv>,
        incarnation: u64,
        blocks: &[usize],
        slots: &[SlotIndex],
        hashes: &[SequenceHash],
    ) -> Result<ConnectedLoadJob, CopyError> {
        let connection = self.connection(incarnation)?;
        let job = LoadJob::start(&self.pool, pages, &connection.arena, blocks, slots, hashes)?;
        Ok(ConnectedLoadJob { job, _connection: connection })
    }

    fn connection(&self, incarnation: u64) -> Result<Arc<Connection>, CopyError> {
        let connection = self.link.connection().filter(|connection| connection.welcome.incarnation == incarnation);
        connection.ok_or(CopyError::OtherIncarnation)
    }
}
