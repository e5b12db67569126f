//! What was purged, as numbers: a purge is a generation, and an image that is older than the last purge of its layout is dead.
//!
//! Erasing images one by one cannot reach those that were evicted earlier: nobody knows any more where they are. A number in
//! every header, and one per layout that is kept beside the images, tells dead ones from living ones wherever they turn up, and needs
//! no clock that only goes forward.

use crate::hash::LayoutId;
use std::collections::BTreeMap;

/// The generation of the last purge of each layout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purges {
    all: u64,
    layouts: BTreeMap<LayoutId, u64>,
}

impl Purges {
    /// What headers of a layout's blocks say until its next purge. An image with a smaller number was purged.
    pub fn generation(&self, layout: LayoutId) -> u64 {
        self.layouts.get(&layout).copied().unwrap_or(0).max(self.all)
    }

    /// The number of the last purge; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.layouts.values().copied().max().unwrap_or(0).max(self.all)
    }

    /// Purges one layout, or all. Returns the generation of this purge, which is greater than every one before it.
    pub fn purge(&mut self, layout: Option<LayoutId>) -> u64 {
        let generation = self.newest() + 1;
        self.note(layout, generation);
        generation
    }

    /// Takes over what is known of a purge.
    pub fn note(&mut self, layout: Option<LayoutId>, generation: u64) {
        let entry = match layout {
            Some(layout) => self.layouts.entry(layout).or_default(),
            None => &mut self.all,
        };
        *entry = generation.max(*entry);
        let all = self.all;
        self.layouts.retain(|_, generation| *generation > all);
    }

    /// Everything that must be kept: layout (`None` is all of them) and generation.
    pub fn entries(&self) -> impl Iterator<Item = (Option<LayoutId>, u64)> + '_ {
        let all = Some((None, self.all)).filter(|_| self.all > 0);
        all.into_iter().chain(self.layouts.iter().map(|(layout, generation)| (Some(*layout), *generation)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purge_reaches_what_was_stored_before_it_and_nothing_else() {
        let (one, other) = (LayoutId([1; 16]), LayoutId([2; 16]));
        let mut purges = Purges::default();
        let before = purges.generation(one);
        purges.purge(Some(one));
        assert!(before < purges.generation(one), "stored before the purge");
        assert_eq!(purges.generation(other), 0, "of another layout");
        let between = purges.generation(one);
        purges.purge(None);
        assert!(between < purges.generation(one) && purges.generation(other) > 0, "a purge of everything");
    }

    #[test]
    fn what_is_kept_is_enough() {
        let mut purges = Purges::default();
        purges.purge(Some(LayoutId([1; 16])));
        purges.purge(None);
        purges.purge(Some(LayoutId([2; 16])));
        let mut again = Purges::default();
        purges.entries().for_each(|(layout, generation)| again.note(layout, generation));
        assert_eq!(again, purges);
        assert_eq!(again.newest(), 3);
        assert_eq!(again.entries().count(), 2, "what a purge of everything covers is not kept twice");
    }
}
