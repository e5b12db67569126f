//! The bytes of a block, made from its name: whoever knows the name knows every byte, and needs to keep none.
//!
//! Each 4 KiB page is a piece of a table of noise, exclusive-ored with 64 bytes drawn from the block's name, the stripe
//! and the page's number. So no two pages of any two blocks are equal, nothing in a page repeats, and storage that compresses or
//! deduplicates gains nothing; and a byte in the wrong place is a wrong byte. The table stays in the second-level cache: making
//! and checking run at the speed of memory.

use kvd_block::SequenceHash;

const PAGE_BYTES: usize = 4096;
const MASK_BYTES: usize = 64;
const TABLE_BYTES: usize = 64 << 10;

/// Makes and checks payloads.
#[derive(Debug)]
pub struct Payload {
    noise: Vec<u8>,
    compressible: bool,
}

impl Payload {
    /// `compressible`: every second 64 bytes are zero, so that storage which compresses gets half.
    pub fn new(compressible: bool) -> Payload {
        let mut state = 0x6b76_6420_6e6f_6973;
        let noise = (0..TABLE_BYTES / 8).flat_map(|_| next(&mut state).to_le_bytes()).collect();
        Payload { noise, compressible }
    }

    /// Writes the bytes of `stripe` of the block named `hash`.
    pub fn fill(&self, hash: SequenceHash, stripe: u16, bytes: &mut [u8]) {
        for (number, page) in bytes.chunks_mut(PAGE_BYTES).enumerate() {
            let (noise, mask) = self.page(hash, stripe, number);
            for (index, (to, from)) in page.chunks_mut(MASK_BYTES).zip(noise.chunks(MASK_BYTES)).enumerate() {
                match <&mut [u8; MASK_BYTES]>::try_from(&mut *to) {
                    _ if self.is_zero(index) => to.fill(0),
                    Ok(to) => to.iter_mut().zip(from).zip(&mask).for_each(|((to, from), mask)| *to = from ^ mask),
                    Err(_) => to.iter_mut().zip(from).zip(&mask).for_each(|((to, from), mask)| *to = from ^ mask),
                }
            }
        }
    }

    /// How many of these bytes are not those of `stripe` of the block named `hash`.
    pub fn wrong_bytes(&self, hash: SequenceHash, stripe: u16, bytes: &[u8]) -> u64 {
        bytes.chunks(PAGE_BYTES).enumerate().map(|(number, page)| self.wrong_in_page(hash, stripe, number, page)).sum()
    }

    fn wrong_in_page(&self, hash: SequenceHash, stripe: u16, number: usize, page: &[u8]) -> u64 {
        let (noise, mask) = self.page(hash, stripe, number);
        let pieces = || page.chunks(MASK_BYTES).zip(noise.chunks(MASK_BYTES)).enumerate();
        let mut differ = [0u8; MASK_BYTES];
        for (index, (found, noise)) in pieces() {
            match (self.is_zero(index), found.as_chunks::<MASK_BYTES>().0.first()) {
                (true, _) => differ.iter_mut().zip(found).for_each(|(differ, found)| *differ |= found),
                (false, Some(found)) => {
                    let expected = noise.iter().zip(&mask).map(|(noise, mask)| noise ^ mask);
                    differ.iter_mut().zip(found).zip(expected).for_each(|((differ, found), expected)| *differ |= found ^ expected);
                }
                (false, None) => {
                    let expected = noise.iter().zip(&mask).map(|(noise, mask)| noise ^ mask);
                    differ.iter_mut().zip(found).zip(expected).for_each(|((differ, found), expected)| *differ |= found ^ expected);
                }
            }
        }
        if differ == [0; MASK_BYTES] {
            return 0;
        }
        // Rare, and then exactness is worth more than speed.
        let expected = |index, noise: &u8, mask: &u8| if self.is_zero(index) { 0 } else { noise ^ mask };
        let wrong = |(index, (found, noise)): (usize, (&[u8], &[u8]))| {
            let pairs = found.iter().zip(noise.iter().zip(&mask));
            pairs.filter(|(found, (noise, mask))| **found != expected(index, noise, mask)).count() as u64
        };
        pieces().map(wrong).sum()
    }

    fn is_zero(&self, index: usize) -> bool {
        self.compressible && index % 2 == 1
    }

    /// The noise of a page, and what to combine it with.
    fn page(&self, hash: SequenceHash, stripe: u16, number: usize) -> (&[u8], [u8; MASK_BYTES]) {
        let [low, high] = [0, 8].map(|at| u64::from_le_bytes(hash.0[at..at + 8].try_into().expect("8 of 16 bytes")));
        let mut state = 0;
        for part in [low, high, (u64::from(stripe) << 48) ^ number as u64] {
            state = next(&mut (state ^ part));
        }
        let start = next(&mut state) as usize % ((TABLE_BYTES - PAGE_BYTES) / MASK_BYTES) * MASK_BYTES;
        let mut mask = [0; MASK_BYTES];
        mask.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&next(&mut state).to_le_bytes()));
        (&self.noise[start..start + PAGE_BYTES], mask)
    }
}

/// SplitMix64: every state gives another number, and neighbours look unrelated.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::DeflateEncoder};
    use std::io::Write;

    fn hash(n: u8) -> SequenceHash {
        SequenceHash([n; 16])
    }

    fn made(payload: &Payload, n: u8, stripe: u16, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        payload.fill(hash(n), stripe, &mut bytes);
        bytes
    }

    #[test]
    fn what_was_made_is_right_and_each_wrong_byte_is_counted() {
        for compressible in [false, true] {
            let payload = Payload::new(compressible);
            for len in [1, 63, 64, 65, 4096, 4097, 100_000] {
                let mut bytes = made(&payload, 1, 0, len);
                assert_eq!(payload.wrong_bytes(hash(1), 0, &bytes), 0);
                bytes[len - 1] ^= 4;
                bytes[len / 2] ^= 4;
                assert_eq!(payload.wrong_bytes(hash(1), 0, &bytes), if len == 1 { 0 } else { 2 });
            }
        }
    }

    #[test]
    fn another_block_stripe_or_place_is_wrong() {
        let payload = Payload::new(false);
        let bytes = made(&payload, 1, 0, 8192);
        for wrong in [
            payload.wrong_bytes(hash(2), 0, &bytes),
            payload.wrong_bytes(hash(1), 1, &bytes),
            payload.wrong_bytes(hash(1), 0, &[&bytes[4096..], &bytes[..4096]].concat()),
            payload.wrong_bytes(hash(1), 0, &[&bytes[64..], &bytes[..64]].concat()),
        ] {
            assert!(wrong > 8000, "{wrong} of 8192");
        }
    }

    fn deflated(bytes: &[u8]) -> usize {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap().len()
    }

    #[test]
    fn storage_gains_nothing_by_compressing_or_deduplicating_unless_told_to() {
        let (payload, other) = (Payload::new(false), Payload::new(true));
        let many: Vec<u8> = (0..8).flat_map(|n| made(&payload, n, 0, 256 << 10)).collect();
        let mut pages: Vec<&[u8]> = many.chunks(4096).collect();
        pages.sort();
        pages.dedup();
        assert_eq!(pages.len(), many.len() / 4096);
        assert!(deflated(&many) > many.len() * 99 / 100);
        let half = made(&other, 1, 0, 256 << 10);
        assert!(deflated(&half) < half.len() * 6 / 10);
    }
}
