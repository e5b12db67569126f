//! The 64-bit hashes routers match prompts by, equal to those of NVIDIA Dynamo 1.6.1, so that its clients can ask by hash.
//!
//! Blocks carry their [`local`] hash. The chained form, `route`, is only for who asks by it.
//!
//! ```text
//! seed   = 1337 (+ xxh3_64(lora, 0)) (+ xxh3_64(salt, 1))          additions wrap
//! local  = xxh3_64(u32-LE tokens ‖ u64-LE multimodal hashes, seed)
//! route₀ = local₀          routeᵢ = xxh3_64(LE routeᵢ₋₁ ‖ LE localᵢ, 1337)
//! ```

use xxhash_rust::xxh3::xxh3_64_with_seed;

const SEED: u64 = 1337;

/// The seed of every local hash of a sequence with this LoRA name and cache salt; empty means none.
pub fn seed(lora: &str, salt: &str) -> u64 {
    let mut seed = SEED;
    if !lora.is_empty() {
        seed = seed.wrapping_add(xxh3_64_with_seed(lora.as_bytes(), 0));
    }
    if !salt.is_empty() {
        seed = seed.wrapping_add(xxh3_64_with_seed(salt.as_bytes(), 1));
    }
    seed
}

/// The hash of one block's own content: little-endian tokens, then multimodal hashes.
pub fn local(token_bytes: &[u8], seed: u64) -> u64 {
    xxh3_64_with_seed(token_bytes, seed)
}

/// The chained hash of a block whose parent has chained hash `parent` (`None` for the first block).
pub fn link(parent: Option<u64>, local: u64) -> u64 {
    let Some(parent) = parent else { return local };
    let mut pair = [0; 16];
    pair[..8].copy_from_slice(&parent.to_le_bytes());
    pair[8..].copy_from_slice(&local.to_le_bytes());
    xxh3_64_with_seed(&pair, SEED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(tokens: [u32; 4], lora: &str, salt: &str) -> u64 {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        local(&bytes, seed(lora, salt))
    }

    #[test]
    fn published_vectors_hold() {
        let [a, b, c] = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]].map(|tokens| block(tokens, "", ""));
        assert_eq!(a, 14643705804678351452);
        assert_eq!(b, 16777012769546811212);
        assert_eq!(c, 483935686894639516);
        let two = link(Some(link(None, a)), b);
        assert_eq!(two, 4945711292740353085);
        assert_eq!(link(Some(two), c), 12583592247330656132);
        assert_eq!(block([1, 2, 3, 4], "adapter-a", ""), 11381080598872079209);
        assert_eq!(block([1, 2, 3, 4], "", "tenant-a"), 5738685477468498325);
        assert_eq!(block([1, 2, 3, 4], "adapter-a", "tenant-a"), 9967753091837871098);
    }
}
