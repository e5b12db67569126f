//! Keeps one connection to the daemon, for as long as the engine lives.
//!
//! One thread per link dials, reads until the connection is lost, and dials again after 50 ms to 2 s (5 s when a
//! person must change something first). It says once that kvd is lost or cannot be reached and why, and once that it
//! is back, however long it takes. Nobody ever waits for this thread, except [`Link::wait_connected`], with a limit.

use crate::connection::{self, ConnectError, Connection};
use crate::journal::{Journal, Level};
use kvd_proto::frame::{self, FrameError};
use kvd_proto::local::{Hello, ToEngine};
use std::io::{BufReader, ErrorKind};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const LASTING_PAUSE: Duration = Duration::from_secs(5);
/// A connection that lived this long was a good one: the next pause is short again.
const GOOD_LIFE: Duration = Duration::from_secs(1);

/// Who is told about the connection. All calls come from the link's thread, in order.
pub(crate) trait Listener: Send + Sync + 'static {
    /// A connection is there; `generation` counts them from 1.
    fn connected(&self, connection: &Arc<Connection>, generation: u64);
    /// The daemon said something.
    fn message(&self, message: ToEngine);
    /// The connection is gone.
    fn lost(&self);
}

/// A link. Dropping it closes the connection, once nobody uses it any more.
#[derive(Debug)]
pub(crate) struct Link(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    journal: Arc<Journal>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    connection: Option<Arc<Connection>>,
    generation: u64,
    last_error: Option<String>,
    lasting: bool,
}

impl Link {
    /// Starts the link's thread and returns at once.
    pub fn start(socket: PathBuf, hello: Hello, journal: Arc<Journal>, listener: Arc<dyn Listener>) -> Link {
        let shared = Arc::new(Shared { socket, journal, state: Mutex::default(), changed: Condvar::new() });
        let theirs = shared.clone();
        let started = thread::Builder::new().name("kvd-link".into()).spawn(move || theirs.run(&hello, &*listener));
        if let Err(error) = started {
            let mut state = shared.lock();
            state.complain(&shared.journal, format!("no thread for the link to kvd ({error}): raise the process's limit on threads"));
            state.lasting = true;
        }
        Link(shared)
    }

    /// Waits until there is a connection, or none can be had soon, at most `limit`. True when there is one.
    pub fn wait_connected(&self, limit: Duration) -> bool {
        let waiting = |state: &mut State| state.connection.is_none() && !state.closed && !state.lasting;
        let (state, _) = self.0.changed.wait_timeout_while(self.0.lock(), limit, waiting).expect("no panic while held");
        state.connection.is_some()
    }

    pub fn connection(&self) -> Option<Arc<Connection>> {
        self.0.lock().connection.clone()
    }

    pub fn generation(&self) -> u64 {
        self.0.lock().generation
    }

    pub fn last_error(&self) -> Option<String> {
        self.0.lock().last_error.clone()
    }

    pub fn socket(&self) -> &Path {
        &self.0.socket
    }

    pub fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        if let Some(connection) = state.connection.take() {
            // Only the reading half: it wakes the link's thread. The daemon sees the end when the last user of the
            // connection lets go, so that no slot is reused under a copy that is still running.
            let _ = connection.stream.shutdown(Shutdown::Read);
        }
        self.0.changed.notify_all();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    fn complain(&mut self, journal: &Journal, text: String) {
        self.last_error = Some(text.clone());
        journal.say(Level::Warning, text);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn run(&self, hello: &Hello, listener: &dyn Listener) {
        let mut pause = FIRST_PAUSE;
        while !self.lock().closed {
            match connection::dial(&self.socket, hello) {
                Ok(connection) => {
                    let since = Instant::now();
                    self.live(Arc::new(connection), listener);
                    pause = if since.elapsed() >= GOOD_LIFE { FIRST_PAUSE } else { pause };
                }
                Err(error) => self.failed(&error),
            }
            let lasting = self.lock().lasting;
            self.rest(if lasting { LASTING_PAUSE } else { pause });
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One connection, from its first message to its end.
    fn live(&self, connection: Arc<Connection>, listener: &dyn Listener) {
        let Some(generation) = self.next_generation() else { return };
        listener.connected(&connection, generation);
        self.publish(&connection);
        let mut source = BufReader::new(&connection.stream);
        let end = loop {
            match frame::read::<ToEngine>(&mut source) {
                Ok(message) => listener.message(message),
                Err(error) => break error,
            }
        };
        listener.lost();
        self.ended(&end);
    }

    fn next_generation(&self) -> Option<u64> {
        let mut state = self.lock();
        state.generation += 1;
        (!state.closed).then_some(state.generation)
    }

    fn publish(&self, connection: &Arc<Connection>) {
        let mut state = self.lock();
        if state.closed {
            let _ = connection.stream.shutdown(Shutdown::Read);
            return;
        }
        let welcome = &connection.welcome;
        let (socket, software) = (self.socket.display(), &welcome.software);
        self.journal.say(Level::Info, format!("connected to kvd at {socket} ({software}, incarnation {:016x})", welcome.incarnation));
        *state = State { connection: Some(connection.clone()), generation: state.generation, ..State::default() };
        self.changed.notify_all();
    }

    /// Says why there is no connection: a daemon that is merely away only once, until it was there.
    fn failed(&self, error: &ConnectError) {
        let text = error.to_string();
        let mut state = self.lock();
        let said = if error.is_lasting() { state.last_error.as_ref() == Some(&text) } else { state.last_error.is_some() };
        match said {
            true => state.last_error = Some(text),
            false => state.complain(&self.journal, text),
        }
        state.lasting = error.is_lasting();
        self.changed.notify_all();
    }

    fn ended(&self, why: &FrameError) {
        let mut state = self.lock();
        state.connection = None;
        if !state.closed {
            let why = match why {
                FrameError::Io(error) if error.kind() == ErrorKind::UnexpectedEof => "it closed the connection".into(),
                why => why.to_string(),
            };
            state.complain(
                &self.journal,
                format!("lost kvd at {} ({why}): going on without its cache, connecting again", self.socket.display()),
            );
        }
    }

    fn rest(&self, pause: Duration) {
        let open = |state: &mut State| !state.closed;
        drop(self.changed.wait_timeout_while(self.lock(), pause, open).expect("no panic while held"));
    }
}
