//! What must hold between the parts of an index, checked in tests after every step.

use super::table::Place;
use super::tree::Index;
use std::collections::HashMap;

impl Index {
    /// Panics when the parts contradict each other.
    pub(crate) fn check(&self) {
        let mut hung: HashMap<Place, u32> = HashMap::new();
        let (mut blocks, mut bytes) = (0, 0);
        let mut memberships: HashMap<u16, u64> = HashMap::new();
        for (number, run) in self.runs.iter() {
            assert!(run.len() > 0, "an empty run stays");
            assert_eq!(self.head(run.parent, run.locals()[0]), Some(number), "a head that is not found");
            if let Some(parent) = run.parent {
                *hung.entry(parent).or_default() += 1;
            }
            let mut counts = vec![0u16; run.len()];
            for held in run.held.iter() {
                assert!(usize::from(held.to) <= run.len(), "somebody holds what is not there");
                counts[usize::from(held.from)..usize::from(held.to)].iter_mut().for_each(|count| *count += 1);
                *memberships.entry(held.holder.0).or_default() += u64::from(held.to - held.from) * held.media.len() as u64;
            }
            assert_eq!(counts, run.counts(), "holders are miscounted");
            blocks += counts.iter().filter(|count| **count > 0).count() as u64;
            bytes += run.heap_bytes();
            for (domain, names) in run.all_names() {
                for (offset, name) in (0u16..).zip(names) {
                    if *name == super::run::UNNAMED {
                        continue;
                    }
                    assert!(counts[usize::from(offset)] > 0, "a block nobody holds has a name");
                    assert_eq!(self.named(domain, super::BlockName(*name)), Some(Place { run: number, offset }));
                }
            }
        }
        for (place, runs) in hung {
            assert_eq!(self.runs.get(place.run).hung(place.offset), runs, "runs on a block are miscounted");
        }
        assert_eq!(blocks, self.stats.blocks, "blocks are miscounted");
        assert_eq!(bytes, self.run_bytes, "bytes are miscounted");
        for (id, holder) in self.holders.iter().enumerate().filter_map(|(id, holder)| Some((id, holder.as_ref()?))) {
            let placed = memberships.get(&(id as u16)).copied().unwrap_or(0);
            let waiting: u64 = holder.orphan_memberships();
            let mut union: HashMap<Place, super::Media> = HashMap::new();
            let mut each = 0;
            for (_, alias) in holder.aliases.iter() {
                each += alias.media.len() as u64;
                union.insert(alias.place, holder.aliases.union(alias.place));
                let run = self.runs.get(alias.place.run);
                let held = run.held.of(super::HolderId(id as u16)).iter().find(|held| (held.from..held.to).contains(&alias.place.offset));
                assert_eq!(held.map(|held| held.media), union.get(&alias.place).copied(), "a name says more than is held");
            }
            let more = each - union.values().map(|media| media.len() as u64).sum::<u64>();
            assert_eq!(placed + more + waiting + holder.evicted, holder.digest.count, "memberships of holder {id} are miscounted");
        }
    }
}
