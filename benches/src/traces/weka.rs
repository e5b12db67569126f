//! Sessions of coding agents (kv-cache-tester): a meta row a session, then its requests with blocks of 64 tokens as runs of numbers.
//!
//! * Numbers are local to a session, so sessions share nothing here, though in truth they share tools and system prompts.
//! * Times are local to a session too. Sessions start as a Poisson process, one a minute on average, from a fixed seed: about 160
//!   are open at once, most of them idle, as on a node that serves a group of developers.
//! * Eight blocks of 64 tokens are made one of 512, so that this trace can be replayed often; what is left of a prompt behind
//!   the last whole block is in no block, as in an engine.

use super::{Request, Trace, chain, json_lines, mix, text};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

const NUMBERS_PER_BLOCK: usize = 8;
const NUMBER_TOKENS: u32 = 64;
const SECONDS_BETWEEN_SESSIONS: f64 = 60.0;
const SEED: u64 = 1;

#[derive(Deserialize)]
struct Line {
    trace: String,
    #[serde(default)]
    meta: bool,
    #[serde(default)]
    t: f64,
    #[serde(default, rename = "in")]
    input_tokens: u32,
    #[serde(default, rename = "out")]
    output_tokens: u32,
    #[serde(default)]
    runs: Vec<(u64, u64)>,
}

pub(super) fn load(file: &Path) -> Result<Trace> {
    let text = text(file)?;
    let mut starts: HashMap<String, (u32, f64)> = HashMap::new();
    let (mut clock_s, mut requests) = (0.0, Vec::new());
    for (at, line) in json_lines::<Line>(&text).enumerate() {
        let line = line?;
        if line.meta {
            clock_s += pause_s(starts.len() as u64);
            starts.insert(line.trace, (starts.len() as u32, clock_s));
        } else {
            let (session, start_s) = *starts.get(&line.trace).with_context(|| format!("row {}: no meta row before it", at + 1))?;
            requests.push(request(&line, session, start_s));
        }
    }
    Ok(Trace::new("agentic coding", requests))
}

fn pause_s(session: u64) -> f64 {
    let uniform = (mix((SEED + session).wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 11) as f64 / (1u64 << 53) as f64;
    -(1.0 - uniform).ln() * SECONDS_BETWEEN_SESSIONS
}

fn request(line: &Line, session: u32, start_s: f64) -> Request {
    let numbers: Vec<u64> = line.runs.iter().flat_map(|(first, count)| *first..first + count).collect();
    let blocks = numbers.chunks_exact(NUMBERS_PER_BLOCK).scan(mix(u64::from(session) + 1), |parent, numbers| {
        *parent = numbers.iter().fold(*parent, |name, number| chain(name, *number));
        Some(*parent)
    });
    Request {
        at_ms: ((start_s + line.t) * 1000.0) as u64,
        blocks: blocks.collect(),
        block_tokens: NUMBER_TOKENS * NUMBERS_PER_BLOCK as u32,
        input_tokens: line.input_tokens,
        output_tokens: line.output_tokens,
        session,
    }
}
