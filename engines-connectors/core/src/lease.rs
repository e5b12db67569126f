//! What the daemon granted: the right to copy out of slots ([`Load`]) or into them ([`Store`]) until it is given back.
//!
//! A lease is given back exactly once: when completed, or when dropped. It belongs to one connection; once that is lost
//! the lease is void, and giving it back says nothing to anybody.

use crate::exchange::Exchange;
use kvd_block::{LeaseId, SlotIndex};
use kvd_proto::local::{FilledBlock, LoadGrant, Request, StoreGrant};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// The state of a load's blocks, shared with the thread that hears of changes.
#[derive(Debug)]
pub(crate) struct Grants {
    blocks: Mutex<Blocks>,
    changed: Condvar,
}

#[derive(Debug)]
struct Blocks {
    grants: Vec<LoadGrant>,
    staging: usize,
}

impl Grants {
    fn new(grants: Vec<LoadGrant>) -> Grants {
        let staging = grants.iter().filter(|grant| **grant == LoadGrant::Staging).count();
        Grants { blocks: Mutex::new(Blocks { grants, staging }), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().expect("no panic while held")
    }

    /// Applies a notice; true when every block is settled now. Blocks that are not staging are left alone.
    pub fn settle(&self, ready: &[(u32, SlotIndex)], missing: &[u32]) -> bool {
        let mut blocks = self.lock();
        ready.iter().for_each(|(index, slot)| blocks.settle(*index, LoadGrant::Ready(*slot)));
        missing.iter().for_each(|index| blocks.settle(*index, LoadGrant::Miss));
        self.changed.notify_all();
        blocks.staging == 0
    }

    /// The connection is lost: nothing is granted any more.
    pub fn void(&self) {
        let mut blocks = self.lock();
        blocks.grants.fill(LoadGrant::Miss);
        blocks.staging = 0;
        self.changed.notify_all();
    }
}

impl Blocks {
    fn settle(&mut self, index: u32, grant: LoadGrant) {
        if let Some(block) = self.grants.get_mut(index as usize).filter(|block| **block == LoadGrant::Staging) {
            *block = grant;
            self.staging -= 1;
        }
    }
}

/// The part that every lease has.
#[derive(Debug)]
struct Lease {
    exchange: Arc<Exchange>,
    id: LeaseId,
    generation: u64,
    incarnation: u64,
    open: AtomicBool,
}

impl Lease {
    /// Ends the lease with `request`, the first time only.
    fn end(&self, request: impl FnOnce(LeaseId) -> Request) {
        if self.open.swap(false, Ordering::AcqRel) {
            self.exchange.tell(self.generation, request(self.id));
        }
    }
}

/// Blocks that the daemon keeps in the arena, or is bringing there, until this is completed or dropped.
#[derive(Debug)]
pub struct Load {
    lease: Lease,
    grants: Arc<Grants>,
}

impl Load {
    pub(crate) fn new(exchange: Arc<Exchange>, id: LeaseId, generation: u64, incarnation: u64, grants: Vec<LoadGrant>) -> Load {
        let open = AtomicBool::new(grants.iter().any(|grant| *grant != LoadGrant::Miss));
        Load { lease: Lease { exchange, id, generation, incarnation, open }, grants: Arc::new(Grants::new(grants)) }
    }

    pub(crate) fn shared(&self) -> Arc<Grants> {
        self.grants.clone()
    }

    /// Name of the lease.
    pub fn id(&self) -> LeaseId {
        self.lease.id
    }

    /// The daemon's life in which the slots mean something.
    pub fn incarnation(&self) -> u64 {
        self.lease.incarnation
    }

    /// True when no block is staging any more.
    pub fn settled(&self) -> bool {
        self.grants.lock().staging == 0
    }

    /// Waits until no block is staging any more, at most `limit`. True when that is so.
    pub fn wait(&self, limit: Duration) -> bool {
        let staging = |blocks: &mut Blocks| blocks.staging > 0;
        let (blocks, _) = self.grants.changed.wait_timeout_while(self.grants.lock(), limit, staging).expect("no panic while held");
        blocks.staging == 0
    }

    /// Waits until block `index` is settled, at most `limit`. Returns what is granted for it then.
    ///
    /// # Panics
    /// When no such block was asked for.
    pub fn wait_block(&self, index: usize, limit: Duration) -> LoadGrant {
        let staging = |blocks: &mut Blocks| blocks.grants[index] == LoadGrant::Staging;
        let (blocks, _) = self.grants.changed.wait_timeout_while(self.grants.lock(), limit, staging).expect("no panic while held");
        blocks.grants[index]
    }

    /// What is granted right now, per block, in request order.
    pub fn grants(&self) -> Vec<LoadGrant> {
        self.grants.lock().grants.clone()
    }

    /// Gives the lease back. `corrupt`: indices of blocks whose bytes did not match their header. Only the first call counts.
    pub fn complete(&self, corrupt: Vec<u32>) {
        self.lease.exchange.forget(self.lease.id);
        self.lease.end(|lease| Request::CompleteLoad { lease, corrupt });
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.complete(Vec::new());
    }
}

/// Slots that the daemon lends for new blocks until this is completed or dropped.
#[derive(Debug)]
pub struct Store {
    lease: Lease,
    grants: Vec<StoreGrant>,
}

impl Store {
    pub(crate) fn new(exchange: Arc<Exchange>, id: LeaseId, generation: u64, incarnation: u64, grants: Vec<StoreGrant>) -> Store {
        let open = AtomicBool::new(grants.iter().any(|grant| matches!(grant, StoreGrant::Write(_))));
        Store { lease: Lease { exchange, id, generation, incarnation, open }, grants }
    }

    /// Name of the lease.
    pub fn id(&self) -> LeaseId {
        self.lease.id
    }

    /// The daemon's life in which the slots mean something.
    pub fn incarnation(&self) -> u64 {
        self.lease.incarnation
    }

    /// What is granted, per block, in request order.
    pub fn grants(&self) -> &[StoreGrant] {
        &self.grants
    }

    /// Gives the lease back: `filled` blocks are whole, all others are given up. Only the first call counts.
    pub fn complete(&self, filled: Vec<FilledBlock>) {
        self.lease.end(|lease| Request::CompleteStore { lease, filled });
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.complete(Vec::new());
    }
}
