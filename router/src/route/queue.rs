//! Requests that wait for a worker: bounded, ordered by policy, and never one starves.
//!
//! Each request gets one number when it comes, the moment at which it is due, and the earliest goes first:
//!
//! | policy | due |
//! |---|---|
//! | `fcfs` | when it came |
//! | `shortest_work` | when it came, plus `shortest_work_weight` milliseconds for each millisecond of its own work |
//! | `deadline` | its deadline, or `default_deadline_ms` after it came; past hope they go last |
//!
//! Each step of priority moves it `priority_ms` forward. Numbers do not change while a request waits, so whoever waits long
//! enough is due before all that come after: that is the ageing.

use super::request::{Hints, RequestId};
use crate::settings::section::section;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueuePolicy {
    /// Who came first.
    #[default]
    Fcfs,
    /// Who takes least of a worker's time, with ageing.
    ShortestWork,
    /// Whose first token is due first.
    Deadline,
}

section! {
    #[derive(Copy)]
    /// Requests that wait because every worker has as much to do as it may (`max_requests`, `max_waiting_tokens`).
    QueueSettings in "route.queue" {
        /// Who goes first: `fcfs`, `shortest_work` or `deadline`.
        policy: QueuePolicy = QueuePolicy::Fcfs, "\"fcfs\"";
        /// Requests that may wait; one more is refused.
        most: usize = 10_000, "10000";
        /// How far one step of priority moves a request forward, in milliseconds of waiting.
        priority_ms: f64 = 10_000.0, "10000.0";
        /// Under `shortest_work`: how long a millisecond more of work makes a request wait behind others, in milliseconds.
        shortest_work_weight: f64 = 20.0, "20.0";
        /// Under `deadline`: when the first token is due where the request does not say, in milliseconds after it came.
        default_deadline_ms: f64 = 30_000.0, "30000.0";
        /// Under `deadline`: refuse what cannot be in time any more instead of serving it last.
        refuse_hopeless: bool = false, "false";
        /// How many of the first are tried when the very first finds no worker.
        look_ahead: usize = 16, "16";
    }
}

/// Why a request is not served, and what can be done.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Rejected {
    /// No room.
    #[error("{waiting} requests wait already, which is all there may be (route.queue.most); try again in {retry_after_ms:.0} ms")]
    Full {
        /// How many wait.
        waiting: usize,
        /// When there should be room.
        retry_after_ms: f64,
    },
    /// The same id waits already.
    #[error("request {:#018x} waits already; cancel it first", .0.0)]
    Again(RequestId),
    /// Its deadline passed while it waited.
    #[error("the first token was due {late_ms:.0} ms ago and the request still waits for a worker")]
    Expired {
        /// By so much.
        late_ms: f64,
    },
    /// It cannot be in time any more.
    #[error("the first token is due in {left_ms:.0} ms and takes {work_ms:.0} ms on an idle worker")]
    Hopeless {
        /// Time left.
        left_ms: f64,
        /// Time needed.
        work_ms: f64,
    },
}

/// A place in the order: when it is due, then when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due(u64, u64);

impl Due {
    /// Orders by `ms`, which may be negative, then by `number`.
    fn new(ms: f64, number: u64) -> Due {
        let bits = ms.to_bits();
        Due(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }, number)
    }
}

/// A request that waits.
#[derive(Debug)]
pub struct Waiting<T> {
    /// Which.
    pub id: RequestId,
    /// When it came, in milliseconds.
    pub came_ms: f64,
    /// What it takes of an idle worker's time, about, in milliseconds.
    pub work_ms: f64,
    /// What was hinted at.
    pub hints: Hints,
    /// All that is needed to serve it.
    pub what: T,
}

/// The queue. `T` is whatever is needed to serve a request.
#[derive(Debug)]
pub struct Queue<T> {
    settings: QueueSettings,
    line: BTreeMap<Due, Waiting<T>>,
    /// Those that can only be late.
    late: BTreeMap<Due, Waiting<T>>,
    places: HashMap<RequestId, Due>,
    deadlines: BTreeMap<Due, RequestId>,
    came: u64,
    last_taken_ms: Option<f64>,
    /// Average time between two taken.
    pace_ms: f64,
}

impl<T> Queue<T> {
    /// Nobody waits.
    pub fn new(settings: QueueSettings) -> Queue<T> {
        Queue {
            settings,
            line: BTreeMap::new(),
            late: BTreeMap::new(),
            places: HashMap::new(),
            deadlines: BTreeMap::new(),
            came: 0,
            last_taken_ms: None,
            pace_ms: 100.0,
        }
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True when nobody waits.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// One more waits. Refused, it comes back with the reason.
    #[allow(clippy::result_large_err, reason = "what is refused goes back to its owner")]
    pub fn push(&mut self, now_ms: f64, waiting: Waiting<T>) -> Result<(), (Rejected, Waiting<T>)> {
        if self.places.contains_key(&waiting.id) {
            return Err((Rejected::Again(waiting.id), waiting));
        }
        if self.len() >= self.settings.most {
            return Err((Rejected::Full { waiting: self.len(), retry_after_ms: self.pace_ms.max(1.0) }, waiting));
        }
        let left_ms = waiting.hints.deadline_ms.map_or(f64::INFINITY, |deadline| deadline - now_ms);
        let is_hopeless = left_ms < waiting.work_ms;
        if is_hopeless && self.refuses_hopeless() {
            return Err((Rejected::Hopeless { left_ms, work_ms: waiting.work_ms }, waiting));
        }
        self.came += 1;
        let due = Due::new(self.due_ms(&waiting), self.came);
        self.places.insert(waiting.id, due);
        if let Some(deadline) = waiting.hints.deadline_ms {
            self.deadlines.insert(Due::new(deadline, self.came), waiting.id);
        }
        let by_deadline = self.settings.policy == QueuePolicy::Deadline;
        let place = if is_hopeless && by_deadline { &mut self.late } else { &mut self.line };
        place.insert(due, waiting);
        Ok(())
    }

    fn refuses_hopeless(&self) -> bool {
        self.settings.policy == QueuePolicy::Deadline && self.settings.refuse_hopeless
    }

    fn due_ms(&self, waiting: &Waiting<T>) -> f64 {
        let settings = &self.settings;
        let base = match settings.policy {
            QueuePolicy::Fcfs => waiting.came_ms,
            QueuePolicy::ShortestWork => waiting.came_ms + settings.shortest_work_weight * waiting.work_ms,
            QueuePolicy::Deadline => waiting.hints.deadline_ms.unwrap_or(waiting.came_ms + settings.default_deadline_ms),
        };
        base - f64::from(waiting.hints.priority) * settings.priority_ms
    }

    /// Takes the first that `has_room` says yes to, of those that go first.
    pub fn take(&mut self, now_ms: f64, mut has_room: impl FnMut(&Waiting<T>) -> bool) -> Option<Waiting<T>> {
        self.move_hopeless(now_ms);
        let first = self.line.iter().chain(&self.late).take(self.settings.look_ahead.max(1));
        let due = first.into_iter().find(|(_, waiting)| has_room(waiting)).map(|(due, _)| *due)?;
        let taken = self.remove(due)?;
        if let Some(last_ms) = self.last_taken_ms {
            self.pace_ms += 0.1 * ((now_ms - last_ms).max(0.0) - self.pace_ms);
        }
        self.last_taken_ms = Some(now_ms);
        Some(taken)
    }

    /// Under `deadline`: whoever is first and cannot be in time any more makes way.
    fn move_hopeless(&mut self, now_ms: f64) {
        if self.settings.policy != QueuePolicy::Deadline {
            return;
        }
        let is_hopeless = |waiting: &Waiting<T>| waiting.hints.deadline_ms.is_some_and(|deadline| deadline - now_ms < waiting.work_ms);
        while let Some((due, first)) =
            self.line.first_key_value().filter(|(_, first)| is_hopeless(first)).map(|(due, first)| (*due, first.id))
        {
            let Some(waiting) = self.line.remove(&due) else { return };
            debug_assert_eq!(waiting.id, first);
            self.late.insert(due, waiting);
        }
    }

    /// Gives one up.
    pub fn cancel(&mut self, id: RequestId) -> Option<Waiting<T>> {
        let due = *self.places.get(&id)?;
        self.remove(due)
    }

    /// Takes out one whose deadline has passed, and, where those are refused, one that cannot be in time any more. Call until `None`.
    pub fn next_rejected(&mut self, now_ms: f64) -> Option<(Waiting<T>, Rejected)> {
        if self.refuses_hopeless() {
            self.move_hopeless(now_ms);
            if let Some(due) = self.late.first_key_value().map(|(due, _)| *due) {
                let waiting = self.remove(due)?;
                let left_ms = waiting.hints.deadline_ms.map_or(0.0, |deadline| deadline - now_ms);
                let why = Rejected::Hopeless { left_ms, work_ms: waiting.work_ms };
                return Some((waiting, why));
            }
        }
        let (_, id) = self.deadlines.first_key_value().filter(|(due, _)| **due < Due::new(now_ms, 0))?;
        let waiting = self.cancel(*id)?;
        let late_ms = waiting.hints.deadline_ms.map_or(0.0, |deadline| now_ms - deadline);
        Some((waiting, Rejected::Expired { late_ms }))
    }

    /// When [`Queue::next_rejected`] may have something again.
    pub fn next_deadline_ms(&self) -> Option<f64> {
        let (_, id) = self.deadlines.first_key_value()?;
        let due = self.places.get(id)?;
        self.line.get(due).or_else(|| self.late.get(due))?.hints.deadline_ms
    }

    fn remove(&mut self, due: Due) -> Option<Waiting<T>> {
        let waiting = self.line.remove(&due).or_else(|| self.late.remove(&due))?;
        self.places.remove(&waiting.id);
        if let Some(deadline) = waiting.hints.deadline_ms {
            self.deadlines.remove(&Due::new(deadline, due.1));
        }
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn queue(policy: QueuePolicy) -> Queue<()> {
        Queue::new(QueueSettings { policy, most: 100, ..QueueSettings::default() })
    }

    fn waiting(id: u64, came_ms: f64, work_ms: f64, hints: Hints) -> Waiting<()> {
        Waiting { id: RequestId(id), came_ms, work_ms, hints, what: () }
    }

    fn order(queue: &mut Queue<()>, now_ms: f64) -> Vec<u64> {
        std::iter::from_fn(|| queue.take(now_ms, |_| true)).map(|waiting| waiting.id.0).collect()
    }

    fn pushed(policy: QueuePolicy, all: &[(u64, f64, f64, Hints)]) -> Queue<()> {
        let mut queue = queue(policy);
        for (id, came_ms, work_ms, hints) in all {
            queue.push(*came_ms, waiting(*id, *came_ms, *work_ms, *hints)).expect("room");
        }
        queue
    }

    fn due(deadline_ms: f64) -> Hints {
        Hints { deadline_ms: Some(deadline_ms), ..Hints::default() }
    }

    #[test]
    fn who_came_first_goes_first() {
        let none = Hints::default();
        let mut queue = pushed(QueuePolicy::Fcfs, &[(1, 0.0, 900.0, none), (2, 1.0, 1.0, none), (3, 1.0, 5.0, none)]);
        assert_eq!(order(&mut queue, 2.0), [1, 2, 3]);
    }

    #[test]
    fn priority_moves_a_request_forward_by_a_fixed_time() {
        let urgent = Hints { priority: 1, ..Hints::default() };
        let none = Hints::default();
        let mut queue = pushed(QueuePolicy::Fcfs, &[(1, 0.0, 1.0, none), (2, 5_000.0, 1.0, none), (3, 12_000.0, 1.0, urgent)]);
        assert_eq!(order(&mut queue, 12_000.0), [1, 3, 2]);
    }

    #[test]
    fn short_work_overtakes_long_work_but_not_for_ever() {
        let none = Hints::default();
        let mut queue = pushed(QueuePolicy::ShortestWork, &[(1, 0.0, 1_000.0, none), (2, 10.0, 10.0, none), (3, 30_000.0, 10.0, none)]);
        assert_eq!(order(&mut queue, 30_000.0), [2, 1, 3], "20 s is what a second of work waits at most");
    }

    #[test]
    fn the_earliest_deadline_goes_first_and_the_hopeless_go_last() {
        let mut queue = pushed(QueuePolicy::Deadline, &[(1, 0.0, 10.0, due(500.0)), (2, 0.0, 10.0, due(100.0)), (3, 0.0, 90.0, due(80.0))]);
        assert_eq!(order(&mut queue, 0.0), [2, 1, 3]);
    }

    #[test]
    fn the_hopeless_are_refused_with_the_two_times_when_asked_for() {
        let settings = QueueSettings { policy: QueuePolicy::Deadline, refuse_hopeless: true, ..QueueSettings::default() };
        let mut queue = Queue::new(settings);
        let (why, _) = queue.push(0.0, waiting(1, 0.0, 90.0, due(80.0))).expect_err("hopeless");
        assert_eq!(why.to_string(), "the first token is due in 80 ms and takes 90 ms on an idle worker");
        queue.push(0.0, waiting(2, 0.0, 50.0, due(80.0))).expect("hopeful");
        let (lost, why) = queue.next_rejected(40.0).expect("hopeless by now");
        assert_eq!((lost.id, why), (RequestId(2), Rejected::Hopeless { left_ms: 40.0, work_ms: 50.0 }));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_deadline_that_passes_while_waiting_ends_it() {
        let mut queue = pushed(QueuePolicy::Fcfs, &[(1, 0.0, 1.0, due(50.0)), (2, 0.0, 1.0, due(20.0))]);
        assert_eq!(queue.next_deadline_ms(), Some(20.0));
        assert!(queue.next_rejected(20.0).is_none());
        assert_eq!(
            queue.next_rejected(21.0).map(|(waiting, why)| (waiting.id, why)),
            Some((RequestId(2), Rejected::Expired { late_ms: 1.0 }))
        );
        assert_eq!(order(&mut queue, 21.0), [1]);
    }

    #[test]
    fn a_full_queue_says_when_to_come_again() {
        let mut queue = Queue::new(QueueSettings { most: 1, ..QueueSettings::default() });
        queue.push(0.0, waiting(1, 0.0, 1.0, Hints::default())).expect("room");
        let (why, back) = queue.push(0.0, waiting(2, 0.0, 1.0, Hints::default())).expect_err("full");
        assert!(matches!(why, Rejected::Full { waiting: 1, retry_after_ms } if retry_after_ms > 0.0));
        assert_eq!(back.id, RequestId(2));
    }

    #[test]
    fn one_that_finds_no_worker_does_not_stop_the_next() {
        let none = Hints::default();
        let mut queue = pushed(QueuePolicy::Fcfs, &[(1, 0.0, 1.0, none), (2, 1.0, 1.0, none)]);
        assert_eq!(queue.take(2.0, |waiting| waiting.id != RequestId(1)).map(|waiting| waiting.id), Some(RequestId(2)));
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn a_cancelled_request_is_gone() {
        let mut queue = pushed(QueuePolicy::Fcfs, &[(1, 0.0, 1.0, due(50.0))]);
        assert!(queue.cancel(RequestId(1)).is_some() && queue.cancel(RequestId(1)).is_none());
        assert!(queue.is_empty() && queue.next_rejected(1e9).is_none());
    }

    proptest! {
        #[test]
        fn nobody_starves(works in proptest::collection::vec(1f64..500.0, 1..60), policy in 0usize..3) {
            let policy = [QueuePolicy::Fcfs, QueuePolicy::ShortestWork, QueuePolicy::Deadline][policy];
            let mut queue = queue(policy);
            queue.push(0.0, waiting(0, 0.0, 500.0, Hints::default())).expect("room");
            // New work comes as fast as it is taken: the first must still be taken within the bound that the policy gives.
            let mut now_ms = 0.0;
            let mut id = 0;
            let taken_at = loop {
                id += 1;
                now_ms += 100.0;
                queue.push(now_ms, waiting(id, now_ms, works[id as usize % works.len()], Hints::default())).expect("room");
                if queue.take(now_ms, |_| true).is_some_and(|taken| taken.id == RequestId(0)) {
                    break now_ms;
                }
                prop_assert!(now_ms < 1e6, "it starved");
            };
            prop_assert!(taken_at <= 500.0 * 20.0 + 30_000.0);
        }
    }
}
