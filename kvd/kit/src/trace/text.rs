//! Traces that hold the prompts themselves, as LMCache's agent traces do: blocks are named by hashing the text.
//!
//! 256 characters stand for 64 tokens, four characters a token, the usual rule of thumb for English and code. A block's id is a hash
//! of its characters and of the id before it, so equal ids mean equal prefixes. 64 bits are enough to tell blocks of one trace
//! apart; nothing else is decided by them. A session is a run of lines with one `session_id` in one file, and its times
//! count from its first line: the files of an archive were recorded days apart.

use super::{Parse, Request, broken};
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const BLOCK_CHARACTERS: usize = 256;
const CHARACTERS_PER_TOKEN: usize = 4;
const BLOCK_TOKENS: u32 = (BLOCK_CHARACTERS / CHARACTERS_PER_TOKEN) as u32;

#[derive(Deserialize)]
struct Row {
    /// Microseconds.
    timestamp: u64,
    input: String,
    #[serde(default)]
    output: String,
    #[serde(default)]
    session_id: serde_json::Value,
}

struct Session {
    origin: String,
    id: serde_json::Value,
    number: u64,
    start_us: u64,
}

#[derive(Default)]
pub struct Text {
    session: Option<Session>,
}

impl Parse for Text {
    fn line(&mut self, origin: &str, text: &str) -> Result<Option<Request>, String> {
        let row: Row = serde_json::from_str(text).map_err(|error| broken(&error))?;
        let (session, start_us) = self.session(origin, &row);
        let tokens = |text: &str| text.chars().count().div_ceil(CHARACTERS_PER_TOKEN) as u64;
        Ok(Some(Request {
            at_ms: row.timestamp.saturating_sub(start_us) / 1000,
            session,
            blocks: names(&row.input),
            block_tokens: BLOCK_TOKENS,
            input_tokens: tokens(&row.input),
            output_tokens: tokens(&row.output),
            think_ms: 0,
        }))
    }
}

impl Text {
    fn session(&mut self, origin: &str, row: &Row) -> (u64, u64) {
        let goes_on = |session: &&Session| session.origin == origin && session.id == row.session_id;
        if let Some(session) = self.session.as_ref().filter(goes_on) {
            return (session.number, session.start_us);
        }
        let number = self.session.as_ref().map_or(0, |last| last.number + 1);
        let (origin, id, start_us) = (origin.to_owned(), row.session_id.clone(), row.timestamp);
        self.session = Some(Session { origin, id, number, start_us });
        (number, start_us)
    }
}

fn names(text: &str) -> Vec<u64> {
    let mut starts: Vec<usize> = text.char_indices().step_by(BLOCK_CHARACTERS).map(|(at, _)| at).collect();
    starts.push(text.len());
    let chain = |last: &mut u64, piece: &[usize]| {
        *last = xxh3_64_with_seed(&text.as_bytes()[piece[0]..piece[1]], *last);
        Some(*last)
    };
    starts.windows(2).scan(0, chain).collect()
}
