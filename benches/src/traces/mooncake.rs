//! Mooncake's traces: `{timestamp ms, input_length, output_length, hash_ids}`, 512 tokens a block.
//!
//! The identifiers stand for chained hashes already. The last block of a prompt is often not full; it counts with the tokens it has.

use super::{Request, Trace, chain, json_lines, text};
use anyhow::Result;
use serde::Deserialize;
use std::path::Path;

const BLOCK_TOKENS: u32 = 512;

#[derive(Deserialize)]
struct Line {
    timestamp: u64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

pub(super) fn load(file: &Path) -> Result<Trace> {
    let text = text(file)?;
    let requests = json_lines::<Line>(&text).zip(0..).map(|(line, session)| line.map(|line| request(line, session)));
    let name = if file.to_string_lossy().contains("arxiv") { "arxiv" } else { "conversation" };
    Ok(Trace::new(name, requests.collect::<Result<_>>()?))
}

fn request(line: Line, session: u32) -> Request {
    let blocks = line.hash_ids.iter().scan(0, |parent, id| {
        *parent = chain(*parent, *id);
        Some(*parent)
    });
    Request {
        at_ms: line.timestamp,
        blocks: blocks.collect(),
        block_tokens: BLOCK_TOKENS,
        input_tokens: line.input_length,
        output_tokens: line.output_length,
        session,
    }
}
