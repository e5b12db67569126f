//! A daemon of a hundred lines: a real socket, a real arena, and whatever answers the test wants.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use kvd_block::{LayoutHandle, LayoutSpec, SessionId};
use kvd_proto::local::{Hello, HelloAnswer, Reply, Request, ToDaemon, ToEngine, Welcome};
use kvd_proto::{PROTOCOL_VERSION, frame};
use kvd_shm::{Arena, HugePages, fds};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Answers to one request: replies under its own id, then notices.
pub type Answers = Box<dyn Fn(&Request) -> (Option<Reply>, Vec<Reply>) + Send + Sync>;

pub struct FakeDaemon {
    pub arena: Arc<Arena>,
    shared: Arc<Shared>,
    socket: PathBuf,
}

struct Shared {
    incarnation: u64,
    answers: Answers,
    refusal: Option<(u16, String)>,
    arena: Arc<Arena>,
    heard: Mutex<Vec<Request>>,
    hellos: Mutex<Vec<Hello>>,
    streams: Mutex<Vec<UnixStream>>,
    stopped: AtomicBool,
}

impl FakeDaemon {
    pub fn start(socket: &Path, incarnation: u64, answers: Answers) -> FakeDaemon {
        Self::start_with(socket, incarnation, answers, None)
    }

    pub fn refusing(socket: &Path, protocol: u16, why: &str) -> FakeDaemon {
        Self::start_with(socket, 1, silent(), Some((protocol, why.into())))
    }

    fn start_with(socket: &Path, incarnation: u64, answers: Answers, refusal: Option<(u16, String)>) -> FakeDaemon {
        let arena = Arc::new(Arena::create(4 << 20, HugePages::Never).unwrap());
        let shared = Arc::new(Shared {
            incarnation,
            answers,
            refusal,
            arena: arena.clone(),
            heard: Mutex::default(),
            hellos: Mutex::default(),
            streams: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let listener = UnixListener::bind(socket).unwrap();
        let theirs = shared.clone();
        thread::spawn(move || accept(&listener, &theirs));
        FakeDaemon { arena, shared, socket: socket.into() }
    }

    pub fn heard(&self) -> Vec<Request> {
        self.shared.heard.lock().unwrap().clone()
    }

    pub fn hellos(&self) -> Vec<Hello> {
        self.shared.hellos.lock().unwrap().clone()
    }

    /// Dies as a killed process does: every socket is closed.
    pub fn kill(self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.socket);
        let _ = std::fs::remove_file(&self.socket);
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let (stream, shared) = (stream.unwrap(), shared.clone());
        shared.streams.lock().unwrap().push(stream.try_clone().unwrap());
        thread::spawn(move || drop(serve(stream, &shared)));
    }
}

fn serve(mut stream: UnixStream, shared: &Shared) -> Result<(), frame::FrameError> {
    let hello: Hello = frame::read(&mut stream)?;
    let layouts = (0..hello.layouts.len() as u16).map(LayoutHandle).collect();
    shared.hellos.lock().unwrap().push(hello);
    if let Some((protocol, why)) = &shared.refusal {
        let refusal = kvd_proto::local::Refusal { why: why.clone(), protocol: *protocol };
        return frame::write(&mut stream, &HelloAnswer::Refusal(refusal));
    }
    let welcome = Welcome {
        software: "fake".into(),
        incarnation: shared.incarnation,
        session: SessionId(1),
        layouts,
        arena_bytes: shared.arena.bytes(),
    };
    let bytes = frame::encode(&HelloAnswer::Welcome(welcome))?;
    fds::send_with_fds(&stream, &bytes, &[shared.arena.fd()])?;
    loop {
        let ToDaemon { id, body } = frame::read(&mut stream)?;
        let (reply, notices) = (shared.answers)(&body);
        shared.heard.lock().unwrap().push(body);
        if let Some(body) = reply {
            frame::write(&mut stream, &ToEngine { id, body })?;
        }
        for body in notices {
            frame::write(&mut stream, &ToEngine { id: kvd_block::RequestId(0), body })?;
        }
    }
}

/// A daemon that hears everything and says nothing.
pub fn silent() -> Answers {
    Box::new(|_| (None, vec![]))
}

/// A daemon that always gives this reply.
pub fn always(reply: Reply) -> Answers {
    Box::new(move |_| (Some(reply.clone()), vec![]))
}

pub fn layout(ranks: u16, stripe_bytes: u64) -> LayoutSpec {
    LayoutSpec {
        model: "m".into(),
        weights: "w".into(),
        kv_dtype: "bfloat16".into(),
        block_tokens: 16,
        group: 0,
        attention: "full_attention".into(),
        geometry: "g".into(),
        ranks,
        stripe_bytes,
    }
}

/// Waits for something that another thread brings about, at most five seconds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(5), "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

const _: () = assert!(PROTOCOL_VERSION < 1000, "the tests use 1000 for another version");
