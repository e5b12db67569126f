//! A hash table from names to places that costs eight bytes a slot, grows in small steps and gives memory back.
//!
//! A slot holds 20 bits of the hash and the place; the table asks its user whether a place is meant. 1,024 segments, chosen by
//! 10 more bits, double and shrink on their own, so no step takes longer than one segment's copy, and are at most five eighths
//! full: about 17 bytes an entry. Fuller ones cost less memory, but a third more time: stretches grow beyond a cache line.
//! A slot's home is monotone in its 20 bits, so growing walks memory in order and needs no name.
//!
//! ```text
//! hash: 10 bits segment | 2 bits unused | 20 bits kept | 32 bits unused        slot: 20 bits hash | 30 bits run | 14 bits offset
//! ```

/// A block's place: a run, and its offset there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Run, from 1; fewer than 2³⁰.
    pub run: u32,
    /// Offset in the run, below [`RUN_BLOCKS`].
    pub offset: u16,
}

/// Most blocks of a run.
pub const RUN_BLOCKS: usize = 1 << 14;
/// Runs are numbered below this.
pub const MOST_RUNS: u32 = 1 << 30;

const SEGMENTS: usize = 1 << 10;
const SMALLEST: usize = 4;

impl Place {
    /// One number for it.
    pub fn packed(self) -> u64 {
        u64::from(self.run) << 14 | u64::from(self.offset)
    }

    /// The place that [`Place::packed`] made this number of.
    pub fn of_packed(number: u64) -> Place {
        Place::of_slot(number)
    }

    fn of_slot(slot: u64) -> Place {
        Place { run: (slot >> 14) as u32 & (MOST_RUNS - 1), offset: slot as u16 & (RUN_BLOCKS as u16 - 1) }
    }
}

#[derive(Debug, Clone, Default)]
struct Segment {
    /// 0 is empty: no run has number 0.
    slots: Box<[u64]>,
    used: u32,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// None until the first entry.
    segments: Box<[Segment]>,
    bytes: usize,
}

fn segment_of(hash: u64) -> usize {
    (hash >> 54) as usize
}

fn kept(hash: u64) -> u64 {
    hash >> 32 & 0xf_ffff
}

fn home(kept: u64, slots: usize) -> usize {
    ((kept * slots as u64) >> 20) as usize
}

impl Table {
    /// Bytes of all slots.
    pub fn bytes(&self) -> usize {
        self.bytes + self.segments.len() * size_of::<Segment>()
    }

    /// Loads where `hash` would be, so that a batch of look-ups waits for memory once. The value means nothing.
    pub fn touch(&self, hash: u64) -> u64 {
        let Some(Segment { slots, .. }) = self.segments.get(segment_of(hash)) else { return 0 };
        slots.get(home(kept(hash), slots.len())).copied().unwrap_or(0)
    }

    /// The place under `hash` that `is_it` agrees to.
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(Place) -> bool) -> Option<Place> {
        let Segment { slots, .. } = self.segments.get(segment_of(hash))?;
        if slots.is_empty() {
            return None;
        }
        let kept = kept(hash);
        let mut at = home(kept, slots.len());
        loop {
            let slot = slots[at];
            if slot == 0 {
                return None;
            }
            if slot >> 44 == kept && is_it(Place::of_slot(slot)) {
                return Some(Place::of_slot(slot));
            }
            at = next(at, slots.len());
        }
    }

    /// Adds a place that is not there yet.
    pub fn insert(&mut self, hash: u64, place: Place) {
        self.insert_unless(hash, place, |_| false);
    }

    /// Adds a place, unless there is one under `hash` already that `is_it` agrees to; true when it was added.
    pub fn insert_unless(&mut self, hash: u64, place: Place, mut is_it: impl FnMut(Place) -> bool) -> bool {
        if self.segments.is_empty() {
            self.segments = vec![Segment::default(); SEGMENTS].into();
        }
        let segment = &mut self.segments[segment_of(hash)];
        if (segment.used as usize + 1) * 8 > segment.slots.len() * 5 {
            self.bytes += segment.resize(segment.slots.len() + segment.slots.len().max(SMALLEST));
        }
        let slots = &mut segment.slots[..];
        let kept = kept(hash);
        let mut at = home(kept, slots.len());
        while slots[at] != 0 {
            if slots[at] >> 44 == kept && is_it(Place::of_slot(slots[at])) {
                return false;
            }
            at = next(at, slots.len());
        }
        slots[at] = kept << 44 | place.packed();
        segment.used += 1;
        true
    }

    /// Takes a place away; false when it was not there.
    pub fn remove(&mut self, hash: u64, place: Place) -> bool {
        let Some(segment) = self.segments.get_mut(segment_of(hash)) else { return false };
        if !segment.take(kept(hash) << 44 | place.packed()) {
            return false;
        }
        segment.used -= 1;
        let (used, slots) = (segment.used as usize, segment.slots.len());
        if used == 0 || used * 5 < slots && slots > 2 * SMALLEST {
            let before = segment.slots.len() * 8;
            segment.resize(if used == 0 { 0 } else { used + used / 2 + SMALLEST });
            self.bytes -= before - segment.slots.len() * 8;
        }
        true
    }
}

fn next(at: usize, slots: usize) -> usize {
    if at + 1 == slots { 0 } else { at + 1 }
}

/// Steps from one slot to another, around the end.
fn distance(from: usize, to: usize, slots: usize) -> usize {
    if to >= from { to - from } else { to + slots - from }
}

impl Segment {
    fn put(&mut self, slot: u64) {
        let mut at = home(slot >> 44, self.slots.len());
        while self.slots[at] != 0 {
            at = next(at, self.slots.len());
        }
        self.slots[at] = slot;
    }

    fn take(&mut self, slot: u64) -> bool {
        let slots = self.slots.len();
        if slots == 0 {
            return false;
        }
        let mut hole = home(slot >> 44, slots);
        while self.slots[hole] != slot {
            if self.slots[hole] == 0 {
                return false;
            }
            hole = next(hole, slots);
        }
        // Moves later ones of the same stretch forward, unless that would put one before its home.
        let mut at = hole;
        loop {
            at = next(at, slots);
            if self.slots[at] == 0 {
                break;
            }
            let home = home(self.slots[at] >> 44, slots);
            if distance(home, at, slots) >= distance(hole, at, slots) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
        }
        self.slots[hole] = 0;
        true
    }

    /// Bytes it grew by; when it shrinks, the caller asks the slots.
    fn resize(&mut self, slots: usize) -> usize {
        let old = std::mem::replace(&mut self.slots, vec![0; slots].into());
        old.iter().filter(|slot| **slot != 0).for_each(|slot| self.put(*slot));
        (self.slots.len() * 8).saturating_sub(old.len() * 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvd_block::digest::mix;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Hashes are squeezed into one segment and few homes, so that stretches wrap around and overlap.
        #[test]
        fn it_agrees_with_a_map(steps in proptest::collection::vec((0u64..96, any::<bool>()), 0..600), spread in 0u32..20) {
            let hash = |key: u64| (mix(key) & 0xf_ffff) >> spread << 32 | key;
            let place = |key: u64| Place { run: key as u32 + 1, offset: key as u16 };
            let (mut table, mut map) = (Table::default(), HashMap::new());
            for (key, add) in steps {
                if add && map.insert(key, ()).is_none() {
                    table.insert(hash(key), place(key));
                } else if !add {
                    prop_assert_eq!(table.remove(hash(key), place(key)), map.remove(&key).is_some());
                }
                for key in 0..96 {
                    let found = table.find(hash(key), |found| found == place(key));
                    prop_assert_eq!(found.is_some(), map.contains_key(&key));
                }
            }
        }
    }

    #[test]
    fn what_is_emptied_gives_its_memory_back() {
        let mut table = Table::default();
        let empty = SEGMENTS * size_of::<Segment>();
        let all: Vec<(u64, Place)> = (1..200_000).map(|key| (mix(u64::from(key)), Place { run: key, offset: 3 })).collect();
        all.iter().for_each(|(hash, place)| table.insert(*hash, *place));
        let full = table.bytes() - empty;
        assert!((12 * all.len()..26 * all.len()).contains(&full), "{full} bytes");
        assert!(all.iter().all(|(hash, place)| table.remove(*hash, *place)));
        assert_eq!(table.bytes(), empty);
    }
}
