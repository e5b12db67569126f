//! Ends a daemon: nothing new, finish what is under way, close in order, hand the arena on.

use super::{ADDRESSES_FILE, Daemon, Shared};
use crate::driver::Turn;
use crate::session::{self, SOFTWARE};
use crate::storage::Storage;
use crate::takeover::{self, DRAIN_LIMIT};
use kvd_block::SessionId;
use kvd_ledger::{CatalogRow, Input};
use kvd_proto::PROTOCOL_VERSION;
use kvd_proto::frame;
use kvd_proto::local::{HelloAnswer, Refusal, Welcome};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tracing::{error, info, warn};

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long connections may take to end once they are told to.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// How long storage may take to finish what it was doing. A healthy device needs milliseconds.
const STORAGE_LIMIT: Duration = Duration::from_secs(5);

impl Daemon {
    /// Refuses new leases and waits for stores and transfers, five seconds at most. Returns slots that are still being filled.
    pub(super) async fn drain(&self) -> usize {
        let driver = &self.shared.driver;
        let _ = driver.inputs(vec![Input::Drain(true)]).await;
        self.shared.draining.send_replace(true);
        let until = Instant::now() + DRAIN_LIMIT;
        loop {
            let look = driver
                .ask(|view| (view.ledger.slots_being_filled().len(), view.ledger.open_transfers() + view.ledger.waiting_writes()))
                .await;
            let Ok((filling, transfers)) = look else { return 0 };
            if filling + transfers == 0 || Instant::now() >= until {
                return filling;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Answers a newer daemon: drains, and gives its socket back when everything can be handed over. Else refuses and goes on.
    pub(super) async fn prepare_hand_over(&self, mut socket: UnixStream) -> Option<UnixStream> {
        info!("a newer kvd wants to take over: draining");
        let filling = self.drain().await;
        let shared = &self.shared;
        let answer = if filling == 0 { HelloAnswer::Welcome(welcome(shared)) } else { HelloAnswer::Refusal(refusal(filling)) };
        let sent = match &answer {
            HelloAnswer::Welcome(_) => {
                session::send_with_arena(&socket, &answer, shared.arena.fd()).await.map_err(|error| error.to_string())
            }
            HelloAnswer::Refusal(refusal) => {
                let bytes = frame::encode(&answer).unwrap_or_default();
                let _ = socket.write_all(&bytes).await;
                Err(refusal.why.clone())
            }
        };
        if let Err(why) = sent {
            warn!(why, "the hand-over was given up, this kvd goes on");
            let _ = shared.driver.inputs(vec![Input::Drain(false)]).await;
            shared.draining.send_replace(false);
            return None;
        }
        Some(socket)
    }

    /// Closes everything, in the order in which nothing is lost, and hands the arena over when someone waits for it.
    pub(super) async fn close(self, heir: Option<UnixStream>) {
        let Daemon { shared, listener, service, closing, driver_thread, serving, publishing, .. } = self;
        drop(listener);
        serving.iter().for_each(|task| task.abort());
        closing.send_replace(true);
        let until = Instant::now() + CLOSE_LIMIT;
        while shared.engines.connections() > 0 && Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let rows = shared.driver.ask(|view| view.ledger.inheritance().collect::<Vec<CatalogRow>>()).await.unwrap_or_default();
        let _ = shared.driver.send(Turn::Stop).await;
        drop(service);
        // With the driver's end of the queue gone the publisher sends what is left, and its sockets close.
        if let Some(publishing) = publishing {
            let _ = tokio::time::timeout(CLOSE_LIMIT, publishing).await;
        }
        let closed = tokio::task::spawn_blocking(move || {
            let _ = driver_thread.join();
            let closed = shared.storage.clone().is_none_or(close_storage);
            remove_addresses(&shared);
            match heir {
                Some(heir) if closed => hand_over(heir, &shared, rows),
                // A transfer under way may still write into the arena.
                Some(_) => error!("the arena is not handed over: the blocks in it are lost"),
                None => {}
            }
        });
        if let Err(error) = closed.await {
            error!(%error, "closing failed");
        }
        info!("stopped");
    }
}

/// Finishes transfers and lets go of the files. False when that takes too long: a device that hangs must not keep the daemon.
fn close_storage(storage: Arc<Storage>) -> bool {
    let (done, closed) = std::sync::mpsc::channel::<()>();
    let closing = std::thread::Builder::new().name("kvd-close".into()).spawn({
        let storage = storage.clone();
        move || {
            storage.close();
            drop(done);
        }
    });
    if closing.is_err() {
        storage.close();
        return true;
    }
    let in_time = !matches!(closed.recv_timeout(STORAGE_LIMIT), Err(std::sync::mpsc::RecvTimeoutError::Timeout));
    if !in_time {
        error!(detail = storage.detail, "storage does not answer: what is on its way is given up");
    }
    in_time
}

/// Removes what this daemon wrote, and nothing that another wrote in its place.
fn remove_addresses(shared: &Shared) {
    let Some(dir) = &shared.settings.nvme.path else { return };
    if crate::client::read_addresses(dir).is_some_and(|found| found.pid == shared.addresses.pid) {
        let _ = std::fs::remove_file(dir.join(ADDRESSES_FILE));
    }
}

fn welcome(shared: &Shared) -> Welcome {
    Welcome {
        software: SOFTWARE.into(),
        incarnation: shared.incarnation,
        session: SessionId(0),
        layouts: Vec::new(),
        arena_bytes: shared.arena.bytes(),
    }
}

fn refusal(filling: usize) -> Refusal {
    let why = format!(
        "engines are still storing into {filling} slots after {} s: try again, or stop the engine that hangs (`kvctl sessions`)",
        DRAIN_LIMIT.as_secs()
    );
    Refusal { why, protocol: PROTOCOL_VERSION }
}

fn hand_over(heir: UnixStream, shared: &Arc<Shared>, rows: Vec<CatalogRow>) {
    let blocks = rows.len();
    let extent_bytes = shared.settings.arena.extent_bytes.map_or(0, |size| size.0);
    let sent = heir
        .into_std()
        .and_then(|stream| stream.set_nonblocking(false).map(|()| stream))
        .and_then(|stream| stream.set_write_timeout(Some(Duration::from_secs(10))).map(|()| stream))
        .map_err(frame::FrameError::from)
        .and_then(|stream| takeover::hand_over(&stream, extent_bytes, &shared.layouts, rows));
    match sent {
        Ok(()) => info!(blocks, "handed over"),
        Err(error) => error!(%error, "the hand-over broke off: the arena's blocks are lost, those on storage are not"),
    }
}
