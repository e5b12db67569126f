//! The blocks of one request, named as its tokens grow.
//!
//! Only whole blocks have names; the tokens of an unfinished block wait. Whatever else changes the KV of some
//! tokens (an image, an audio clip) is given up front as ranges of tokens with bytes that identify the content:
//!
//! ```text
//! extra of a block = for each item that overlaps it, by start:
//!                    i64-LE (item's first token − block's first token) ‖ u32-LE length ‖ bytes
//! ```
//!
//! The offset is part of it because placeholder tokens are all alike: the second half of an image is not its first.

use kvd_block::{ChainIdentity, HashChain, LinkedBlock, SequenceHash};
use kvd_proto::local::NewBlock;
use std::ops::Range;

/// Content that stands behind a range of tokens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extra {
    /// First token.
    pub start: usize,
    /// One past the last token.
    pub end: usize,
    /// Identifies the content: a digest of the image, for one.
    pub bytes: Vec<u8>,
}

/// The chain of one request.
#[derive(Debug, Clone)]
pub struct RequestChain {
    chain: HashChain,
    tokens: Vec<u32>,
    blocks: Vec<LinkedBlock>,
    extras: Vec<Extra>,
}

impl RequestChain {
    /// Starts a chain. The order of `extras` does not matter.
    ///
    /// # Panics
    /// When `block_tokens` is zero.
    pub fn new(block_tokens: usize, identity: &ChainIdentity, mut extras: Vec<Extra>) -> RequestChain {
        assert!(block_tokens > 0, "a block has at least one token");
        extras.sort();
        RequestChain { chain: HashChain::new(block_tokens, identity), tokens: Vec::new(), blocks: Vec::new(), extras }
    }

    /// Appends tokens and names every block they complete. Returns how many blocks are named.
    pub fn extend(&mut self, tokens: &[u32]) -> usize {
        self.tokens.extend_from_slice(tokens);
        let block_tokens = self.chain.block_tokens();
        let mut start = self.blocks.len() * block_tokens;
        while start + block_tokens <= self.tokens.len() {
            let range = start..start + block_tokens;
            let extra = extra_of(&self.extras, &range);
            self.blocks.push(self.chain.push(&self.tokens[range], &extra));
            start += block_tokens;
        }
        self.blocks.len()
    }

    /// Tokens given so far.
    pub fn num_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Whole blocks named so far.
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Names of the blocks of `range`; what is past the end is left out.
    pub fn hashes(&self, range: Range<usize>) -> impl Iterator<Item = SequenceHash> + '_ {
        let end = range.end.min(self.blocks.len());
        self.blocks[range.start.min(end)..end].iter().map(|block| block.hash)
    }

    /// Block `index` as the daemon wants it for a store; `None` past the end.
    pub fn new_block(&self, index: usize) -> Option<NewBlock> {
        let LinkedBlock { hash, parent, local, position } = *self.blocks.get(index)?;
        let first = index * self.chain.block_tokens();
        let tokens = &self.tokens[first..first + self.chain.block_tokens()];
        Some(NewBlock { hash, parent, local, position, tokens: tokens.iter().flat_map(|token| token.to_le_bytes()).collect() })
    }

    /// The blocks of `range`; what is past the end is left out.
    pub fn new_blocks(&self, range: Range<usize>) -> Vec<NewBlock> {
        range.map_while(|index| self.new_block(index)).collect()
    }
}

fn extra_of(extras: &[Extra], block: &Range<usize>) -> Vec<u8> {
    let mut out = Vec::new();
    for item in extras.iter().take_while(|item| item.start < block.end).filter(|item| item.end > block.start) {
        out.extend((item.start as i64 - block.start as i64).to_le_bytes());
        out.extend((item.bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&item.bytes);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(extras: Vec<Extra>) -> RequestChain {
        RequestChain::new(4, &ChainIdentity::default(), extras)
    }

    fn image(start: usize, end: usize, bytes: &[u8]) -> Extra {
        Extra { start, end, bytes: bytes.to_vec() }
    }

    fn names(chain: &RequestChain) -> Vec<SequenceHash> {
        chain.hashes(0..usize::MAX).collect()
    }

    #[test]
    fn half_a_block_waits_for_its_tokens() {
        let mut grown = chain(vec![]);
        assert_eq!(grown.extend(&[1, 2, 3]), 0);
        assert_eq!(grown.extend(&[4, 5]), 1);
        assert_eq!(grown.extend(&[6, 7, 8, 9]), 2);
        let mut whole = chain(vec![]);
        whole.extend(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(names(&grown), names(&whole));
        assert_eq!((grown.num_tokens(), whole.num_tokens()), (9, 8));
    }

    #[test]
    fn a_new_block_carries_its_tokens_and_its_parent() {
        let mut chain = chain(vec![]);
        chain.extend(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let blocks = chain.new_blocks(0..5);
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[1].parent, blocks[0].hash);
        assert_eq!(blocks[1].tokens[..4], 5u32.to_le_bytes());
    }

    #[test]
    fn an_image_changes_its_own_block_and_those_after_it() {
        let (mut with, mut without) = (chain(vec![image(4, 6, b"cat")]), chain(vec![]));
        for chain in [&mut with, &mut without] {
            chain.extend(&[0; 12]);
        }
        let equal: Vec<bool> = names(&with).iter().zip(names(&without)).map(|(a, b)| *a == b).collect();
        assert_eq!(equal, [true, false, false]);
    }

    #[test]
    fn the_same_image_one_token_later_is_another_block() {
        let (mut early, mut late) = (chain(vec![image(1, 3, b"cat")]), chain(vec![image(2, 4, b"cat")]));
        early.extend(&[0; 4]);
        late.extend(&[0; 4]);
        assert_ne!(names(&early), names(&late));
    }

    #[test]
    fn the_order_in_which_images_are_listed_does_not_matter() {
        let (a, b) = (image(0, 2, b"cat"), image(2, 8, b"dog"));
        let (mut left, mut right) = (chain(vec![a.clone(), b.clone()]), chain(vec![b, a]));
        left.extend(&[0; 8]);
        right.extend(&[0; 8]);
        assert_eq!(names(&left), names(&right));
    }
}
