//! What each worker has to do: requests reserved and not yet finished.
//!
//! `reserve` adds the tokens to compute and the blocks to hold; `prefill_complete` takes the tokens off and turns the request into a
//! decode; `finish` takes the rest. What nobody finishes is taken off when its lease ends. Everything is counted in whole tokens
//! and blocks, so that all sums are zero again when all is done; milliseconds are made of them when asked for.

use super::learn::{Speeds, Work};
use super::price::interference_ms;
use super::request::{RequestId, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

/// What a worker has to do.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Load {
    /// Requests whose prompt is not computed yet.
    pub waiting: u32,
    /// What they have to compute.
    pub backlog: Work,
    /// Requests that generate.
    pub decoding: u32,
    /// Blocks of all of them, answers expected included.
    pub blocks: u64,
}

impl Load {
    /// Requests of both kinds.
    pub fn requests(&self) -> u32 {
        self.waiting + self.decoding
    }
}

#[derive(Debug, Default)]
struct Busy {
    load: Load,
    /// Requests to be computed, in the order in which they were sent.
    line: VecDeque<RequestId>,
    /// Since when the first of the line has had the worker for itself.
    head_since_ms: f64,
    /// Work of the first of the line.
    head: Work,
}

/// What a reservation adds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Reservation {
    /// Where.
    pub worker: WorkerId,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// What has to be computed of it.
    pub work: Work,
    /// Whether some of it has to be loaded first.
    pub loads: bool,
    /// Blocks of prompt and expected answer.
    pub blocks: u64,
}

/// A reserved request.
#[derive(Debug)]
struct Active {
    reservation: Reservation,
    lease_until_ms: f64,
    /// When its first token came.
    decoding_since_ms: Option<f64>,
    /// Requests decoding there at that time, this one included.
    batch: u32,
}

/// A prompt that was computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prefilled {
    /// What was reserved.
    pub reservation: Reservation,
    /// How long it had the worker for itself, when that can be told from outside.
    pub alone_ms: Option<f64>,
    /// Requests that were decoding meanwhile.
    pub decoding: u32,
}

/// An answer that ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finished {
    /// Where.
    pub worker: WorkerId,
    /// What had to be computed of its prompt.
    pub work: Work,
    /// Milliseconds since its first token; none when there was no first token.
    pub decode_ms: Option<f64>,
    /// Requests decoding there, about.
    pub batch: u32,
}

/// Why a request cannot be reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The id is in use.
    #[error("request {:#018x} is reserved already; finish it first", .0.0)]
    Again(RequestId),
    /// The table is full.
    #[error("{0} requests are reserved, which is all there may be (route.active_requests)")]
    Full(usize),
}

/// All workers' loads.
#[derive(Debug)]
pub struct Loads {
    workers: Vec<Busy>,
    active: HashMap<RequestId, Active>,
    leases: VecDeque<(f64, RequestId)>,
    lease_ms: f64,
    most: usize,
    lost: u64,
}

impl Loads {
    /// Nothing to do yet. Leases last `lease_ms`; at most `most` requests are reserved at a time.
    pub fn new(lease_ms: f64, most: usize) -> Loads {
        Loads { workers: Vec::new(), active: HashMap::new(), leases: VecDeque::new(), lease_ms, most, lost: 0 }
    }

    /// What `worker` has to do.
    pub fn of(&self, worker: WorkerId) -> Load {
        self.workers.get(worker.0 as usize).map_or(Load::default(), |busy| busy.load)
    }

    /// Requests that are reserved now.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// Requests that nobody finished and whose lease ended, so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Milliseconds until a prompt sent to `worker` now would be computed, its own work aside.
    pub fn queue_ms(&self, worker: WorkerId, speeds: &Speeds, chunk_tokens: u32, now_ms: f64) -> f64 {
        let Some(busy) = self.workers.get(worker.0 as usize).filter(|busy| busy.load.waiting > 0) else { return 0.0 };
        let decoding = busy.load.decoding.into();
        let took = |requests, work: Work| speeds.prefill_ms(requests, work) + interference_ms(speeds, work.tokens, chunk_tokens, decoding);
        // The first may take longer than thought, but what comes behind it still has to be done.
        let spent = (now_ms - busy.head_since_ms).max(0.0).min(took(1, busy.head));
        (took(busy.load.waiting.into(), busy.load.backlog) - spent).max(0.0)
    }

    /// `id` was sent to a worker.
    pub fn reserve(&mut self, now_ms: f64, id: RequestId, reservation: Reservation) -> Result<(), ReserveError> {
        let full = self.active.len() >= self.most;
        let Entry::Vacant(free) = self.active.entry(id) else { return Err(ReserveError::Again(id)) };
        if full {
            return Err(ReserveError::Full(self.most));
        }
        let lease_until_ms = now_ms + self.lease_ms;
        free.insert(Active { reservation, lease_until_ms, decoding_since_ms: None, batch: 0 });
        self.leases.push_back((lease_until_ms, id));
        let place = reservation.worker.0 as usize;
        if place >= self.workers.len() {
            self.workers.resize_with(place + 1, Busy::default);
        }
        let busy = &mut self.workers[place];
        if busy.line.is_empty() {
            (busy.head_since_ms, busy.head) = (now_ms, reservation.work);
        }
        busy.line.push_back(id);
        busy.load.waiting += 1;
        busy.load.backlog = busy.load.backlog.plus(reservation.work);
        busy.load.blocks += reservation.blocks;
        Ok(())
    }

    /// The prompt of `id` is computed; `None` when it is not reserved, or was complete before.
    pub fn prefill_complete(&mut self, now_ms: f64, id: RequestId) -> Option<Prefilled> {
        let active = self.active.get_mut(&id).filter(|active| active.decoding_since_ms.is_none())?;
        let reservation = active.reservation;
        let busy = &mut self.workers[reservation.worker.0 as usize];
        let was_first = busy.line.front() == Some(&id);
        let alone_ms = (was_first && !reservation.loads).then_some(now_ms - busy.head_since_ms);
        let prefilled = Prefilled { reservation, alone_ms, decoding: busy.load.decoding };
        busy.load.decoding += 1;
        active.decoding_since_ms = Some(now_ms);
        active.batch = busy.load.decoding;
        active.lease_until_ms = now_ms + self.lease_ms;
        self.leases.push_back((active.lease_until_ms, id));
        self.leave_line(now_ms, id, &reservation);
        Some(prefilled)
    }

    /// `id` is done, or given up; `None` when it is not reserved.
    pub fn finish(&mut self, now_ms: f64, id: RequestId) -> Option<Finished> {
        let active = self.active.remove(&id)?;
        let worker = active.reservation.worker;
        if active.decoding_since_ms.is_none() {
            self.leave_line(now_ms, id, &active.reservation);
        }
        let load = &mut self.workers[worker.0 as usize].load;
        let batch = load.decoding.midpoint(active.batch);
        if active.decoding_since_ms.is_some() {
            load.decoding -= 1;
        }
        load.blocks -= active.reservation.blocks;
        self.trim_leases();
        Some(Finished { worker, work: active.reservation.work, decode_ms: active.decoding_since_ms.map(|since| now_ms - since), batch })
    }

    /// A sign of life: the lease starts anew. False when `id` is not reserved.
    pub fn renew(&mut self, now_ms: f64, id: RequestId) -> bool {
        let Some(active) = self.active.get_mut(&id) else { return false };
        active.lease_until_ms = now_ms + self.lease_ms;
        true
    }

    /// Takes off what nobody finished; returns those requests.
    pub fn expire(&mut self, now_ms: f64) -> Vec<RequestId> {
        let mut lost = Vec::new();
        while let Some((until_ms, id)) = self.leases.front().copied().filter(|(until_ms, _)| *until_ms <= now_ms) {
            self.leases.pop_front();
            match self.active.get(&id) {
                Some(active) if active.lease_until_ms <= now_ms => {
                    self.finish(now_ms, id);
                    lost.push(id);
                }
                // It was renewed without a new place in the line of leases.
                Some(active) if active.lease_until_ms > until_ms => self.leases.push_back((active.lease_until_ms, id)),
                _ => {}
            }
        }
        self.lost += lost.len() as u64;
        lost
    }

    /// A worker is gone, and with it all that was sent there; returns those requests.
    pub fn forget(&mut self, now_ms: f64, worker: WorkerId) -> Vec<RequestId> {
        let there = self.active.iter().filter(|(_, active)| active.reservation.worker == worker);
        let mut gone: Vec<RequestId> = there.map(|(id, _)| *id).collect();
        gone.sort_unstable();
        for id in &gone {
            self.finish(now_ms, *id);
        }
        gone
    }

    fn leave_line(&mut self, now_ms: f64, id: RequestId, reservation: &Reservation) {
        let busy = &mut self.workers[reservation.worker.0 as usize];
        let Some(place) = busy.line.iter().position(|waiting| *waiting == id) else { return };
        busy.line.remove(place);
        busy.load.waiting -= 1;
        busy.load.backlog = busy.load.backlog.less(reservation.work);
        if place > 0 {
            // The first of the line shared the worker with this one, so its own time starts again.
            busy.head_since_ms = busy.head_since_ms.max(now_ms);
            return;
        }
        busy.head_since_ms = now_ms;
        busy.head = busy.line.front().and_then(|first| self.active.get(first)).map_or(Work::default(), |active| active.reservation.work);
    }

    /// Leases of finished requests must not pile up in front of none.
    fn trim_leases(&mut self) {
        if self.leases.len() > 4 * self.active.len() + 64 {
            let active = &self.active;
            self.leases.retain(|(until_ms, id)| active.get(id).is_some_and(|active| active.lease_until_ms <= *until_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::learn::StartSpeeds;
    use proptest::prelude::*;

    const W: WorkerId = WorkerId(2);

    fn reservation(worker: WorkerId, tokens: u64) -> Reservation {
        Reservation { worker, prompt_tokens: tokens as u32, work: Work::of(tokens, 0), loads: false, blocks: tokens / 16 }
    }

    fn loads() -> Loads {
        Loads::new(1_000.0, 100)
    }

    #[test]
    fn a_request_is_first_work_and_then_a_decode() {
        let mut loads = loads();
        loads.reserve(0.0, RequestId(1), reservation(W, 1_600)).expect("free");
        assert_eq!(loads.of(W), Load { waiting: 1, backlog: Work::of(1_600, 0), decoding: 0, blocks: 100 });
        let done = loads.prefill_complete(70.0, RequestId(1)).expect("reserved");
        assert_eq!(done.alone_ms, Some(70.0));
        assert_eq!(loads.of(W), Load { waiting: 0, backlog: Work::default(), decoding: 1, blocks: 100 });
        assert_eq!(loads.finish(100.0, RequestId(1)).expect("reserved").decode_ms, Some(30.0));
        assert_eq!(loads.of(W), Load::default());
    }

    #[test]
    fn the_queue_gets_shorter_while_time_passes_but_not_below_what_waits() {
        let (mut loads, speeds) = (loads(), Speeds::new(&StartSpeeds::default()));
        for id in 1..=2 {
            loads.reserve(0.0, RequestId(id), reservation(W, 8_000)).expect("free");
        }
        let at = |now_ms| loads.queue_ms(W, &speeds, 8_192, now_ms);
        let one = speeds.prefill_ms(1, Work::of(8_000, 0));
        assert!((at(0.0) - 2.0 * one).abs() < 1e-6);
        assert!((at(100.0) - (2.0 * one - 100.0)).abs() < 1e-6);
        assert!((at(1e9) - one).abs() < 1e-6, "the first is late, the second still waits");
    }

    #[test]
    fn a_request_that_overtakes_says_nothing_about_speed() {
        let mut loads = loads();
        for id in 1..=2 {
            loads.reserve(0.0, RequestId(id), reservation(W, 8_000)).expect("free");
        }
        assert_eq!(loads.prefill_complete(50.0, RequestId(2)).expect("reserved").alone_ms, None);
        assert_eq!(loads.prefill_complete(90.0, RequestId(1)).expect("reserved").alone_ms, Some(40.0));
    }

    #[test]
    fn a_lost_request_is_taken_off_when_its_lease_ends_unless_it_is_renewed() {
        let mut loads = loads();
        for id in 1..=2 {
            loads.reserve(0.0, RequestId(id), reservation(W, 800)).expect("free");
        }
        assert!(loads.renew(900.0, RequestId(2)));
        assert_eq!(loads.expire(1_000.0), [RequestId(1)]);
        assert_eq!((loads.of(W).waiting, loads.lost()), (1, 1));
        assert_eq!(loads.expire(1_900.0), [RequestId(2)]);
        assert_eq!(loads.of(W), Load::default());
    }

    #[test]
    fn a_request_cannot_be_reserved_twice_and_the_table_has_an_end() {
        let mut loads = Loads::new(1_000.0, 1);
        loads.reserve(0.0, RequestId(1), reservation(W, 800)).expect("free");
        assert_eq!(loads.reserve(0.0, RequestId(1), reservation(W, 800)), Err(ReserveError::Again(RequestId(1))));
        assert_eq!(loads.reserve(0.0, RequestId(2), reservation(W, 800)), Err(ReserveError::Full(1)));
    }

    #[test]
    fn a_worker_that_leaves_takes_its_requests_with_it() {
        let mut loads = loads();
        loads.reserve(0.0, RequestId(1), reservation(W, 800)).expect("free");
        loads.reserve(0.0, RequestId(2), reservation(WorkerId(0), 800)).expect("free");
        assert_eq!(loads.forget(5.0, W), [RequestId(1)]);
        assert_eq!((loads.of(W), loads.active()), (Load::default(), 1));
    }

    proptest! {
        #[test]
        fn all_sums_are_zero_when_all_is_finished(steps in proptest::collection::vec((0u64..20, 0u32..3, 0u64..5_000, 0u8..4), 0..200)) {
            let mut loads = Loads::new(500.0, 10);
            for (now, (id, worker, tokens, step)) in steps.into_iter().enumerate() {
                let now_ms = now as f64 * 10.0;
                match step {
                    0 | 1 => drop(loads.reserve(now_ms, RequestId(id), reservation(WorkerId(worker), tokens))),
                    2 => drop(loads.prefill_complete(now_ms, RequestId(id))),
                    _ => drop(loads.finish(now_ms, RequestId(id))),
                }
                loads.expire(now_ms);
            }
            for id in 0..20 {
                loads.finish(1e6, RequestId(id));
            }
            for worker in 0..3 {
                prop_assert_eq!(loads.of(WorkerId(worker)), Load::default());
            }
            prop_assert_eq!(loads.active(), 0);
        }
    }
}
