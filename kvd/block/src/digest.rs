//! One number that says what is resident, whatever the order in which it came.
//!
//! A publisher keeps the sum of one term per (block, medium) that is resident now; adding and removing are one addition
//! each. Whoever follows its events keeps the same sum and compares: equal sums and counts mean that nothing was lost.
//! It finds losses, not forgery: the terms are not keyed.
//!
//! ```text
//! term   = mix(name + layout + 0x9e3779b97f4a7c15 · (medium + 1))            64 bits, wrapping
//! name   = first 8 bytes of the block's hash, little-endian; layout likewise of the layout id
//! medium = 0 device, 1 host memory, 2 disk, 3 elsewhere
//! mix(x) = x ^= x >> 30; x *= 0xbf58476d1ce4e5b9; x ^= x >> 27; x *= 0x94d049bb133111eb; x ^= x >> 31
//! ```

use crate::hash::{LayoutId, SequenceHash};
use crate::tier::TierKind;

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Sum and number of what is resident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest {
    /// Wrapping sum of [`term`] over all that is resident.
    pub sum: u64,
    /// How many (block, medium) pairs are resident.
    pub count: u64,
}

impl Digest {
    /// A block came to a medium.
    pub fn add(&mut self, term: u64) {
        self.sum = self.sum.wrapping_add(term);
        self.count += 1;
    }

    /// A block left a medium.
    pub fn remove(&mut self, term: u64) {
        self.sum = self.sum.wrapping_sub(term);
        self.count = self.count.saturating_sub(1);
    }

    /// The digest of two sets that share nothing.
    pub fn and(self, other: Digest) -> Digest {
        Digest { sum: self.sum.wrapping_add(other.sum), count: self.count + other.count }
    }
}

/// What a block in a medium adds to the sum.
pub fn term(name: u64, layout: u64, medium: u8) -> u64 {
    mix(name.wrapping_add(layout).wrapping_add(STEP.wrapping_mul(u64::from(medium) + 1)))
}

/// What a block in a tier of this node adds to the sum.
pub fn term_in(hash: SequenceHash, layout: LayoutId, tier: TierKind) -> u64 {
    term(hash.table_hash(), layout.salt(), tier as u8 + 1)
}

/// A bijection of 64 bits after which every bit depends on every bit.
pub fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_what_left_is_gone() {
        let [a, b, c] = [term(1, 7, 1), term(2, 7, 1), term(1, 7, 2)];
        let mut one = Digest::default();
        [a, b, c].iter().for_each(|term| one.add(*term));
        one.remove(b);
        let mut other = Digest::default();
        [c, a].iter().for_each(|term| other.add(*term));
        assert_eq!(one, other);
        assert_ne!(a, c, "another medium is another term");
    }

    /// Consumers in other languages compute it, too: this vector may never change.
    #[test]
    fn the_recorded_vector_holds() {
        assert_eq!(term(1, 2, 1), 0xb346_6f8a_7b81_a989);
        let hash = |first| std::array::from_fn(|at| if at == 0 { first } else { 0 });
        assert_eq!(term_in(SequenceHash(hash(1)), LayoutId(hash(2)), TierKind::Cpu), 0xb346_6f8a_7b81_a989);
    }
}
