//! Histories of blocks that are not here any more, in a table of fixed size.
//!
//! Sets of eight entries of 6 bytes, one set or less for each block of the ledger: at most 48 bytes a block. A full set loses its
//! oldest entry. A tag of 16 bits takes one block for another once in ten thousand times, and times come round after six days: that costs
//! a wrong guess, nothing else. The table is made when the first block goes, because only then is it known how many the ledger can hold.

use crate::evict::density::{History, MOST_TURNS, MOST_USES};
use kvd_block::Tick;

const WAYS: usize = 8;
/// Sets at most: 192 MiB.
const MOST_SETS: u64 = 1 << 22;
const LEAST_SETS: u64 = 64;
const UNIT_MS: u64 = 8_000;
/// A bit that tells an entry from an empty one.
const USED: u8 = 1 << 7;

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    tag: u16,
    last: u16,
    history: u8,
}

#[derive(Debug, Default)]
pub(crate) struct Past {
    sets: Vec<[Entry; WAYS]>,
}

impl Entry {
    fn age(&self, now: u16) -> u32 {
        if self.history & USED == 0 { u32::MAX } else { u32::from(now.wrapping_sub(self.last)) }
    }

    fn is(&self, tag: u16) -> bool {
        self.tag == tag && self.history & USED != 0
    }
}

fn units(tick: Tick) -> u16 {
    (tick.0 / UNIT_MS) as u16
}

fn pack(history: History) -> u8 {
    USED | history.uses.min(MOST_USES) | history.turn.min(MOST_TURNS) << 2 | u8::from(history.long_pause) << 4
}

fn unpack(packed: u8) -> History {
    History { uses: packed & 3, turn: packed >> 2 & 3, long_pause: packed & 1 << 4 != 0 }
}

impl Past {
    pub fn put(&mut self, name: u64, history: History, last: Tick, blocks: u64) {
        let wanted = blocks.clamp(LEAST_SETS, MOST_SETS);
        if wanted / 2 >= self.sets.len() as u64 {
            // A power of two: what it held is forgotten, which happens once or when the layouts change.
            self.sets = vec![[Entry::default(); WAYS]; 1 << wanted.ilog2()];
        }
        let (at, tag) = self.locate(name);
        let (set, now) = (&mut self.sets[at], units(last));
        let same = set.iter().position(|entry| entry.is(tag));
        let oldest = (0..WAYS).max_by_key(|way| set[*way].age(now)).expect("a set has entries");
        set[same.unwrap_or(oldest)] = Entry { tag, last: now, history: pack(history) };
    }

    /// The history of a block, and about how long ago it was used, in milliseconds.
    pub fn get(&self, now: Tick, name: u64) -> Option<(History, u64)> {
        if self.sets.is_empty() {
            return None;
        }
        let (at, tag) = self.locate(name);
        let entry = self.sets[at].iter().find(|entry| entry.is(tag))?;
        Some((unpack(entry.history), u64::from(units(now).wrapping_sub(entry.last)) * UNIT_MS))
    }

    fn locate(&self, name: u64) -> (usize, u16) {
        (name as usize & (self.sets.len() - 1), (name >> 48) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(uses: u8) -> History {
        History { uses, turn: 1, long_pause: true }
    }

    #[test]
    fn a_history_comes_back_with_the_time_since() {
        let mut past = Past::default();
        past.put(77, history(2), Tick(8_000), 100);
        assert_eq!(past.get(Tick(40_000), 77), Some((history(2), 32_000)));
        assert_eq!(past.get(Tick(40_000), 78 << 48), None);
    }

    #[test]
    fn a_full_set_loses_its_oldest_history() {
        let mut past = Past::default();
        let name = |at: u64| (at + 1) << 48;
        (0..9).for_each(|at| past.put(name(at), history(at as u8), Tick(at * UNIT_MS), 64));
        assert_eq!(past.get(Tick(80_000), name(0)), None);
        (1..9).for_each(|at| assert!(past.get(Tick(80_000), name(at)).is_some(), "{at}"));
    }

    #[test]
    fn an_entry_takes_six_bytes() {
        assert_eq!(size_of::<Entry>(), 6);
    }
}
