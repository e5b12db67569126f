//! Prompts into local hashes: one 64-bit hash per whole block of tokens, equal to those of NVIDIA Dynamo 1.6.1.
//!
//! Blocks are hashed on their own, so a prompt hashes at the speed of XXH3; the index follows them from block to block, and
//! needs no hash of the whole prefix.

use kvd_block::{LocalHash, route};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What separates prompts whose tokens are equal but whose KV is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptIdentity {
    /// Name of the LoRA adapter; empty for the base model.
    pub lora: String,
    /// Cache salt of the tenant; empty for none.
    pub salt: String,
}

/// A piece of a prompt that is not text: its content's hash, and the tokens it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaSpan {
    /// Hash of the content.
    pub hash: u64,
    /// First placeholder token.
    pub from_token: usize,
    /// One past the last.
    pub to_token: usize,
}

/// Appends the hash of each whole block of `tokens` to `hashes`. The tail that fills no block has no hash.
///
/// A block that overlaps a [`MediaSpan`] has the hashes of all of them mixed in, sorted.
///
/// # Panics
/// When `block_tokens` is 0.
pub fn hash_prompt(tokens: &[u32], block_tokens: usize, identity: &PromptIdentity, media: &[MediaSpan], hashes: &mut Vec<LocalHash>) {
    let seed = route::seed(&identity.lora, &identity.salt);
    let blocks = tokens.chunks_exact(block_tokens);
    // Tokens lie in memory as they are hashed: without media they are hashed where they are.
    if cfg!(target_endian = "little") && media.is_empty() {
        hashes.extend(blocks.map(|block| LocalHash(xxh3_64_with_seed(bytemuck::cast_slice(block), seed))));
        return;
    }
    let mut bytes = Vec::new();
    for (position, block) in blocks.enumerate() {
        let inside = hashes_inside(media, position * block_tokens, (position + 1) * block_tokens);
        bytes.clear();
        bytes.extend(block.iter().flat_map(|token| token.to_le_bytes()));
        bytes.extend(inside.iter().flat_map(|hash| hash.to_le_bytes()));
        hashes.push(LocalHash(xxh3_64_with_seed(&bytes, seed)));
    }
}

/// Content hashes of what overlaps a block, sorted.
fn hashes_inside(media: &[MediaSpan], from: usize, to: usize) -> Vec<u64> {
    let mut inside: Vec<u64> = media.iter().filter(|span| span.from_token < to && span.to_token > from).map(|span| span.hash).collect();
    inside.sort_unstable();
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(tokens: &[u32], identity: &PromptIdentity, media: &[MediaSpan]) -> Vec<u64> {
        let mut hashes = Vec::new();
        hash_prompt(tokens, 4, identity, media, &mut hashes);
        hashes.into_iter().map(|hash| hash.0).collect()
    }

    #[test]
    fn whole_blocks_are_hashed_as_dynamo_does() {
        let tokens: Vec<u32> = (1..=11).collect();
        assert_eq!(hashes(&tokens, &PromptIdentity::default(), &[]), [14643705804678351452, 16777012769546811212]);
        let tenant = PromptIdentity { lora: "adapter-a".into(), salt: "tenant-a".into() };
        assert_eq!(hashes(&tokens[..4], &tenant, &[]), [9967753091837871098]);
    }

    #[test]
    fn an_image_changes_the_blocks_it_covers_only() {
        let tokens = [0u32; 12];
        let image = MediaSpan { hash: 7, from_token: 5, to_token: 8 };
        let (plain, seen) = (hashes(&tokens, &PromptIdentity::default(), &[]), hashes(&tokens, &PromptIdentity::default(), &[image]));
        assert_eq!((plain[0], plain[2]), (seen[0], seen[2]));
        assert_ne!(plain[1], seen[1]);
    }
}
