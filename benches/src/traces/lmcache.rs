//! LMCache's agent traces: the whole text of each prompt, `{timestamp µs, input, …}`, three sets in one archive.
//!
//! There are no tokens: a block is 256 characters, a token is a character. What is left behind the last whole block is in no block.
//! Each set is a trace of its own, because they were recorded on different days.

use super::{Request, Trace, chain, json_lines};
use anyhow::Result;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

const BLOCK_CHARACTERS: usize = 256;

#[derive(Deserialize)]
struct Line {
    timestamp: u64,
    input: String,
    #[serde(default)]
    output: String,
}

pub(super) fn load(file: &Path) -> Result<Vec<Trace>> {
    let archive = std::fs::File::open(file)?;
    let mut archive = tar::Archive::new(lzma_rust2::XzReader::new(std::io::BufReader::new(archive), true));
    let mut sets: BTreeMap<String, Vec<Request>> = BTreeMap::new();
    for (session, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let set = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut text = String::new();
        entry.read_to_string(&mut text)?;
        for line in json_lines::<Line>(&text) {
            sets.entry(set.clone()).or_default().push(request(&line?, session as u32));
        }
    }
    Ok(sets.into_iter().map(|(set, requests)| Trace::new(&set, requests)).collect())
}

fn request(line: &Line, session: u32) -> Request {
    let characters: Vec<char> = line.input.chars().collect();
    let blocks = characters.chunks_exact(BLOCK_CHARACTERS).scan(0, |parent, block| {
        *parent = block.iter().fold(*parent, |name, character| chain(name, u64::from(*character)));
        Some(*parent)
    });
    Request {
        at_ms: line.timestamp / 1000,
        blocks: blocks.collect(),
        block_tokens: BLOCK_CHARACTERS as u32,
        input_tokens: characters.len() as u32,
        output_tokens: line.output.chars().count() as u32,
        session,
    }
}
