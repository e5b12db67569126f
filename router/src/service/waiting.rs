//! Placing requests, and the queue of those that find every worker busy.

use super::space::{Ranks, Scratch, Space};
use super::{AskError, Clock};
use crate::route::{self, Choice, Refusal, RequestId, RouteError, RouteRequest, SplitReason, Terms, Waiting};
use kvd_block::LocalHash;
use tokio::sync::oneshot;

/// Where a request goes, in the words of [`route`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Placed {
    pub decode: Choice,
    pub prefill: Option<Choice>,
    pub split: Option<SplitReason>,
}

/// A request that waits for a worker with room.
#[derive(Debug)]
pub(super) struct Waiter {
    request: RouteRequest,
    locals: Vec<LocalHash>,
    placed: oneshot::Sender<Result<Placed, AskError>>,
}

/// A request whose prompt another worker computes is booked there under this name.
pub(super) fn prefill_part(id: RequestId) -> RequestId {
    RequestId(id.0.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15)
}

/// Withdraws a waiting request whose asker went away.
#[derive(Debug)]
struct Withdraw<'s> {
    space: &'s Space,
    id: RequestId,
    clock: Clock,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        let now_ms = self.clock.now_ms();
        {
            let desk = &mut *self.space.desk();
            // No longer in the queue: it was placed, and nobody will send it there.
            if desk.queue.cancel(self.id).is_none() {
                release(&mut desk.route, now_ms, self.id);
            }
        }
        self.space.pump(now_ms);
    }
}

impl Space {
    /// Chooses, and books unless `peek`.
    pub(super) fn place(&self, now_ms: f64, request: &RouteRequest, scratch: &mut Scratch, peek: bool) -> Result<Placed, RouteError> {
        let ranks = self.ranks();
        let Scratch { locals, walk, candidates } = scratch;
        self.candidates(&ranks, locals, walk, candidates);
        let desk = &mut *self.desk();
        // Whoever waits goes first, unless nothing is booked anyway.
        if !peek && !desk.queue.is_empty() {
            return Err(Refusal::Full(ranks.list.len()).into());
        }
        place(&mut desk.route, now_ms, request, locals, candidates, &ranks, peek)
    }

    /// As [`Space::place`], but waits for a worker with room.
    pub(super) async fn place_or_wait(&self, clock: Clock, request: RouteRequest, locals: Vec<LocalHash>) -> Result<Placed, AskError> {
        let id = request.id;
        let (placed, answer) = oneshot::channel();
        {
            let now_ms = clock.now_ms();
            let desk = &mut *self.desk();
            let work_ms = least_work_ms(&desk.route, id);
            let hints = request.hints;
            let waiting = Waiting { id, came_ms: now_ms, work_ms, hints, what: Waiter { request, locals, placed } };
            desk.queue.push(now_ms, waiting).map_err(|(why, _)| AskError::Busy(why.to_string()))?;
        }
        let withdraw = Withdraw { space: self, id, clock };
        self.pump(clock.now_ms());
        let outcome = answer.await.unwrap_or_else(|_| Err(AskError::Busy("the router is stopping".into())));
        std::mem::forget(withdraw);
        outcome
    }

    /// Places whoever waits and can be placed now; refuses whose time is over.
    pub(super) fn pump(&self, now_ms: f64) {
        if self.desk().queue.is_empty() {
            return;
        }
        let ranks = self.ranks();
        let mut scratch = Scratch::default();
        let desk = &mut *self.desk();
        loop {
            let (route, mut outcome) = (&mut desk.route, None);
            let taken = desk.queue.take(now_ms, |waiting| {
                let Waiter { request, locals, .. } = &waiting.what;
                self.candidates(&ranks, locals, &mut scratch.walk, &mut scratch.candidates);
                match place(route, now_ms, request, locals, &scratch.candidates, &ranks, false) {
                    Err(RouteError::Refused(Refusal::Full(_))) => false,
                    other => {
                        outcome = Some(other);
                        true
                    }
                }
            });
            let Some((taken, outcome)) = taken.zip(outcome) else { break };
            let was_placed = outcome.is_ok();
            if taken.what.placed.send(outcome.map_err(|why| refused(&why))).is_err() && was_placed {
                release(route, now_ms, taken.id);
            }
        }
        while let Some((waiting, why)) = desk.queue.next_rejected(now_ms) {
            let _ = waiting.what.placed.send(Err(AskError::Busy(why.to_string())));
        }
    }
}

fn place(
    route: &mut route::Router,
    now_ms: f64,
    request: &RouteRequest,
    locals: &[LocalHash],
    candidates: &[route::Candidate],
    ranks: &Ranks,
    peek: bool,
) -> Result<Placed, RouteError> {
    if !ranks.splits {
        let decode = route.select(now_ms, request, locals, candidates)?;
        if !peek {
            route.reserve(now_ms, request, locals, decode.worker, &decode.terms)?;
        }
        return Ok(Placed { decode, prefill: None, split: None });
    }
    let split = route.select_split(now_ms, request, locals, candidates)?;
    if !peek {
        reserve_split(route, now_ms, request, locals, &split)?;
    }
    Ok(Placed { decode: split.decode, prefill: split.prefill, split: Some(split.reason) })
}

fn reserve_split(
    route: &mut route::Router,
    now_ms: f64,
    request: &RouteRequest,
    locals: &[LocalHash],
    split: &route::Split,
) -> Result<(), RouteError> {
    let Some(prefill) = &split.prefill else {
        return Ok(route.reserve(now_ms, request, locals, split.decode.worker, &split.decode.terms)?);
    };
    // Nothing to compute, everything to receive: the time this takes says nothing about how fast it computes.
    let received = Terms { uncached_tokens: 0, load_blocks: [0, 0, locals.len() as u32], ..split.decode.terms };
    route.reserve(now_ms, request, locals, split.decode.worker, &received)?;
    let part = RouteRequest { id: prefill_part(request.id), ..request.clone() };
    if let Err(full) = route.reserve(now_ms, &part, locals, prefill.worker, &prefill.terms) {
        route.abort(now_ms, request.id);
        return Err(full.into());
    }
    Ok(())
}

/// Takes off all that is booked for a request. False when nothing is.
pub(super) fn release(route: &mut route::Router, now_ms: f64, id: RequestId) -> bool {
    route.abort(now_ms, prefill_part(id)) | route.abort(now_ms, id)
}

/// What the request takes of a worker's time at least, as the decision that found no room priced it.
fn least_work_ms(route: &route::Router, id: RequestId) -> f64 {
    let decision = route.history().about(id);
    let works = decision.into_iter().flat_map(|decision| &decision.candidates).map(|priced| priced.terms.work_ms());
    works.min_by(f64::total_cmp).unwrap_or(0.0)
}

/// What the asker is told.
pub(super) fn refused(why: &RouteError) -> AskError {
    match why {
        RouteError::Refused(Refusal::Full(_)) => AskError::Busy(why.to_string()),
        RouteError::Refused(_) => AskError::Nobody(why.to_string()),
        RouteError::NotReserved(route::ReserveError::Again(_)) => AskError::Again(why.to_string()),
        RouteError::NotReserved(route::ReserveError::Full(_)) => AskError::Busy(why.to_string()),
    }
}
