//! Which stretches of a run each holder has, and where: eight bytes a stretch.

use super::{HolderId, Media, Medium};
use smallvec::SmallVec;

/// A holder has the blocks `from..to` of a run in `media`, which is never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Who.
    pub holder: HolderId,
    /// First offset.
    pub from: u16,
    /// One past the last.
    pub to: u16,
    /// Where.
    pub media: Media,
}

/// Stretches ordered by holder and offset. Those of one holder neither overlap nor could be joined.
#[derive(Debug, Clone, Default)]
pub struct HeldList(SmallVec<[Held; 2]>);

impl HeldList {
    /// Every stretch.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.0.iter()
    }

    /// Bytes beyond the list itself.
    pub fn heap_bytes(&self) -> usize {
        if self.0.spilled() { self.0.capacity() * size_of::<Held>() } else { 0 }
    }

    /// The stretches of one holder.
    pub fn of(&self, holder: HolderId) -> &[Held] {
        &self.0[self.range(holder)]
    }

    fn range(&self, holder: HolderId) -> std::ops::Range<usize> {
        let from = self.0.partition_point(|held| held.holder < holder);
        let more = self.0[from..].iter().take_while(|held| held.holder == holder).count();
        from..from + more
    }

    /// Adds `medium` to `from..to`. Tells `piece` what was there before, piece by piece.
    pub fn add(&mut self, holder: HolderId, from: u16, to: u16, medium: Medium, mut piece: impl FnMut(u16, u16, Media)) {
        let range = self.range(holder);
        if range.is_empty() {
            piece(from, to, Media::NONE);
            self.0.insert(range.start, Held { holder, from, to, media: Media::of(medium) });
            return;
        }
        let last = &mut self.0[range.end - 1];
        if last.to == from && last.media == Media::of(medium) {
            piece(from, to, Media::NONE);
            last.to = to;
            return;
        }
        let mut rebuilt = Rebuilt::default();
        let mut at = from;
        for old in self.0[range.clone()].iter().copied() {
            let gap = old.from.min(to);
            if at < gap {
                piece(at, gap, Media::NONE);
                rebuilt.push(Held { holder, from: at, to: gap, media: Media::of(medium) });
                at = gap;
            }
            rebuilt.push(Held { to: old.to.min(from), ..old });
            let (low, high) = (old.from.max(from), old.to.min(to));
            if low < high {
                piece(low, high, old.media);
                rebuilt.push(Held { holder, from: low, to: high, media: old.media.with(medium) });
                at = high;
            }
            rebuilt.push(Held { from: old.from.max(to), ..old });
        }
        if at < to {
            piece(at, to, Media::NONE);
            rebuilt.push(Held { holder, from: at, to, media: Media::of(medium) });
        }
        self.replace(range, rebuilt);
    }

    /// Takes `medium` away from `from..to`. Tells `piece` what was there before, of all that had the medium.
    pub fn cut(&mut self, holder: HolderId, from: u16, to: u16, medium: Medium, mut piece: impl FnMut(u16, u16, Media)) {
        let range = self.range(holder);
        if range.is_empty() {
            return;
        }
        if range.len() == 1 && self.cut_end(range.start, from, to, medium) {
            piece(from, to, Media::of(medium));
            return;
        }
        let mut rebuilt = Rebuilt::default();
        for old in self.0[range.clone()].iter().copied() {
            let (low, high) = (old.from.max(from), old.to.min(to));
            if low >= high || !old.media.contains(medium) {
                rebuilt.push(old);
                continue;
            }
            piece(low, high, old.media);
            rebuilt.push(Held { to: low, ..old });
            rebuilt.push(Held { from: low, to: high, media: old.media.without(medium), ..old });
            rebuilt.push(Held { from: high, ..old });
        }
        self.replace(range, rebuilt);
    }

    /// The common case: the end of the only stretch goes, and it was in that medium alone.
    fn cut_end(&mut self, at: usize, from: u16, to: u16, medium: Medium) -> bool {
        let held = &mut self.0[at];
        if held.media != Media::of(medium) || to != held.to || from < held.from {
            return false;
        }
        if from == held.from {
            self.0.remove(at);
        } else {
            held.to = from;
        }
        true
    }

    /// Takes every stretch of a holder away, telling each.
    pub fn drop_holder(&mut self, holder: HolderId, mut piece: impl FnMut(Held)) {
        let range = self.range(holder);
        self.0.drain(range).for_each(&mut piece);
        self.shrink();
    }

    /// Adds a stretch behind all others: how a list is read back.
    pub fn push(&mut self, held: Held) {
        self.0.push(held);
    }

    fn replace(&mut self, range: std::ops::Range<usize>, rebuilt: Rebuilt) {
        self.0.drain(range.clone());
        self.0.insert_many(range.start, rebuilt.0);
        self.shrink();
    }

    fn shrink(&mut self) {
        if self.0.spilled() && self.0.len() * 4 < self.0.capacity() {
            self.0.shrink_to_fit();
        }
    }
}

/// Stretches of one holder in order, joined where they can be.
#[derive(Default)]
struct Rebuilt(SmallVec<[Held; 8]>);

impl Rebuilt {
    fn push(&mut self, held: Held) {
        if held.from >= held.to || held.media.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.to == held.from && last.media == held.media => last.to = held.to,
            _ => self.0.push(held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stretch_is_small() {
        assert_eq!(size_of::<Held>(), 8);
    }

    proptest! {
        #[test]
        fn it_agrees_with_one_set_per_block(steps in proptest::collection::vec((0u16..3, 0u16..12, 1u16..6, 0usize..3, any::<bool>()), 0..60)) {
            let mut list = HeldList::default();
            let mut plain = [[Media::NONE; 20]; 3];
            for (holder, from, length, medium, add) in steps {
                let (to, medium) = (from + length, Medium::ALL[medium]);
                let row = &mut plain[usize::from(holder)];
                let mut told = [None; 20];
                let mut tell = |low: u16, high: u16, media: Media| (low..high).for_each(|at| told[usize::from(at)] = Some(media));
                if add {
                    list.add(HolderId(holder), from, to, medium, &mut tell);
                } else {
                    list.cut(HolderId(holder), from, to, medium, &mut tell);
                }
                for at in 0..20 {
                    let inside = (from..to).contains(&(at as u16));
                    let expected = (inside && (add || row[at].contains(medium))).then_some(row[at]);
                    prop_assert_eq!(told[at], expected, "offset {}", at);
                    if inside {
                        row[at] = if add { row[at].with(medium) } else { row[at].without(medium) };
                    }
                }
                for holder in 0..3u16 {
                    let mut found = [Media::NONE; 20];
                    let held = list.of(HolderId(holder));
                    for stretch in held {
                        prop_assert!(stretch.from < stretch.to && !stretch.media.is_empty());
                        (stretch.from..stretch.to).for_each(|at| found[usize::from(at)] = stretch.media);
                    }
                    prop_assert_eq!(found, plain[usize::from(holder)]);
                    prop_assert!(held.windows(2).all(|pair| pair[0].to < pair[1].from || pair[0].to == pair[1].from && pair[0].media != pair[1].media));
                }
            }
        }
    }
}
