//! What a link has to say to people. The embedding program decides where it is printed.
//!
//! A connector lives inside an engine that has its own logging, so nothing here ever prints. Bounded: the oldest
//! event is dropped first, because the newest tells the present state.

use std::collections::VecDeque;
use std::sync::Mutex;

const MAX_EVENTS: usize = 64;

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// All is well.
    Info,
    /// The engine goes on without its cache.
    Warning,
}

/// One thing worth saying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// How much it matters.
    pub level: Level,
    /// One sentence.
    pub text: String,
}

/// Events that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Journal(Mutex<VecDeque<Event>>);

impl Journal {
    pub(crate) fn say(&self, level: Level, text: String) {
        let mut events = self.0.lock().expect("no panic while held");
        if events.len() == MAX_EVENTS {
            events.pop_front();
        }
        events.push_back(Event { level, text });
    }

    /// Takes all events, oldest first.
    pub fn take(&self) -> Vec<Event> {
        self.0.lock().expect("no panic while held").drain(..).collect()
    }
}
