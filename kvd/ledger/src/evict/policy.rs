//! Which policies there are, and how each orders blocks.
//!
//! | policy | queues | order | victim |
//! |---|---|---|---|
//! | lineage | one | last use | the first |
//! | lru | one, of parents too | last use | the first |
//! | sieve | one | entry into the tier | the first that was not used since it was passed last |
//! | cost | one | floor + uses × cost of recomputing | the first, which becomes the floor |
//! | density | one a class | last use | the head of least expected hits per block and time |
//!
//! All but `lru` list leaves only: a block is useless without its parent, so a block with children in a tier never goes before
//! them. `lru` lists every block, as a cache does that knows nothing of prefixes; it is there to be compared with.

use crate::evict::density::{Density, rival::Rival};
use crate::evict::lists::{Head, Queues};
use crate::record::{BlockIndex, Record};
use kvd_block::{Tick, TierKind};

/// How the block to evict is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Eviction {
    /// Least recently used block, parent or not: the usual cache, to compare with.
    Lru,
    /// Least recently used leaf.
    Lineage,
    /// SIEVE over leaves: first in, first out, but what was used is passed over once.
    Sieve,
    /// Leaf with the least product of uses and recomputation, aged as GreedyDual does.
    Cost,
    /// Leaf with the least expected hits per block and time, learnt from reuse seen so far.
    #[default]
    Density,
}

impl Eviction {
    /// Every policy.
    pub const ALL: [Eviction; 5] = [Eviction::Lru, Eviction::Lineage, Eviction::Sieve, Eviction::Cost, Eviction::Density];
}

impl Eviction {
    /// True when a use changes more than when a block was used last.
    pub(crate) fn orders_uses(self) -> bool {
        matches!(self, Eviction::Sieve | Eviction::Cost)
    }
}

/// What a policy remembers beyond the records.
#[derive(Debug)]
pub(crate) enum Policy {
    Lru,
    Lineage,
    /// Order of entry by block; where the hand stands.
    Sieve {
        entered: Vec<u64>,
        used: Vec<bool>,
        hand: u64,
    },
    /// Worth by block; worth of the last victim.
    Cost {
        worth: Vec<u64>,
        floor: u64,
    },
    Density(Rival),
}

/// Attention over all blocks before it makes a block at this position cost twice the first one: where the two terms of a
/// transformer's arithmetic are equal for models of usual shape and blocks of 16 tokens (about 32k tokens).
const EVEN_COST_POSITION: u64 = 2048;

impl Policy {
    pub fn new(eviction: Eviction) -> Policy {
        match eviction {
            Eviction::Lru => Policy::Lru,
            Eviction::Lineage => Policy::Lineage,
            Eviction::Sieve => Policy::Sieve { entered: Vec::new(), used: Vec::new(), hand: 0 },
            Eviction::Cost => Policy::Cost { worth: Vec::new(), floor: 0 },
            Eviction::Density => Policy::Density(Rival::default()),
        }
    }

    /// Whether blocks with children in the tier stay out of the lists.
    pub fn leaves_only(&self) -> bool {
        !matches!(self, Policy::Lru)
    }

    /// The number a listed block is ordered by. Changes only in [`Policy::used`] and [`Policy::entered`], while it is not listed.
    pub fn order(&self, index: BlockIndex, record: &Record) -> u64 {
        match self {
            Policy::Sieve { entered, .. } => at(entered, index),
            Policy::Cost { worth, .. } => at(worth, index),
            _ => record.stamp,
        }
    }

    /// The queue a block belongs to.
    pub fn queue(&self, tier: TierKind, record: &Record) -> u8 {
        match self {
            Policy::Density(_) => Density::queue(tier, record),
            _ => 0,
        }
    }

    /// The block came into the tier.
    pub fn entered(&mut self, index: BlockIndex, record: &Record, stamp: u64) {
        match self {
            Policy::Sieve { entered, used, .. } => {
                set(entered, index, stamp);
                set(used, index, false);
            }
            _ => self.used(index, record),
        }
    }

    /// The block was used; its record says so already.
    pub fn used(&mut self, index: BlockIndex, record: &Record) {
        match self {
            Policy::Sieve { used, .. } => set(used, index, true),
            Policy::Cost { worth, floor } => {
                let cost = EVEN_COST_POSITION + u64::from(record.position).min(1 << 32);
                set(worth, index, *floor + (u64::from(record.history.uses) + 1) * cost);
            }
            _ => {}
        }
    }

    /// The block of these queues to evict, but never `spared`.
    pub fn choose(&mut self, now: Tick, queues: &Queues, spared: Option<BlockIndex>, density: Option<&Density>) -> Option<Head> {
        match self {
            Policy::Lru | Policy::Lineage => queues.heads_but(spared).next(),
            Policy::Cost { floor, .. } => {
                let head = queues.heads_but(spared).next()?;
                *floor = head.order.max(*floor);
                Some(head)
            }
            Policy::Sieve { used, hand, .. } => {
                let mut pass = |from: u64| {
                    queues.from(0, from).filter(|head| Some(head.index) != spared).find(|head| {
                        let spare = at(used, head.index);
                        set(used, head.index, false);
                        !spare
                    })
                };
                let head = pass(*hand).or_else(|| pass(0)).or_else(|| pass(0))?;
                *hand = head.order;
                Some(head)
            }
            Policy::Density(rival) => match density.filter(|_| !rival.is_ahead()) {
                Some(density) => density.least(now, queues, spared),
                None => queues.heads_but(spared).min_by_key(|head| (head.queue == Density::UNWRITTEN, head.order)),
            },
        }
    }
}

fn at<T: Copy + Default>(values: &[T], index: BlockIndex) -> T {
    values.get(index.number()).copied().unwrap_or_default()
}

fn set<T: Copy + Default>(values: &mut Vec<T>, index: BlockIndex, value: T) {
    if values.len() <= index.number() {
        values.resize(index.number() + 1, T::default());
    }
    values[index.number()] = value;
}
