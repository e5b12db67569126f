//! From the blocks of a trace to kvd's: other sizes, and names that depend on everything before.
//!
//! A trace block is cut into whole kvd blocks. Its tokens are invented from its id, so equal ids give equal tokens and the chain of
//! `kvd_block` gives the names that an engine would compute.

use crate::trace::Request;
use kvd_block::{ChainIdentity, LayoutSpec};
use kvd_connector::RequestChain;

use super::error::BenchError;
use super::plan::Plan;

/// Blocks are made as large as they can be without passing this.
const WANTED_PAYLOAD_BYTES: u64 = 3 << 20;
/// Nine of ten inputs of the published traces are not longer.
const LONG_INPUT_TOKENS: u64 = 32 << 10;
/// Engines do not use fewer tokens a block.
const LEAST_BLOCK_TOKENS: u32 = 16;

/// Tokens of one kvd block: the trace's own, halved until the payload is at most 3 MiB, and not below 16.
pub fn default_block_tokens(trace_block_tokens: u32, bytes_per_token: u64) -> u32 {
    let mut tokens = trace_block_tokens;
    while tokens.is_multiple_of(2) && tokens / 2 >= LEAST_BLOCK_TOKENS && u64::from(tokens) * bytes_per_token > WANTED_PAYLOAD_BYTES {
        tokens /= 2;
    }
    tokens
}

/// Memory for blocks when nobody says how much: the prefixes of all requests under way, since all of a prefix stays while its end is
/// being loaded. From 512 MiB to a quarter of `memory_bytes`.
pub fn default_arena_bytes(bytes_per_token: u64, concurrency: usize, most_input_tokens: Option<u64>, memory_bytes: u64) -> u64 {
    let tokens = most_input_tokens.unwrap_or(LONG_INPUT_TOKENS).min(LONG_INPUT_TOKENS);
    let wanted = bytes_per_token.saturating_mul(tokens).saturating_mul(concurrency as u64).saturating_mul(3) / 2;
    wanted.min(memory_bytes / 4).max(512 << 20) >> 20 << 20
}

/// The layout of the blocks that `plan` asks for, with a trace cut into blocks of `trace_block_tokens`.
pub fn layout(plan: &Plan, trace_block_tokens: u32) -> Result<LayoutSpec, BenchError> {
    let bytes_per_token = plan.model.bytes_per_token();
    let block_tokens = plan.block_tokens.unwrap_or_else(|| default_block_tokens(trace_block_tokens, bytes_per_token));
    if block_tokens == 0 || !trace_block_tokens.is_multiple_of(block_tokens) {
        return Err(BenchError::Choice(format!(
            "--block-tokens {block_tokens}: the trace has blocks of {trace_block_tokens} tokens, which must be whole multiples of it"
        )));
    }
    let (ranks, payload_bytes) = (plan.model.stripes(plan.tp)?, bytes_per_token * u64::from(block_tokens));
    if !payload_bytes.is_multiple_of(u64::from(ranks)) {
        return Err(BenchError::Choice(format!("--tp {ranks}: a block of {payload_bytes} bytes cannot be split into {ranks} equal parts")));
    }
    let spec = LayoutSpec {
        model: plan.model.name.clone(),
        weights: "kvd-bench".into(),
        kv_dtype: plan.kv_dtype.clone(),
        block_tokens,
        group: 0,
        attention: plan.model.attention().into(),
        geometry: "kvd-bench: synthesized".into(),
        ranks,
        stripe_bytes: payload_bytes / u64::from(ranks),
    };
    spec.validate().map_err(|error| BenchError::Choice(error.to_string()))?;
    Ok(spec)
}

/// The names of a request's whole blocks. Only tokens that the trace has a block for count, `most_tokens` of them at most.
///
/// # Errors
/// When the request's blocks are no multiples of kvd's.
pub fn chain(request: &Request, block_tokens: u32, most_tokens: Option<u64>) -> Result<RequestChain, String> {
    let size = u64::from(request.block_tokens);
    if !request.block_tokens.is_multiple_of(block_tokens) {
        return Err(format!("a request with blocks of {size} tokens, which are no multiple of {block_tokens}"));
    }
    let mut chain = RequestChain::new(block_tokens as usize, &ChainIdentity::default(), Vec::new());
    let mut left = request.input_tokens.min(most_tokens.unwrap_or(u64::MAX));
    let mut tokens = Vec::with_capacity(size as usize);
    for id in &request.blocks {
        let count = size.min(left) / u64::from(block_tokens) * u64::from(block_tokens);
        tokens.clear();
        tokens.extend((0..count).map(|index| token(*id, index)));
        chain.extend(&tokens);
        left -= size.min(left);
    }
    Ok(chain)
}

fn token(id: u64, index: u64) -> u32 {
    let mixed = (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvd_block::SequenceHash;

    fn names(blocks: &[u64], input_tokens: u64, block_tokens: u32, most: Option<u64>) -> Vec<SequenceHash> {
        let request = Request { blocks: blocks.to_vec(), block_tokens: 512, input_tokens, ..Request::default() };
        chain(&request, block_tokens, most).unwrap().hashes(0..usize::MAX).collect()
    }

    #[test]
    fn blocks_are_as_large_as_is_useful() {
        assert_eq!(default_block_tokens(512, 128 << 10), 16);
        assert_eq!(default_block_tokens(512, 32 << 10), 64);
        assert_eq!(default_block_tokens(64, 61 * 576 * 2), 32);
        assert_eq!(default_block_tokens(512, 1 << 10), 512);
        assert_eq!(default_block_tokens(512, 504 << 10), 16);
        assert_eq!(default_block_tokens(24, 1 << 20), 24);
    }

    #[test]
    fn memory_holds_the_prefixes_under_way_and_no_more_than_a_quarter() {
        let of = |concurrency, most, memory_gib: u64| default_arena_bytes(128 << 10, concurrency, most, memory_gib << 30) >> 20;
        assert_eq!(of(4, Some(8192), 64), 6 * 1024);
        assert_eq!(of(4, None, 32), 8 * 1024);
        assert_eq!(of(1, Some(16), 32), 512);
    }

    #[test]
    fn equal_ids_in_equal_places_have_equal_names() {
        let (one, two) = (names(&[1, 2, 3], 1536, 128, None), names(&[1, 2, 9], 1536, 128, None));
        assert_eq!(one.len(), 12);
        assert_eq!(one[..8], two[..8]);
        assert!(one[8..].iter().all(|name| !two.contains(name)));
        assert_ne!(names(&[2, 1], 1024, 128, None)[0], one[0]);
    }

    #[test]
    fn only_whole_blocks_of_known_tokens_are_named() {
        assert_eq!(names(&[1, 2], 600, 64, None).len(), 9);
        assert_eq!(names(&[1, 2], 5000, 512, None).len(), 2);
        assert_eq!(names(&[1, 2], 1024, 64, Some(200)).len(), 3);
    }

    #[test]
    fn a_part_of_a_trace_block_has_the_names_of_the_whole_one() {
        assert_eq!(names(&[1, 2], 600, 64, None)[..], names(&[1, 2], 1024, 64, None)[..9]);
    }

    #[test]
    fn blocks_that_do_not_divide_are_refused() {
        let request = Request { blocks: vec![1], block_tokens: 512, input_tokens: 512, ..Request::default() };
        assert!(chain(&request, 48, None).unwrap_err().contains("no multiple of 48"));
    }
}
