//! The engine instances that are connected.

use kvd_block::{LayoutHandle, SessionId};
use kvd_proto::local::Role;
use kvd_shm::fds::Peer;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

/// Longest name of an engine instance or its software.
pub const MAX_NAME_BYTES: usize = 256;

/// Names an instance: two users cannot meet in one session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstanceName {
    /// The user of its processes.
    pub uid: u32,
    /// The name it gave itself.
    pub engine: String,
}

#[derive(Debug)]
struct Instance {
    session: SessionId,
    software: String,
    control: Option<i32>,
    workers: Vec<i32>,
    layouts: Vec<LayoutHandle>,
    since: Instant,
}

/// One instance as an operator sees it.
#[derive(Debug, Clone)]
pub struct EngineView {
    /// Its session.
    pub session: SessionId,
    /// The name it gave itself.
    pub engine: String,
    /// Engine and version.
    pub software: String,
    /// Its user.
    pub uid: u32,
    /// Process of the control connection.
    pub control: Option<i32>,
    /// Processes of the worker connections.
    pub workers: Vec<i32>,
    /// Layouts it uses.
    pub layouts: Vec<LayoutHandle>,
    /// Milliseconds since it connected.
    pub connected_ms: u64,
}

/// Every instance that has a connection.
#[derive(Debug)]
pub struct Engines {
    state: Mutex<State>,
    most_connections: usize,
}

#[derive(Debug, Default)]
struct State {
    instances: HashMap<InstanceName, Instance>,
    last_session: u64,
    connections: usize,
}

/// The daemon's own session, for what operators ask.
pub const OPERATOR: SessionId = SessionId(0);

impl Engines {
    /// No engine; at most `most_connections` connections.
    pub fn new(most_connections: usize) -> Engines {
        Engines { state: Mutex::default(), most_connections }
    }

    /// Adds a connection to its instance, or says why not.
    pub fn join(&self, name: &InstanceName, role: Role, peer: Peer, software: &str, layouts: &[LayoutHandle]) -> Result<SessionId, String> {
        let mut state = self.state.lock().expect("no panic while held");
        if state.connections >= self.most_connections {
            return Err(format!("{} engine connections are open, the limit of `[limits] max_connections`", state.connections));
        }
        if let (Role::Control, Some(pid)) = (role, state.instances.get(name).and_then(|instance| instance.control)) {
            return Err(format!(
                "engine `{}` has a control connection already (process {pid}): give every engine start its own name",
                name.engine
            ));
        }
        state.connections += 1;
        let next = SessionId(state.last_session + 1);
        let instance = state.instances.entry(name.clone()).or_insert_with(|| Instance {
            session: next,
            software: String::new(),
            control: None,
            workers: Vec::new(),
            layouts: Vec::new(),
            since: Instant::now(),
        });
        match role {
            Role::Control => {
                instance.control = Some(peer.pid);
                instance.layouts = layouts.to_vec();
                instance.software = software.to_owned();
            }
            Role::Worker | Role::Takeover => instance.workers.push(peer.pid),
        }
        let session = instance.session;
        state.last_session = state.last_session.max(session.0);
        Ok(session)
    }

    /// Removes a connection. True when it was the last of its instance: the session is over.
    pub fn leave(&self, name: &InstanceName, role: Role, peer: Peer) -> bool {
        let mut state = self.state.lock().expect("no panic while held");
        state.connections -= 1;
        let Some(instance) = state.instances.get_mut(name) else { return false };
        match role {
            Role::Control => instance.control = None,
            Role::Worker | Role::Takeover => {
                if let Some(at) = instance.workers.iter().position(|pid| *pid == peer.pid) {
                    instance.workers.swap_remove(at);
                }
            }
        }
        let gone = instance.control.is_none() && instance.workers.is_empty();
        if gone {
            state.instances.remove(name);
        }
        gone
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.state.lock().expect("no panic while held").connections
    }

    /// Every instance, oldest first.
    pub fn all(&self) -> Vec<EngineView> {
        let state = self.state.lock().expect("no panic while held");
        let view = |(name, instance): (&InstanceName, &Instance)| EngineView {
            session: instance.session,
            engine: name.engine.clone(),
            software: instance.software.clone(),
            uid: name.uid,
            control: instance.control,
            workers: instance.workers.clone(),
            layouts: instance.layouts.clone(),
            connected_ms: instance.since.elapsed().as_millis() as u64,
        };
        let mut all: Vec<_> = state.instances.iter().map(view).collect();
        all.sort_by_key(|engine| engine.session);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Peer = Peer { pid: 1, uid: 2, gid: 3 };

    fn name(engine: &str) -> InstanceName {
        InstanceName { uid: 2, engine: engine.into() }
    }

    #[test]
    fn a_session_ends_with_its_last_connection() {
        let engines = Engines::new(8);
        let session = engines.join(&name("a"), Role::Worker, PEER, "", &[]).unwrap();
        assert_eq!(engines.join(&name("a"), Role::Control, PEER, "", &[]), Ok(session));
        assert!(!engines.leave(&name("a"), Role::Control, PEER), "a worker may still be copying");
        assert!(engines.leave(&name("a"), Role::Worker, PEER));
        assert_ne!(engines.join(&name("a"), Role::Control, PEER, "", &[]), Ok(session), "a new session");
    }

    #[test]
    fn a_second_control_connection_is_refused() {
        let engines = Engines::new(8);
        engines.join(&name("a"), Role::Control, PEER, "", &[]).unwrap();
        assert!(engines.join(&name("a"), Role::Control, PEER, "", &[]).unwrap_err().contains("process 1"));
        assert!(engines.join(&name("b"), Role::Control, PEER, "", &[]).is_ok());
    }

    #[test]
    fn connections_are_limited() {
        let engines = Engines::new(1);
        engines.join(&name("a"), Role::Control, PEER, "", &[]).unwrap();
        assert!(engines.join(&name("b"), Role::Control, PEER, "", &[]).is_err());
    }
}
