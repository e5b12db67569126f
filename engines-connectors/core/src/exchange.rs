//! Requests and replies over the connection that there is right now.
//!
//! Every call ends within its timeout: answered, or [`Unavailable`]. When the connection is lost, all waiting calls end at
//! once. A lease that arrives for a call that gave up is given back on the spot, because a reply *is* the lease: dropping
//! it ends it.
//!
//! After a timeout the daemon is taken for stalled: calls fail at once until it says something again, and one
//! call a second still tries. An engine must not lose 200 ms in every step to a daemon that is stopped in a debugger.

use crate::connection::Connection;
use crate::lease::{Grants, Load, Store};
use crate::link::Listener;
use kvd_block::{LayoutHandle, LeaseId, RequestId};
use kvd_proto::frame;
use kvd_proto::local::{Reply, Request, ToDaemon, ToEngine};
use std::collections::HashMap;
use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Why a call has no answer. The engine goes on as if nothing were cached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// There is no daemon.
    #[error("not connected to kvd")]
    NotConnected,
    /// The daemon did not answer in time.
    #[error("kvd did not answer within {0:?}")]
    TimedOut(Duration),
    /// The daemon has too much to do.
    #[error("kvd is busy: {0}")]
    Busy(String),
    /// The daemon finds the request senseless: a bug in the connector, or a layout it was never told.
    #[error("kvd refused the request: {0}")]
    Invalid(String),
}

/// What a waiting call receives.
#[derive(Debug)]
pub(crate) enum Answer {
    Plain(Reply),
    Load(Load),
    Store(Store),
}

#[derive(Debug)]
struct Wire {
    connection: Arc<Connection>,
    generation: u64,
}

/// The state of one control connection, across reconnects.
#[derive(Debug)]
pub(crate) struct Exchange {
    timeout: Duration,
    next_id: AtomicU64,
    wire: Mutex<Option<Wire>>,
    waiting: Mutex<HashMap<RequestId, SyncSender<Answer>>>,
    staging: Mutex<HashMap<LeaseId, Arc<Grants>>>,
    stalled: Mutex<Option<Instant>>,
    myself: Weak<Exchange>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while held")
}

impl Exchange {
    pub fn new(timeout: Duration) -> Arc<Exchange> {
        Arc::new_cyclic(|myself| Exchange {
            timeout,
            next_id: AtomicU64::new(1),
            wire: Mutex::default(),
            waiting: Mutex::default(),
            staging: Mutex::default(),
            stalled: Mutex::default(),
            myself: myself.clone(),
        })
    }

    /// The daemon's handle for the layout that was number `index` in the hello.
    pub fn handle(&self, index: usize) -> Result<LayoutHandle, Unavailable> {
        let wire = lock(&self.wire);
        let wire = wire.as_ref().ok_or(Unavailable::NotConnected)?;
        let unknown = || Unavailable::Invalid(format!("layout number {index} was not announced"));
        wire.connection.welcome.layouts.get(index).copied().ok_or_else(unknown)
    }

    /// Asks and waits for the answer.
    pub fn call(&self, body: Request) -> Result<Answer, Unavailable> {
        self.check_stalled()?;
        let id = self.new_id();
        let (sender, receiver) = sync_channel(1);
        lock(&self.waiting).insert(id, sender);
        if !self.write(None, &ToDaemon { id, body }) {
            lock(&self.waiting).remove(&id);
            return Err(Unavailable::NotConnected);
        }
        match self.receive(id, &receiver)? {
            Answer::Plain(Reply::Busy { what }) => Err(Unavailable::Busy(what)),
            Answer::Plain(Reply::Invalid { why }) => Err(Unavailable::Invalid(why)),
            answer => Ok(answer),
        }
    }

    /// Says something that needs no answer, if the connection is still the one of `generation`. Never waits for the daemon.
    pub fn tell(&self, generation: u64, body: Request) {
        self.write(Some(generation), &ToDaemon { id: self.new_id(), body });
    }

    /// The generation to give to [`Exchange::tell`].
    pub fn generation(&self) -> Option<u64> {
        lock(&self.wire).as_ref().map(|wire| wire.generation)
    }

    /// No notice for `lease` is expected any more.
    pub fn forget(&self, lease: LeaseId) {
        lock(&self.staging).remove(&lease);
    }

    fn new_id(&self) -> RequestId {
        RequestId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    fn receive(&self, id: RequestId, receiver: &Receiver<Answer>) -> Result<Answer, Unavailable> {
        match receiver.recv_timeout(self.timeout) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Disconnected) => Err(Unavailable::NotConnected),
            Err(RecvTimeoutError::Timeout) => {
                lock(&self.waiting).remove(&id);
                *lock(&self.stalled) = Some(Instant::now());
                Err(Unavailable::TimedOut(self.timeout))
            }
        }
    }

    fn check_stalled(&self) -> Result<(), Unavailable> {
        let mut stalled = lock(&self.stalled);
        match *stalled {
            Some(since) if since.elapsed() < PROBE_EVERY => Err(Unavailable::TimedOut(self.timeout)),
            Some(_) => {
                *stalled = Some(Instant::now());
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Writes one frame; false when it did not go out whole. The write timeout of the socket bounds the wait.
    fn write(&self, generation: Option<u64>, message: &ToDaemon) -> bool {
        let Ok(bytes) = frame::encode(message) else { return false };
        let wire = lock(&self.wire);
        let Some(wire) = wire.as_ref().filter(|wire| generation.is_none_or(|wanted| wanted == wire.generation)) else {
            return false;
        };
        let written = (&wire.connection.stream).write_all(&bytes).is_ok();
        if !written {
            // Half a frame may be out, so nothing after it could be understood.
            let _ = wire.connection.stream.shutdown(Shutdown::Both);
        }
        written
    }

    fn answer(self: &Arc<Self>, reply: Reply) -> Answer {
        let (generation, incarnation) =
            lock(&self.wire).as_ref().map_or((0, 0), |wire| (wire.generation, wire.connection.welcome.incarnation));
        match reply {
            Reply::LoadLease { lease, grants } => {
                let load = Load::new(self.clone(), lease, generation, incarnation, grants);
                if !load.settled() {
                    lock(&self.staging).insert(lease, load.shared());
                }
                Answer::Load(load)
            }
            Reply::StoreLease { lease, grants } => Answer::Store(Store::new(self.clone(), lease, generation, incarnation, grants)),
            reply => Answer::Plain(reply),
        }
    }

    fn staged(&self, lease: LeaseId, ready: &[(u32, kvd_block::SlotIndex)], missing: &[u32]) {
        let mut staging = lock(&self.staging);
        if staging.get(&lease).is_some_and(|grants| grants.settle(ready, missing)) {
            staging.remove(&lease);
        }
    }
}

impl Listener for Exchange {
    fn connected(&self, connection: &Arc<Connection>, generation: u64) {
        let _ = connection.stream.set_write_timeout(Some(self.timeout));
        *lock(&self.wire) = Some(Wire { connection: connection.clone(), generation });
        *lock(&self.stalled) = None;
    }

    fn message(&self, message: ToEngine) {
        let Some(this) = self.myself.upgrade() else { return };
        *lock(&self.stalled) = None;
        if let Reply::Staged { lease, ready, missing } = &message.body {
            return self.staged(*lease, ready, missing);
        }
        let waiting = lock(&self.waiting).remove(&message.id);
        // With nobody waiting the answer is dropped here, and with it the lease in it.
        let answer = this.answer(message.body);
        if let Some(sender) = waiting {
            let _ = sender.try_send(answer);
        }
    }

    fn lost(&self) {
        *lock(&self.wire) = None;
        lock(&self.waiting).clear();
        lock(&self.staging).drain().for_each(|(_, grants)| grants.void());
        *lock(&self.stalled) = None;
    }
}
