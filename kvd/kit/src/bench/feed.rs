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
    limit: Option<u64>,
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
            limit: plan.most_requests,
            given: 0,
            skipped_before: 0,
            round_start_ms: 0,
            last_ms: 0,
            error: None,
            open: Open::default(),
        })
    }

    /// From now on requests never end.
    pub fn make_endless(&mut self) {
        (self.repeats, self.limit) = (true, None);
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
        if self.limit.is_some_and(|most| self.given >= most) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::Pace;
    use crate::preset::Model;
    use crate::{Target, trace};
    use std::path::Path;
    use std::time::Duration;

    fn plan(trace: &Path, most_requests: Option<u64>) -> Plan {
        Plan {
            program: "kvd".into(),
            target: Target::Null,
            model: Model::of_bytes(1024),
            kv_dtype: "bf16".into(),
            tp: 1,
            trace: trace.into(),
            trace_options: trace::Options::default(),
            block_tokens: None,
            arena_bytes: 1 << 26,
            storage_bytes: None,
            pace: Pace::Open,
            speed: 1.0,
            concurrency: 1,
            think_ms: None,
            warm_up: Duration::ZERO,
            duration: None,
            most_requests,
            most_input_tokens: None,
            repeat: false,
            prefill_tokens_per_second: None,
            find_sessions: None,
            deadline: Duration::from_secs(1),
            compressible: false,
            keep: false,
            overwrite: false,
            ceiling: None,
        }
    }

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn sessions() -> tempfile::NamedTempFile {
        let meta = |name| format!("{{\"trace\":\"{name}\",\"meta\":true,\"block_size\":64}}\n");
        let row = |name, t| format!("{{\"trace\":\"{name}\",\"t\":{t},\"in\":64,\"out\":1,\"think\":null,\"runs\":[[1,1]]}}\n");
        let session = |name, times: &[f64]| meta(name) + &times.iter().map(|t| row(name, *t)).collect::<String>();
        written(&(session("a", &[0.0, 2.5]) + &session("b", &[0.0, 0.2, 0.1]) + &session("c", &[0.0])))
    }

    #[test]
    fn sessions_with_clocks_of_their_own_start_one_after_the_other_and_overlap() {
        let file = sessions();
        let plan = plan(file.path(), None);
        let mut feed = Feed::open(&plan, false).unwrap();
        let due: Vec<(u64, u64)> =
            std::iter::from_fn(|| feed.due(Clock::Session)).map(|(at_ms, request)| (at_ms, request.session)).collect();
        assert_eq!(due, [(0, 0), (1000, 1), (1200, 1), (1200, 1), (2000, 2), (2500, 0)]);
    }

    #[test]
    fn a_closed_loop_gets_whole_sessions_in_the_order_of_the_file() {
        let file = sessions();
        let plan = plan(file.path(), Some(4));
        let mut feed = Feed::open(&plan, false).unwrap();
        let lengths: Vec<usize> = std::iter::from_fn(|| feed.session()).map(|session| session.len()).collect();
        assert_eq!((lengths, feed.given), (vec![2, 2], 4));
    }

    #[test]
    fn a_repeated_trace_goes_on_in_time() {
        let row = |at| format!("{{\"timestamp\": {at}, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [1]}}\n");
        let file = written(&(row(0) + &row(300)));
        let plan = plan(file.path(), Some(5));
        let mut feed = Feed::open(&plan, true).unwrap();
        let due: Vec<u64> = std::iter::from_fn(|| feed.due(Clock::Trace)).map(|(at_ms, _)| at_ms).collect();
        assert_eq!(due, [0, 300, 1300, 1600, 2600]);
    }

    #[test]
    fn a_broken_line_ends_the_feed_and_is_kept() {
        let file = written("{\"timestamp\": 0, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [1]}\nnonsense\n");
        let plan = plan(file.path(), None);
        let mut feed = Feed::open(&plan, false).unwrap();
        assert!(feed.session().is_some() && feed.session().is_none());
        assert!(feed.error().unwrap().to_string().contains("line 2"));
    }
}
