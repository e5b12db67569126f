//! What a routing decision costs in the process that asks for it: 64 workers, a prompt of 32k tokens in blocks of 16.
//!
//! Every worker has a part of the prompt's prefix and some requests, a thousand more prompts are in the index, and each decision is
//! reserved, completed and finished, as in service. Goal: 50 µs at p99 from tokens to worker.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use kvd_benches::{Report, Row, percentile};
use kvd_block::LocalHash;
use kvd_router::hash::{PromptIdentity, hash_prompt};
use kvd_router::index::{BlockName, Index, IndexLimits, Medium, NameDomain, Walk, WorkerShape};
use kvd_router::route::{Candidate, Known, Measured, RequestId, RouteRequest, RouteSettings, Router, WorkerId, WorkerProfile};
use std::time::Instant;

const WORKERS: u32 = 64;
const PROMPT_TOKENS: u32 = 32_768;
const BLOCK_TOKENS: u32 = 16;
const PROMPTS: u32 = 1_000;
const DECISIONS: u64 = 20_000;

struct Bench {
    index: Index,
    shapes: Vec<WorkerShape>,
    router: Router,
    walk: Walk,
    locals: Vec<LocalHash>,
    candidates: Vec<Candidate>,
}

/// What one decision took, in microseconds.
#[derive(Default)]
struct Took {
    hash: Vec<f64>,
    find: Vec<f64>,
    select: Vec<f64>,
    whole: Vec<f64>,
    book: Vec<f64>,
}

fn main() -> Result<()> {
    let mut bench = Bench::new()?;
    let mut took = Took::default();
    (0..DECISIONS).for_each(|decision| bench.decide(decision, &mut took));
    let mut report = Report::new("route_decision");
    let parts = [
        ("hash 32,768 tokens", took.hash),
        ("find the prefix, 64 workers", took.find),
        ("price 64 workers and choose", took.select),
        ("all three", took.whole),
        ("reserve, complete and finish", took.book),
    ];
    for (name, values) in parts {
        report.push(Row::alone(format!("{name}, p50"), "µs", &[percentile(&values, 0.5)]));
        report.push(Row::alone(format!("{name}, p99"), "µs", &[percentile(&values, 0.99)]));
    }
    report.publish().context("the report")
}

/// Tokens of one of the prompts: the first half is shared by all, as a system prompt and its tools are.
fn tokens(prompt: u32) -> Vec<u32> {
    (0..PROMPT_TOKENS).map(|at| if at < PROMPT_TOKENS / 2 { at } else { at.wrapping_mul(31).wrapping_add(prompt * 7_919) }).collect()
}

impl Bench {
    fn new() -> Result<Bench> {
        let mut bench = Bench {
            index: Index::new(IndexLimits::default()),
            shapes: Vec::new(),
            router: Router::new(RouteSettings::default())?,
            walk: Walk::default(),
            locals: Vec::new(),
            candidates: Vec::new(),
        };
        let holders: Vec<_> = (0..WORKERS).map(|worker| bench.index.add_holder(NameDomain(0), worker.into())).collect::<Result<_, _>>()?;
        for holder in &holders {
            bench.shapes.push(WorkerShape::simple(*holder));
            bench.router.add_worker(WorkerProfile { block_bytes: 2 << 20, ..WorkerProfile::default() });
        }
        for prompt in 0..PROMPTS {
            let mut locals = Vec::new();
            hash_prompt(&tokens(prompt), BLOCK_TOKENS as usize, &PromptIdentity::default(), &[], &mut locals);
            // Names need only be equal where prefixes are.
            let names = locals.iter().scan(0u64, |chain, local| {
                *chain = (*chain ^ local.0).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
                Some(BlockName(*chain))
            });
            let names: Vec<BlockName> = names.collect();
            let has = locals.len() * (prompt as usize % 10 + 1) / 10;
            bench.index.store(holders[(prompt % WORKERS) as usize], Medium::Device, None, &names[..has], &locals[..has]);
        }
        Ok(bench)
    }

    fn decide(&mut self, decision: u64, took: &mut Took) {
        let tokens = tokens((decision % u64::from(PROMPTS)) as u32);
        let started = Instant::now();
        self.locals.clear();
        hash_prompt(&tokens, BLOCK_TOKENS as usize, &PromptIdentity::default(), &[], &mut self.locals);
        let hashed = Instant::now();
        self.index.find(&self.locals, &mut self.walk);
        self.candidates.clear();
        let reach = self.shapes.iter().map(|shape| Known::Exact(self.walk.reach(shape)));
        self.candidates.extend((0..).zip(reach).map(|(worker, known)| Candidate { worker: WorkerId(worker), known }));
        let found = Instant::now();
        let id = RequestId(decision);
        let request = RouteRequest { id, prompt_tokens: PROMPT_TOKENS, block_tokens: BLOCK_TOKENS, ..RouteRequest::default() };
        let now_ms = decision as f64 * 20.0;
        let choice = self.router.select(now_ms, &request, &self.locals, &self.candidates).expect("nobody is full");
        let chosen = Instant::now();
        self.router.reserve(now_ms, &request, &self.locals, choice.worker, &choice.terms).expect("room");
        // Some hundred requests are always under way.
        if let Some(older) = decision.checked_sub(100) {
            self.router.prefill_complete(now_ms, RequestId(older), &Measured::default());
        }
        if let Some(oldest) = decision.checked_sub(400) {
            self.router.finish(now_ms, RequestId(oldest), Some(200));
        }
        let booked = Instant::now();
        let us = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e6;
        took.hash.push(us(started, hashed));
        took.find.push(us(hashed, found));
        took.select.push(us(found, chosen));
        took.whole.push(us(started, chosen));
        took.book.push(us(chosen, booked));
    }
}
