//! The requests of a trace in the order in which they are due.

use super::error::BenchError;
use super::plan::Plan;
use crate::trace::{Clock, Request, Trace, TraceError};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Where sessions have clocks of their own, a new one starts so often, in milliseconds of the trace.
const SESSION_EVERY_MS: u64 = 1_000;

/// A trace being replayed: read as it is needed, and from its beginning again when that was asked for.
#[derive(Debug)]
pub struct Feed<'a> {
    plan: &'a Plan,
    trace: Trace,
    ahead: Option<Result<Request, TraceError>>,
    repeats: bool,
    /// Requests given out.
    pub given: u64,
    /// Lines left out because they could not be read.
    skipped_before: u64,
    /// Milliseconds that earlier rounds took, and the last one's end.
    round_start_ms: u64,
    last_ms: u64,
    error: Option<BenchError>,
    open: Open,
}

/// Sessions under way in an open loop whose clocks are their own.
#[derive(Debug, Default)]
struct Open {
    due: BinaryHeap<Reverse<(u64, u64)>>,
    sessions: std::collections::HashMap<u64, (u64, VecDeque<Request>)>,
    started: u64,
    ended: bool,
}

impl<'a> Feed<'a> {
    /// Opens the plan's trace. `repeats`: it has no end.
    pub fn open(plan: &'a Plan, repeats: bool) -> Result<Feed<'a>, BenchError> {
        Ok(Feed {
            plan,
            trace: Trace::open(&plan.trace, plan.trace_options)?,
            ahead: None,
            repeats,
            given: 0,
            skipped_before: 0,
            round_start_ms: 0,
            last_ms: 0,
            error: None,
            open: Open::default(),
        })
    }

    /// Tokens of a block of the next request; zero when there is none.
    pub fn block_tokens(&mut self) -> u32 {
        match self.peek() {
            Some(Ok(request)) => request.block_tokens,
            _ => 0,
        }
    }

    /// The name of the trace's format, and what its clock counts from.
    pub fn format(&self) -> (&'static str, Clock) {
        (self.trace.format().name(), self.trace.clock())
    }

    /// What ended the replay early.
    pub fn error(&mut self) -> Option<BenchError> {
        self.error.take()
    }

    /// Something about a request makes going on senseless.
    pub fn fail(&mut self, error: BenchError) {
        self.error.get_or_insert(error);
    }

    /// Lines left out so far.
    pub fn skipped(&self) -> u64 {
        self.skipped_before + self.trace.skipped()
    }

    fn peek(&mut self) -> Option<&Result<Request, TraceError>> {
        if self.ahead.is_none() {
            self.ahead = self.trace.next();
        }
        self.ahead.as_ref()
    }

    /// The next request, in the order of the file.
    fn next(&mut self) -> Option<Request> {
        if self.plan.most_requests.is_some_and(|most| self.given >= most) {
            return None;
        }
        loop {
            match self.ahead.take().or_else(|| self.trace.next()) {
                Some(Ok(request)) => {
                    self.given += 1;
                    return Some(request);
                }
                Some(Err(error)) => {
                    self.error = Some(error.into());
                    return None;
                }
                None if self.repeats => self.begin_again()?,
                None => return None,
            }
        }
    }

    fn begin_again(&mut self) -> Option<()> {
        self.round_start_ms = self.last_ms + SESSION_EVERY_MS;
        match Trace::open(&self.plan.trace, self.plan.trace_options) {
            Ok(trace) => {
                self.skipped_before += self.trace.skipped();
                self.trace = trace;
                Some(())
            }
            Err(error) => {
                self.error = Some(error.into());
                None
            }
        }
    }

    /// The next session, whole.
    pub fn session(&mut self) -> Option<Vec<Request>> {
        let mut requests = vec![self.next()?];
        let session = requests[0].session;
        while let Some(Ok(request)) = self.peek() {
            if request.session != session {
                break;
            }
            let Some(request) = self.next() else { break };
            requests.push(request);
        }
        Some(requests)
    }

    /// The next request of an open loop, with the milliseconds from the start at which it is due, by the trace's clock.
    pub fn due(&mut self, clock: Clock) -> Option<(u64, Request)> {
        match clock {
            Clock::Trace => {
                let request = self.next()?;
                let at_ms = self.round_start_ms + request.at_ms;
                self.last_ms = self.last_ms.max(at_ms);
                Some((at_ms, request))
            }
            Clock::Session => self.due_of_sessions(),
        }
    }

    fn due_of_sessions(&mut self) -> Option<(u64, Request)> {
        loop {
            let next_start_ms = self.open.started * SESSION_EVERY_MS;
            match self.open.due.peek() {
                Some(Reverse((at_ms, _))) if self.open.ended || *at_ms < next_start_ms => return self.open.pop(),
                None if self.open.ended => return None,
                _ => match self.session() {
                    Some(requests) => self.open.start(next_start_ms, requests),
                    None => self.open.ended = true,
                },
            }
        }
    }
}

impl Open {
    fn start(&mut self, start_ms: u64, requests: Vec<Request>) {
        let id = self.started;
        self.started += 1;
        if let Some(first) = requests.first() {
            self.due.push(Reverse((start_ms + first.at_ms, id)));
            self.sessions.insert(id, (start_ms, requests.into()));
        }
    }

    fn pop(&mut self) -> Option<(u64, Request)> {
        let Reverse((at_ms, id)) = self.due.pop()?;
        let (start_ms, requests) = self.sessions.get_mut(&id)?;
        let request = requests.pop_front()?;
        match requests.front() {
            // Recorders are not always in order; a session's requests are.
            Some(next) => self.due.push(Reverse(((*start_ms + next.at_ms).max(at_ms), id))),
            None => drop(self.sessions.remove(&id)),
        }
        Some((at_ms, request))
    }
}
