//! One connection from hello to end.

use super::access::Access;
use super::engines::{Engines, InstanceName};
use super::greeting::{Greeting, read_hello};
use super::outbox::{Answers, Outbox, WeakOutbox};
use super::requests;
use crate::driver::{Driver, Turn};
use crate::layouts::Layouts;
use crate::measure::Measures;
use crate::storage::Storage;
use kvd_block::{LayoutHandle, LayoutSpec, SessionId};
use kvd_ledger::Input;
use kvd_proto::PROTOCOL_VERSION;
use kvd_proto::frame::{self, FrameError, PREFIX_BYTES};
use kvd_proto::local::{Hello, HelloAnswer, Refusal, Role, ToDaemon, ToEngine, Welcome};
use kvd_shm::Arena;
use kvd_shm::fds::{self, Peer};
use rustix::fd::BorrowedFd;
use std::io;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc, watch};
use tracing::{Instrument, info, info_span, warn};

/// Version of the daemon, for people.
pub const SOFTWARE: &str = concat!("kvd ", env!("CARGO_PKG_VERSION"));
/// Answers encoded into one write.
const WRITE_MESSAGES: usize = 64;

/// What every connection needs.
#[derive(Debug)]
pub struct Service {
    /// The arena to hand out.
    pub arena: Arc<Arena>,
    /// Handles of layouts.
    pub layouts: Arc<Layouts>,
    /// Where handles are kept.
    pub storage: Option<Arc<Storage>>,
    /// Where requests go.
    pub driver: Driver,
    /// Who is connected.
    pub engines: Arc<Engines>,
    /// What is counted.
    pub measures: Arc<Measures>,
    /// Number of this life.
    pub incarnation: u64,
    /// Who may connect.
    pub access: Access,
    /// Turns true when connections must end.
    pub closing: watch::Receiver<bool>,
    /// Where a newer daemon's connection goes.
    pub takeovers: mpsc::Sender<UnixStream>,
    /// Held while a layout gets its handle, so that two engines cannot get two.
    pub defining: Mutex<()>,
}

impl Service {
    /// Serves one connection until it ends.
    pub async fn serve(self: Arc<Self>, mut socket: UnixStream) {
        self.measures.connections.add(1);
        let Ok(peer) = fds::peer(&socket) else { return };
        let hello = match read_hello(&mut socket).await {
            Greeting::Hello(hello) => hello,
            Greeting::Refused(refusal) => return self.refuse(socket, peer, refusal.why).await,
            Greeting::Stranger(why) => {
                self.measures.refusals.add(1);
                info!(pid = peer.pid, why, "a client that is not an engine was disconnected");
                return;
            }
        };
        let span = info_span!("engine", engine = hello.engine, pid = peer.pid, role = ?hello.role);
        match hello.role {
            Role::Takeover => self.hand_to_takeover(socket, peer).instrument(span).await,
            Role::Control | Role::Worker => self.serve_engine(socket, peer, hello).instrument(span).await,
        }
    }

    async fn refuse(&self, mut socket: UnixStream, peer: Peer, why: String) {
        self.measures.refusals.add(1);
        warn!(pid = peer.pid, why, "refused");
        let answer = HelloAnswer::Refusal(Refusal { why, protocol: PROTOCOL_VERSION });
        if let Ok(bytes) = frame::encode(&answer) {
            let _ = socket.write_all(&bytes).await;
        }
    }

    async fn hand_to_takeover(&self, socket: UnixStream, peer: Peer) {
        if let Err(why) = self.access.check_takeover(peer) {
            return self.refuse(socket, peer, why).await;
        }
        if let Err(error) = self.takeovers.try_send(socket) {
            let socket = match error {
                mpsc::error::TrySendError::Full(socket) | mpsc::error::TrySendError::Closed(socket) => socket,
            };
            self.refuse(socket, peer, "this kvd is stopping, or being taken over already".into()).await;
        }
    }

    async fn serve_engine(&self, socket: UnixStream, peer: Peer, hello: Hello) {
        if let Err(why) = self.access.check(peer) {
            return self.refuse(socket, peer, why).await;
        }
        let layouts = match self.define_all(&hello.layouts).await {
            Ok(layouts) => layouts,
            Err(why) => return self.refuse(socket, peer, why).await,
        };
        let name = InstanceName { uid: peer.uid, engine: hello.engine.clone() };
        let session = match self.engines.join(&name, hello.role, peer, &hello.software, &layouts) {
            Ok(session) => session,
            Err(why) => return self.refuse(socket, peer, why).await,
        };
        info!(%session, software = hello.software, layouts = layouts.len(), "connected");
        let ended = self.converse(socket, session, hello.role, layouts).await;
        info!(%session, why = %ended, "disconnected");
        if self.engines.leave(&name, hello.role, peer) {
            let _ = self.driver.inputs(vec![Input::CloseSession { session }]).await;
        }
    }

    /// Gives each layout its handle, and tells the ledger before the engine can use it.
    async fn define_all(&self, specs: &[LayoutSpec]) -> Result<Vec<LayoutHandle>, String> {
        let mut handles = Vec::with_capacity(specs.len());
        for spec in specs {
            handles.push(self.define(spec).await?);
        }
        Ok(handles)
    }

    async fn define(&self, spec: &LayoutSpec) -> Result<LayoutHandle, String> {
        let id = spec.id();
        if let Some(layout) = self.layouts.find(id) {
            return Ok(layout.handle);
        }
        let _alone = self.defining.lock().await;
        if let Some(layout) = self.layouts.find(id) {
            return Ok(layout.handle);
        }
        let free = self.layouts.free_handle().ok_or("this kvd knows too many layouts: purge its data directory")?;
        let generation = self.storage.as_ref().map_or(0, |storage| storage.generation(id));
        let handle = match self.storage.clone() {
            None => free,
            Some(storage) => {
                let spec = spec.clone();
                let kept = tokio::task::spawn_blocking(move || storage.layout_handle(&spec)).await;
                kept.map_err(|error| error.to_string())??
            }
        };
        let differs = self.layouts.difference(spec);
        let (slot_pages, ranks) = (spec.slot_pages(), spec.ranks);
        info!(%handle, %id, model = spec.model, group = spec.group, slot_pages, differs, "new layout");
        let input = Input::DefineLayout { layout: handle, slot_pages, ranks, generation };
        self.driver.inputs(vec![input]).await.map_err(|error| error.to_string())?;
        self.layouts.insert(handle, spec.clone());
        Ok(handle)
    }

    /// Welcomes the engine and serves it. Returns why it ended.
    async fn converse(&self, socket: UnixStream, session: SessionId, role: Role, layouts: Vec<LayoutHandle>) -> String {
        let (outbox, Answers { messages, mut held }) = Outbox::new();
        let own = (role == Role::Control).then(|| outbox.downgrade());
        if self.open(session, role, outbox).await.is_err() {
            return "the daemon is stopping".into();
        }
        let welcome = Welcome {
            software: SOFTWARE.into(),
            incarnation: self.incarnation,
            session,
            layouts: layouts.clone(),
            arena_bytes: self.arena.bytes(),
        };
        if let Err(error) = send_with_arena(&socket, &HelloAnswer::Welcome(welcome), self.arena.fd()).await {
            return error.to_string();
        }
        let mut closing = self.closing.clone();
        let (reader, writer) = socket.into_split();
        tokio::select! {
            ended = self.read_all(reader, session, own, &layouts) => ended,
            ended = write_all(writer, messages), if role == Role::Control => ended,
            _ = held.recv(), if role == Role::Control => "the engine does not read its answers".into(),
            _ = closing.wait_for(|closing| *closing) => "the daemon is stopping".into(),
        }
    }

    async fn open(&self, session: SessionId, role: Role, outbox: Outbox) -> Result<(), crate::driver::Stopped> {
        self.driver.inputs(vec![Input::OpenSession { session }]).await?;
        if role == Role::Control {
            self.driver.send(Turn::Attach(session, outbox)).await?;
        }
        Ok(())
    }

    /// Reads requests until the connection ends. A worker has none.
    async fn read_all(&self, reader: OwnedReadHalf, session: SessionId, outbox: Option<WeakOutbox>, layouts: &[LayoutHandle]) -> String {
        let mut reader = BufReader::with_capacity(64 << 10, reader);
        loop {
            let message = match read_message(&mut reader).await {
                Ok(message) => message,
                Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return "closed by the engine".into(),
                Err(error) => return error.to_string(),
            };
            let received = Instant::now();
            let Some(outbox) = &outbox else { return "a worker connection carries no requests".into() };
            if message.id.0 == 0 {
                return "request id 0 is for notices".into();
            }
            let handed = match requests::input(session, layouts, message) {
                Ok(input) => self.driver.send(Turn::Request { input, received }).await.map_err(|error| error.to_string()),
                Err(answer) => outbox.push(answer).map_err(|_| "the engine does not read its answers".to_owned()),
            };
            if let Err(why) = handed {
                return why;
            }
        }
    }
}

async fn read_message(reader: &mut BufReader<OwnedReadHalf>) -> Result<ToDaemon, FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    reader.read_exact(&mut prefix).await?;
    let mut body = vec![0; frame::body_bytes(&prefix)?];
    reader.read_exact(&mut body).await?;
    frame::decode(&body)
}

/// Writes answers as they come, several in one call. Ends when the driver lets go of the outbox.
async fn write_all(mut writer: OwnedWriteHalf, mut answers: mpsc::Receiver<ToEngine>) -> String {
    let mut batch = Vec::with_capacity(WRITE_MESSAGES);
    let mut bytes = Vec::new();
    loop {
        if answers.recv_many(&mut batch, WRITE_MESSAGES).await == 0 {
            return "the daemon let go of the session".into();
        }
        for answer in batch.drain(..) {
            match frame::encode(&answer) {
                Ok(frame) => bytes.extend(frame),
                Err(error) => return error.to_string(),
            }
        }
        if let Err(error) = writer.write_all(&bytes).await {
            return error.to_string();
        }
        bytes.clear();
    }
}

/// Sends `message` with the arena's descriptor. A fresh socket takes a message of this size whole, so it is written in one go.
pub async fn send_with_arena(socket: &UnixStream, message: &HelloAnswer, arena: BorrowedFd<'_>) -> Result<(), FrameError> {
    let bytes = frame::encode(message)?;
    socket.async_io(Interest::WRITABLE, || fds::send_with_fds(socket, &bytes, &[arena])).await?;
    Ok(())
}
