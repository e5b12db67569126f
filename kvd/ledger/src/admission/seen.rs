//! Whether a block was stored before, in a fixed amount of memory: two generations of a Bloom filter.
//!
//! The younger one takes names until it holds as many as it is made for; then the older one is emptied and becomes the younger.
//! With eight bits and two probes a name, about one new block in twenty is taken for an old one.

const BITS_PER_NAME: u64 = 8;
const SPREAD: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xD6E8_FEB8_6659_FD93];

#[derive(Debug)]
pub(super) struct Seen {
    generations: [Vec<u64>; 2],
    shift: u32,
    held: u64,
    limit: u64,
}

impl Seen {
    /// `names` is a power of two of at least eight.
    pub fn new(names: u64) -> Seen {
        assert!(names.is_power_of_two() && names >= 8, "bits are chosen by bits of the name");
        let bits = names * BITS_PER_NAME;
        let empty = vec![0; (bits / u64::from(u64::BITS)) as usize];
        Seen { generations: [empty.clone(), empty], shift: u64::BITS - bits.ilog2(), held: 0, limit: names }
    }

    /// Adds a name; true when it was there already.
    pub fn insert(&mut self, name: u64) -> bool {
        let places = SPREAD.map(|spread| {
            let bit = name.wrapping_mul(spread) >> self.shift;
            ((bit / u64::from(u64::BITS)) as usize, 1u64 << (bit % u64::from(u64::BITS)))
        });
        let holds = |words: &[u64]| places.iter().all(|(at, bit)| words[*at] & bit != 0);
        let (young, old) = (holds(&self.generations[0]), holds(&self.generations[1]));
        if !young {
            places.iter().for_each(|(at, bit)| self.generations[0][*at] |= bit);
            self.held += 1;
        }
        if self.held == self.limit {
            self.generations.swap(0, 1);
            self.generations[0].fill(0);
            self.held = 0;
        }
        young || old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_the_second_time() {
        let mut seen = Seen::new(1024);
        let fresh = (1..=500u64).filter(|name| !seen.insert(name.wrapping_mul(0x1234_5678_9ABC_DEF1))).count();
        assert!(fresh > 450, "{fresh} of 500 were new");
        assert!((1..=500u64).all(|name| seen.insert(name.wrapping_mul(0x1234_5678_9ABC_DEF1))));
    }

    #[test]
    fn names_of_long_ago_are_forgotten() {
        let mut seen = Seen::new(64);
        let name = |at: u64| at.wrapping_mul(0x1234_5678_9ABC_DEF1);
        seen.insert(name(1));
        (2..1_000).for_each(|at| {
            seen.insert(name(at));
        });
        let known = (1..20).filter(|at| seen.insert(name(*at))).count();
        assert!(known < 10, "{known} of 19 are still known");
    }
}
