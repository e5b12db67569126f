//! The loop: requests arrive, the router decides, engines compute, events tell the router.

use super::cache::Cache;
use super::clock::Clock;
use super::engine::{Engine, Job, Node, Prompt};
use super::events::Events;
use super::machine::Machine;
use super::outcome::Outcome;
use super::whole_blocks;
use crate::traces::{Request, Trace};
use kvd_block::LocalHash;
use kvd_router::index::{Group, Index, IndexLimits, NameDomain, Walk, WorkerShape};
use kvd_router::route::{
    Candidate, Hints, Known, Measured, Mode, Queue, RequestId, RouteError, RouteRequest, RouteSettings, Router, Session, Waiting, Work,
    WorkerId, WorkerProfile,
};
use std::collections::HashMap;

/// What is replayed.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// The kind of its workers.
    pub machine: Machine,
    /// How many.
    pub workers: usize,
    /// The router's settings.
    pub settings: RouteSettings,
    /// Factor on all times of the trace: below 1 is more load.
    pub stretch: f64,
    /// Tokens that may wait at a worker before the router holds requests back; 0 holds none.
    pub most_waiting_tokens: u64,
}

#[derive(Debug)]
enum Event {
    Arrives(usize),
    Loaded(usize),
    Computed(usize),
    Finished(usize, usize),
}

/// The router and all it asks before it decides.
struct Front {
    router: Router,
    index: Index,
    walk: Walk,
    shapes: Vec<WorkerShape>,
    candidates: Vec<Candidate>,
    /// In other modes events are not read.
    knows_index: bool,
}

/// Replays `trace`.
pub fn simulate(trace: &Trace, fleet: &Fleet) -> Outcome {
    let mut simulation = Simulation::new(trace, fleet);
    while let Some(event) = simulation.clock.next() {
        match event {
            Event::Arrives(request) => simulation.arrives(request),
            Event::Loaded(engine) => simulation.start(engine),
            Event::Computed(engine) => simulation.computed(engine),
            Event::Finished(engine, request) => simulation.finished(engine, request),
        }
    }
    simulation.outcome.busy_ms = simulation.engines.iter().map(|engine| engine.busy_ms).collect();
    simulation.outcome.fallbacks = simulation.front.router.counters().all_unknown;
    simulation.outcome
}

struct Simulation<'a> {
    trace: &'a Trace,
    machine: Machine,
    clock: Clock<Event>,
    engines: Vec<Engine>,
    nodes: Vec<Node>,
    queue: Queue<usize>,
    front: Front,
    events: Events,
    came_ms: Vec<f64>,
    /// The request after each of its session.
    next: Vec<Option<usize>>,
    /// Due, but the answer before it is not there.
    is_early: Vec<bool>,
    is_first: Vec<bool>,
    outcome: Outcome,
}

impl<'a> Simulation<'a> {
    fn new(trace: &'a Trace, fleet: &Fleet) -> Simulation<'a> {
        let machine = fleet.machine;
        let block_tokens = trace.requests.first().map_or(1, |request| request.block_tokens);
        let block_bytes = machine.token_bytes * u64::from(block_tokens);
        let blocks = |bytes: u64| (bytes / block_bytes) as usize;
        let mut settings = fleet.settings.clone();
        settings.sent_stride_blocks = (256 / block_tokens).max(1);
        settings.lease_ms = 1e12;
        settings.history_bytes = 1 << 20;
        let knows_index = settings.mode == Mode::Kv;
        let mut index = Index::new(IndexLimits::default());
        let mut holder = |salt| index.add_holder(NameDomain(0), salt).expect("few holders");
        let count = fleet.workers.div_ceil(machine.workers_per_node);
        let node = |node: usize| Node {
            holder: holder(node as u64),
            host: Cache::new(blocks(machine.host_bytes)),
            disk: Cache::new(blocks(machine.disk_bytes)),
            drives_free_ms: 0.0,
        };
        let nodes: Vec<Node> = (0..count).map(node).collect();
        let mut holder = |salt| index.add_holder(NameDomain(0), salt).expect("few holders");
        let engine = |at: usize| Engine::new(holder((count + at) as u64), at / machine.workers_per_node, blocks(machine.device_bytes));
        let engines: Vec<Engine> = (0..fleet.workers).map(engine).collect();
        let shape =
            |engine: &Engine| WorkerShape { groups: vec![Group { holders: vec![engine.holder, nodes[engine.node].holder], window: None }] };
        let shapes = engines.iter().map(shape).collect();
        let queue = Queue::new(settings.queue);
        let mut router = Router::new(settings).expect("sound settings");
        for engine in &engines {
            router.add_worker(WorkerProfile {
                node: engine.node.to_string(),
                block_bytes,
                device_blocks: blocks(machine.device_bytes) as u64,
                most_waiting_tokens: fleet.most_waiting_tokens,
                ..WorkerProfile::default()
            });
        }
        let mut clock = Clock::new();
        let (next, is_first) = sessions(trace);
        for (at, request) in trace.requests.iter().enumerate() {
            clock.at(request.at_ms as f64 * fleet.stretch, Event::Arrives(at));
        }
        let requests = trace.requests.len();
        let outcome = Outcome {
            ttft_ms: vec![0.0; requests],
            prompt_tokens: trace.requests.iter().map(|request| u64::from(request.input_tokens)).sum(),
            span_ms: trace.requests.last().map_or(0.0, |request| request.at_ms as f64 * fleet.stretch),
            ..Outcome::default()
        };
        Simulation {
            trace,
            machine,
            clock,
            engines,
            nodes,
            queue,
            front: Front { router, index, walk: Walk::default(), shapes, candidates: Vec::new(), knows_index },
            events: Events::new(machine.event_delay_ms, knows_index),
            came_ms: vec![0.0; requests],
            next,
            is_early: vec![false; requests],
            is_first,
            outcome,
        }
    }

    fn arrives(&mut self, at: usize) {
        if !self.is_first[at] {
            self.is_early[at] = true;
            return;
        }
        let now_ms = self.clock.now_ms();
        let request = &self.trace.requests[at];
        self.came_ms[at] = now_ms;
        let work = Work::of(request.input_tokens.into(), 0);
        let work_ms = self.front.router.speeds(WorkerId(0)).map_or(0.0, |speeds| speeds.prefill_ms(1, work));
        let waiting = Waiting { id: RequestId(at as u64), came_ms: now_ms, work_ms, hints: Hints::default(), what: at };
        if self.queue.push(now_ms, waiting).is_err() {
            self.outcome.refused += 1;
            self.release(at);
            return;
        }
        self.place();
    }

    /// Sends whoever waits where there is room.
    fn place(&mut self) {
        let now_ms = self.clock.now_ms();
        self.events.arrive(now_ms, &mut self.front.index);
        loop {
            let mut chosen = None;
            let (front, trace) = (&mut self.front, self.trace);
            let taken = self.queue.take(now_ms, |waiting| {
                chosen = front.route(now_ms, waiting.what, &trace.requests[waiting.what]);
                chosen.is_some()
            });
            let (Some(waiting), Some(worker)) = (taken, chosen) else { return };
            let engine = worker.0 as usize;
            self.engines[engine].waiting.push_back(waiting.what);
            self.admit(engine);
        }
    }

    fn admit(&mut self, at: usize) {
        let now_ms = self.clock.now_ms();
        while let Some(request) = self.engines[at].waiting.front().copied() {
            let prompt = prompt(self.trace, request);
            let engine = &mut self.engines[at];
            if !engine.has_room(&prompt) {
                break;
            }
            engine.waiting.pop_front();
            let node = &mut self.nodes[engine.node];
            let ready_ms = engine.admit(now_ms, request, &prompt, node, &self.machine, &mut self.events);
            if ready_ms > now_ms {
                self.clock.at(ready_ms, Event::Loaded(at));
            }
        }
        self.start(at);
    }

    fn start(&mut self, at: usize) {
        let trace = self.trace;
        let done = self.engines[at].start(self.clock.now_ms(), |request| prompt(trace, request), &self.machine, &mut self.events);
        if let Some(done_ms) = done {
            self.clock.at(done_ms, Event::Computed(at));
        }
    }

    fn computed(&mut self, at: usize) {
        let now_ms = self.clock.now_ms();
        let Some(request) = self.engines[at].computing.map(|job| job.request) else { return };
        let prompt = prompt(self.trace, request);
        let engine = &mut self.engines[at];
        let Some((job, answer_ms)) = engine.computed(now_ms, &prompt, &self.machine, &mut self.events) else { return };
        self.nodes[engine.node].store(now_ms, prompt.blocks, &mut self.events);
        self.outcome.ttft_ms[request] = now_ms - self.came_ms[request];
        for (tokens, blocks) in self.outcome.found_tokens.iter_mut().zip(job.found) {
            *tokens += blocks as u64 * prompt.block_tokens;
        }
        self.front.router.prefill_complete(now_ms, RequestId(request as u64), &measured(&job));
        self.clock.at(now_ms + answer_ms, Event::Finished(at, request));
        self.start(at);
        self.place();
    }

    fn finished(&mut self, at: usize, request: usize) {
        let output = self.trace.requests[request].output_tokens;
        self.engines[at].finished(&prompt(self.trace, request));
        self.front.router.finish(self.clock.now_ms(), RequestId(request as u64), Some(output));
        self.release(request);
        self.admit(at);
        self.place();
    }

    /// The session goes on.
    fn release(&mut self, request: usize) {
        let Some(next) = self.next[request] else { return };
        self.is_first[next] = true;
        if self.is_early[next] {
            self.clock.at(self.clock.now_ms(), Event::Arrives(next));
        }
    }
}

impl Front {
    /// Who takes a request; `None` when all have as much to do as they may.
    fn route(&mut self, now_ms: f64, at: usize, request: &Request) -> Option<WorkerId> {
        let locals: Vec<LocalHash> = whole_blocks(request).iter().map(|block| LocalHash(*block)).collect();
        self.candidates.clear();
        if self.knows_index {
            self.index.find_spans(&locals, &mut self.walk);
        }
        for (worker, shape) in (0..).zip(&self.shapes) {
            let known = if self.knows_index { Known::Exact(self.walk.reach(shape)) } else { Known::Unknown };
            self.candidates.push(Candidate { worker: WorkerId(worker), known });
        }
        let asked = RouteRequest {
            id: RequestId(at as u64),
            prompt_tokens: request.input_tokens,
            block_tokens: request.block_tokens,
            session: Session(u64::from(request.session) + 1),
            ..RouteRequest::default()
        };
        match self.router.route(now_ms, &asked, &locals, &self.candidates) {
            Ok(choice) => Some(choice.worker),
            Err(RouteError::Refused(_)) => None,
            Err(error) => panic!("request {at}: {error}"),
        }
    }
}

/// The request after each one of its session, and whether one is its session's first.
fn sessions(trace: &Trace) -> (Vec<Option<usize>>, Vec<bool>) {
    let (mut next, mut is_first) = (vec![None; trace.requests.len()], vec![true; trace.requests.len()]);
    let mut last: HashMap<u32, usize> = HashMap::new();
    for (at, request) in trace.requests.iter().enumerate() {
        if let Some(before) = last.insert(request.session, at) {
            next[before] = Some(at);
            is_first[at] = false;
        }
    }
    (next, is_first)
}

fn prompt(trace: &Trace, at: usize) -> Prompt<'_> {
    let request = &trace.requests[at];
    Prompt {
        blocks: whole_blocks(request),
        block_tokens: request.block_tokens.into(),
        input_tokens: request.input_tokens.into(),
        output_tokens: request.output_tokens.into(),
    }
}

/// What an engine says of a prompt: cached tokens as in its answer's usage, times as in its metrics.
fn measured(job: &Job) -> Measured {
    let [host, disk] = job.loading.map(|loading| (loading.blocks > 0).then_some((loading.bytes, loading.took_ms)));
    Measured {
        cached_tokens: Some(job.cached_tokens.try_into().unwrap_or(u32::MAX)),
        prefill_ms: Some(job.prefill_ms),
        loaded: [host, disk, None],
    }
}

#[cfg(test)]
mod tests;
