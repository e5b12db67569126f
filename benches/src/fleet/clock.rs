//! What happens when: events by time, and in the order in which they were planned where times are equal.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

#[derive(Debug)]
struct At<T> {
    ms: f64,
    number: u64,
    what: T,
}

impl<T> PartialEq for At<T> {
    fn eq(&self, other: &At<T>) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for At<T> {}

impl<T> PartialOrd for At<T> {
    fn partial_cmp(&self, other: &At<T>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for At<T> {
    fn cmp(&self, other: &At<T>) -> Ordering {
        self.ms.total_cmp(&other.ms).then(self.number.cmp(&other.number))
    }
}

/// The agenda of a simulation.
#[derive(Debug)]
pub struct Clock<T> {
    now_ms: f64,
    planned: u64,
    agenda: BinaryHeap<Reverse<At<T>>>,
}

impl<T> Clock<T> {
    pub fn new() -> Clock<T> {
        Clock { now_ms: 0.0, planned: 0, agenda: BinaryHeap::new() }
    }

    pub fn now_ms(&self) -> f64 {
        self.now_ms
    }

    /// Plans `what` for then, or for now when that is past.
    pub fn at(&mut self, ms: f64, what: T) {
        self.planned += 1;
        self.agenda.push(Reverse(At { ms: ms.max(self.now_ms), number: self.planned, what }));
    }

    /// Goes to the next event.
    pub fn next(&mut self) -> Option<T> {
        let Reverse(next) = self.agenda.pop()?;
        self.now_ms = next.ms;
        Some(next.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_as_planned() {
        let mut clock = Clock::new();
        clock.at(2.0, 'c');
        clock.at(1.0, 'a');
        clock.at(1.0, 'b');
        assert_eq!([clock.next(), clock.next(), clock.next(), clock.next()], [Some('a'), Some('b'), Some('c'), None]);
        assert_eq!(clock.now_ms(), 2.0);
    }
}
