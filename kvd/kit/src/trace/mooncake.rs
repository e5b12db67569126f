//! Mooncake's format: one request a line, `hash_ids` global to the trace, 512 tokens a block.
//!
//! The last id stands for what is left of the input after its whole blocks.

use super::{Parse, Request, broken};
use serde::Deserialize;

const BLOCK_TOKENS: u32 = 512;

#[derive(Deserialize)]
struct Row {
    timestamp: f64,
    input_length: u64,
    output_length: u64,
    hash_ids: Vec<u64>,
}

#[derive(Default)]
pub struct Mooncake {
    next_session: u64,
}

impl Parse for Mooncake {
    fn line(&mut self, _: &str, text: &str) -> Result<Option<Request>, String> {
        let row: Row = serde_json::from_str(text).map_err(|error| broken(&error))?;
        let blocks = row.input_length.div_ceil(u64::from(BLOCK_TOKENS));
        if row.hash_ids.len() as u64 != blocks {
            let (ids, length) = (row.hash_ids.len(), row.input_length);
            return Err(format!("{ids} hash_ids for an input_length of {length}: at {BLOCK_TOKENS} tokens each it must be {blocks}"));
        }
        if row.timestamp < 0.0 {
            return Err(format!("the timestamp {} is negative", row.timestamp));
        }
        let session = self.next_session;
        self.next_session += 1;
        Ok(Some(Request {
            at_ms: row.timestamp as u64,
            session,
            blocks: row.hash_ids,
            block_tokens: BLOCK_TOKENS,
            input_tokens: row.input_length,
            output_tokens: row.output_length,
            think_ms: 0,
        }))
    }
}
