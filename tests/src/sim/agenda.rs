//! What will happen, in order of time. Events of one time happen in the order in which they were entered.

use std::collections::BTreeMap;

/// Future events.
#[derive(Debug)]
pub struct Agenda<E> {
    events: BTreeMap<(u64, u64), E>,
    entered: u64,
    now: u64,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Agenda { events: BTreeMap::new(), entered: 0, now: 1 }
    }
}

impl<E> Agenda<E> {
    /// Milliseconds since the run began.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Enters `event` for time `at`, or for now when that is past.
    pub fn at(&mut self, at: u64, event: E) {
        self.entered += 1;
        self.events.insert((at.max(self.now), self.entered), event);
    }

    /// Enters `event` for `ms` milliseconds from now.
    pub fn after(&mut self, ms: u64, event: E) {
        self.at(self.now + ms, event);
    }

    /// Goes to the next event.
    pub fn advance(&mut self) -> Option<E> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }
}
