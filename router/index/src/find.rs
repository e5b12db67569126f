//! Following a prompt through the runs.

use super::table::Place;
use super::tree::Index;
use super::{HolderId, Media, Reach, Span, WorkerShape};
use kvd_block::LocalHash;
use std::sync::atomic::Ordering;

/// How far one holder reaches, valid for one walk.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    walk: u32,
    reach: Reach,
}

/// Where a prompt was followed to, and what was found on the way. Used again and again, it allocates nothing.
#[derive(Debug, Default)]
pub struct Walk {
    marks: Vec<Mark>,
    found: Vec<HolderId>,
    spans: Vec<(HolderId, Span)>,
    holds_spans: bool,
    walk: u32,
    known_blocks: u32,
}

impl Walk {
    /// Leading blocks of the prompt that the index knows, whoever holds them.
    pub fn known_blocks(&self) -> u32 {
        self.known_blocks
    }

    /// Every holder that has the first block, with the prefix it has all of.
    pub fn found(&self) -> impl Iterator<Item = (HolderId, Reach)> {
        self.found.iter().map(|holder| (*holder, self.marks[usize::from(holder.0)].reach))
    }

    /// The prefix that one holder has all of.
    pub fn alone(&self, holder: HolderId) -> Reach {
        self.marks.get(usize::from(holder.0)).filter(|mark| mark.walk == self.walk).map_or(Reach::default(), |mark| mark.reach)
    }

    /// What of the prompt a holder has, holes and all.
    ///
    /// # Panics
    /// When the walk was not one by [`Index::find_spans`].
    pub fn covered(&self, holder: HolderId) -> impl Iterator<Item = Span> {
        assert!(self.holds_spans, "spans are noted by find_spans");
        let from = self.spans.partition_point(|(of, _)| *of < holder);
        self.spans[from..].iter().take_while(move |(of, _)| *of == holder).map(|(_, span)| *span)
    }

    /// The prefix that a worker can use.
    ///
    /// # Panics
    /// When the worker has more than one holder or group, or a window, and the walk was not one by [`Index::find_spans`].
    pub fn reach(&self, shape: &WorkerShape) -> Reach {
        if let [group] = &shape.groups[..]
            && let ([holder], None) = (&group.holders[..], group.window)
        {
            return self.alone(*holder);
        }
        shape.reach(|holder| self.covered(holder).collect())
    }

    fn begin(&mut self, holders: usize, spans: bool) {
        if self.walk == u32::MAX {
            self.marks.clear();
            self.walk = 0;
        }
        self.walk += 1;
        self.marks.resize(holders.max(self.marks.len()), Mark::default());
        self.found.clear();
        self.spans.clear();
        self.holds_spans = spans;
        self.known_blocks = 0;
    }

    /// Notes that a holder has `from..to`; says how far it reaches.
    fn note(&mut self, holder: HolderId, from: u32, to: u32, media: Media) -> u32 {
        let mark = &mut self.marks[usize::from(holder.0)];
        if mark.walk != self.walk {
            *mark = Mark { walk: self.walk, reach: Reach::default() };
            if from == 0 {
                self.found.push(holder);
            }
        }
        if mark.reach.blocks == from {
            mark.reach.blocks = to;
            mark.reach.by_medium[media.fastest_index()] += to - from;
        }
        mark.reach.blocks
    }
}

impl Index {
    /// Follows `locals` as long as any holder has all blocks so far.
    pub fn find(&self, locals: &[LocalHash], walk: &mut Walk) {
        self.walk::<false>(locals, walk);
    }

    /// Follows `locals` as far as blocks are known, and notes every stretch that anyone has: what workers with windows, several
    /// groups or several holders need.
    pub fn find_spans(&self, locals: &[LocalHash], walk: &mut Walk) {
        self.walk::<true>(locals, walk);
        walk.spans.sort_by_key(|(holder, _)| *holder);
    }

    fn walk<const SPANS: bool>(&self, locals: &[LocalHash], walk: &mut Walk) {
        walk.begin(self.holders.len(), SPANS);
        let mut at: Option<Place> = None;
        let mut base = 0;
        while base < locals.len() {
            let Some(number) = self.head(at, locals[base].0) else { break };
            let run = self.runs.get(number);
            run.touched.store(self.tick, Ordering::Relaxed);
            let blocks = super::tree::common(run.locals(), &locals[base..]);
            let (first, end) = (base as u32, (base + blocks) as u32);
            let mut furthest = 0;
            for held in run.held.iter() {
                let (from, to) = (first + u32::from(held.from), end.min(first + u32::from(held.to)));
                if from >= end {
                    continue;
                }
                furthest = furthest.max(walk.note(held.holder, from, to, held.media));
                if SPANS {
                    walk.spans.push((held.holder, Span { from, to, media: held.media }));
                }
            }
            base += blocks;
            if !SPANS && furthest < end {
                break;
            }
            at = Some(Place { run: number, offset: blocks as u16 - 1 });
        }
        walk.known_blocks = base as u32;
    }
}
