//! From what each holder covers of a prompt to what a worker can use of it.
//!
//! A worker is one or more **groups** of layers, all of which it needs; a group is covered by the union of its holders: the
//! engine's own stream, and the kvd of its node. A sliding-window group needs only the last blocks before the end of the prefix.

use super::{HolderId, Media};

/// Blocks `from..to` of a prompt are in `media` of a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First block.
    pub from: u32,
    /// One past the last.
    pub to: u32,
    /// Where, never empty.
    pub media: Media,
}

/// A prefix of a prompt, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// Its length.
    pub blocks: u32,
    /// The same blocks by the fastest medium each is in, indexed by `Medium as usize`. For a worker of several groups, those of
    /// the group that has most to load.
    pub by_medium: [u32; 4],
}

/// Layers that share one cache policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Whose blocks serve it; any of them will do.
    pub holders: Vec<HolderId>,
    /// Blocks before the end of a prefix that it needs; `None` for all.
    pub window: Option<u32>,
}

/// What a worker needs, and from whom it can have it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerShape {
    /// All are needed.
    pub groups: Vec<Group>,
}

impl WorkerShape {
    /// A worker with one group that one holder serves.
    pub fn simple(holder: HolderId) -> WorkerShape {
        WorkerShape { groups: vec![Group { holders: vec![holder], window: None }] }
    }

    /// The longest prefix that all groups can serve. `covered` gives a holder's spans, ordered and without overlaps.
    pub fn reach(&self, covered: impl Fn(HolderId) -> Vec<Span>) -> Reach {
        let unions: Vec<Vec<Span>> = self.groups.iter().map(|group| union(group.holders.iter().map(|holder| covered(*holder)))).collect();
        let mut blocks = self.groups.iter().zip(&unions).map(|(group, spans)| furthest(spans, group.window, u32::MAX)).min().unwrap_or(0);
        // Each group may shorten what the others thought they could use; lengths only shrink, so this ends.
        loop {
            let shorter = self.groups.iter().zip(&unions).map(|(group, spans)| furthest(spans, group.window, blocks)).min().unwrap_or(0);
            if shorter == blocks {
                break;
            }
            blocks = shorter;
        }
        let needs = self.groups.iter().zip(&unions).map(|(group, spans)| {
            let from = group.window.map_or(0, |window| blocks.saturating_sub(window));
            by_medium(spans, from, blocks)
        });
        let by_medium = needs.max_by_key(|media| media[3] * 3 + media[2] * 2 + media[1]).unwrap_or_default();
        Reach { blocks, by_medium }
    }
}

/// The longest usable prefix of at most `limit` blocks in a group that `spans` cover.
fn furthest(spans: &[Span], window: Option<u32>, limit: u32) -> u32 {
    let mut stretch = 0..0;
    let mut best = 0;
    for span in spans {
        stretch = if span.from == stretch.end { stretch.start..span.to } else { span.from..span.to };
        let end = stretch.end.min(limit);
        let needed = window.map_or(0, |window| end.saturating_sub(window));
        if end > stretch.start && stretch.start <= needed {
            best = end;
        }
    }
    best
}

fn by_medium(spans: &[Span], from: u32, to: u32) -> [u32; 4] {
    let mut counts = [0; 4];
    for span in spans {
        let inside = span.to.min(to).saturating_sub(span.from.max(from));
        if let Some(medium) = span.media.fastest() {
            counts[medium as usize] += inside;
        }
    }
    counts
}

/// Joins several ordered lists of spans into one without overlaps.
fn union(lists: impl Iterator<Item = Vec<Span>>) -> Vec<Span> {
    let mut lists: Vec<Vec<Span>> = lists.filter(|list| !list.is_empty()).collect();
    if lists.len() < 2 {
        return lists.pop().unwrap_or_default();
    }
    let mut edges: Vec<u32> = lists.iter().flat_map(|list| list.iter().flat_map(|span| [span.from, span.to])).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut cursors = vec![0; lists.len()];
    let mut joined: Vec<Span> = Vec::new();
    for piece in edges.windows(2) {
        let mut media = Media::NONE;
        for (list, cursor) in lists.iter().zip(&mut cursors) {
            while *cursor < list.len() && list[*cursor].to <= piece[0] {
                *cursor += 1;
            }
            if let Some(span) = list.get(*cursor).filter(|span| span.from <= piece[0]) {
                media = media.or(span.media);
            }
        }
        match joined.last_mut() {
            _ if media.is_empty() => {}
            Some(last) if last.to == piece[0] && last.media == media => last.to = piece[1],
            _ => joined.push(Span { from: piece[0], to: piece[1], media }),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Medium;

    fn span(from: u32, to: u32, medium: Medium) -> Span {
        Span { from, to, media: Media::of(medium) }
    }

    fn reach(shape: &WorkerShape, spans: &[Vec<Span>]) -> Reach {
        shape.reach(|holder| spans[usize::from(holder.0)].clone())
    }

    #[test]
    fn a_hole_in_one_holder_is_filled_by_another() {
        let shape = WorkerShape { groups: vec![Group { holders: vec![HolderId(0), HolderId(1)], window: None }] };
        let spans = [vec![span(0, 4, Medium::Device), span(5, 8, Medium::Device)], vec![span(3, 6, Medium::Host)]];
        assert_eq!(reach(&shape, &spans), Reach { blocks: 8, by_medium: [7, 1, 0, 0] });
    }

    #[test]
    fn a_window_needs_only_the_blocks_before_the_end() {
        let full = Group { holders: vec![HolderId(0)], window: None };
        let sliding = Group { holders: vec![HolderId(1)], window: Some(2) };
        let shape = WorkerShape { groups: vec![full, sliding] };
        assert_eq!(reach(&shape, &[vec![span(0, 9, Medium::Device)], vec![span(4, 7, Medium::Device)]]).blocks, 7);
        assert_eq!(reach(&shape, &[vec![span(0, 5, Medium::Device)], vec![span(4, 7, Medium::Device)]]).blocks, 0, "4..5 is half a window");
        assert_eq!(reach(&shape, &[vec![span(0, 6, Medium::Device)], vec![span(4, 7, Medium::Device)]]).blocks, 6);
        assert_eq!(reach(&shape, &[vec![span(0, 6, Medium::Device)], vec![span(0, 1, Medium::Device)]]).blocks, 1, "short of a window");
    }

    #[test]
    fn a_worker_without_blocks_reaches_nothing() {
        assert_eq!(reach(&WorkerShape::simple(HolderId(0)), &[vec![]]), Reach::default());
        assert_eq!(reach(&WorkerShape::simple(HolderId(0)), &[vec![span(1, 5, Medium::Host)]]), Reach::default());
    }
}
