//! Which worker served a session last: worth a bonus of some milliseconds, never more than what reuse really saves.

use super::request::{Session, WorkerId};
use std::collections::{HashMap, VecDeque};

/// Sessions by last use, bounded in time and number.
#[derive(Debug)]
pub struct Affinity {
    sessions: HashMap<Session, (WorkerId, f64)>,
    /// In the order of use, sessions used again several times.
    order: VecDeque<(f64, Session)>,
    ttl_ms: f64,
    most: usize,
}

impl Affinity {
    /// Remembers at most `most` sessions, each for `ttl_ms` after its last use.
    pub fn new(ttl_ms: f64, most: usize) -> Affinity {
        Affinity { sessions: HashMap::new(), order: VecDeque::new(), ttl_ms, most }
    }

    /// Where `session` was served last.
    pub fn of(&self, now_ms: f64, session: Session) -> Option<WorkerId> {
        let (worker, until_ms) = self.sessions.get(&session)?;
        (*until_ms > now_ms).then_some(*worker)
    }

    /// `session` is served by `worker`.
    pub fn served(&mut self, now_ms: f64, session: Session, worker: WorkerId) {
        if session == Session::default() || self.most == 0 {
            return;
        }
        let until_ms = now_ms + self.ttl_ms;
        self.sessions.insert(session, (worker, until_ms));
        self.order.push_back((until_ms, session));
        while let Some((until_ms, oldest)) = self.order.front().copied() {
            let is_current = self.sessions.get(&oldest).is_some_and(|(_, last)| *last <= until_ms);
            if is_current && until_ms > now_ms && self.sessions.len() <= self.most {
                break;
            }
            self.order.pop_front();
            if is_current {
                self.sessions.remove(&oldest);
            }
        }
        if self.order.len() > 4 * self.most {
            let sessions = &self.sessions;
            self.order.retain(|(until_ms, session)| sessions.get(session).is_some_and(|(_, last)| *last <= *until_ms));
        }
    }

    /// A worker left.
    pub fn forget(&mut self, worker: WorkerId) {
        self.sessions.retain(|_, (of, _)| *of != worker);
    }

    /// Sessions remembered.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// True when none is.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_remembered_until_its_time_is_over() {
        let mut affinity = Affinity::new(100.0, 10);
        affinity.served(0.0, Session(1), WorkerId(3));
        assert_eq!(affinity.of(99.0, Session(1)), Some(WorkerId(3)));
        assert_eq!(affinity.of(100.0, Session(1)), None);
    }

    #[test]
    fn the_session_used_least_recently_makes_room() {
        let mut affinity = Affinity::new(100.0, 2);
        affinity.served(0.0, Session(1), WorkerId(1));
        affinity.served(1.0, Session(2), WorkerId(2));
        affinity.served(2.0, Session(1), WorkerId(1));
        affinity.served(3.0, Session(3), WorkerId(3));
        assert_eq!([1, 2, 3].map(|id| affinity.of(4.0, Session(id)).is_some()), [true, false, true]);
    }

    #[test]
    fn no_session_is_no_session() {
        let mut affinity = Affinity::new(100.0, 2);
        affinity.served(0.0, Session::default(), WorkerId(1));
        assert!(affinity.is_empty());
    }
}
