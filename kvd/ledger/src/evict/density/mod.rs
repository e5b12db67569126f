//! Learnt eviction: keep the blocks that give the most hits for the room and time they take.
//!
//! Blocks are put into classes by what is known of them at their last use: how often they came back, how many turns their
//! sequence had, how long the last pause was. How long until a block of a class is used again, or whether it ever is, is learnt
//! from all uses, also of blocks that are not here any more ([`watch`]), so that it does not depend on what this policy evicts.
//! From that follows what a block is worth, given its class and the time since its last use ([`model`]): the most hits per unit
//! of time that keeping it for some time can be expected to give (a Gittins index). The leaf worth least goes. A new block is always taken, also
//! when it is worth less: refusing it where little is known locks a cache up. Ties, and everything before something is learnt, go by last use.
//!
//! Learning may fail: traffic changes. [`rival`] counts what plain recency would have hit in the same room, and as long as that is
//! ahead, recency decides.

pub(crate) mod model;
pub(crate) mod past;
pub(crate) mod rival;
pub(crate) mod watch;

use crate::evict::lists::{Head, Queues};
use crate::record::{BlockIndex, Record, last_use};
use kvd_block::{Tick, TierKind};
use model::Model;
use past::Past;
use watch::Watch;

/// Uses of one request follow each other: a lookup, perhaps another, a load, a store. Only a use after a pause is a reuse.
pub(crate) const SAME_USE_MS: u64 = 100;
/// A pause up to this is an agent's, a longer one a person's.
const SHORT_PAUSE_MS: u64 = 24_000;
const MOST_TURNS: u8 = 3;
const MOST_USES: u8 = 3;
/// Turns (0–3) of blocks never used again, then reuses (1–3) × turns (0–3) × pause (short, long).
pub(crate) const CLASSES: usize = 4 + 3 * 4 * 2;

/// What one ledger has learnt of reuse, for all its tiers.
#[derive(Debug, Default)]
pub(crate) struct Density {
    model: Model,
    watch: Watch,
    past: Past,
}

/// What is remembered of a block that is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct History {
    pub uses: u8,
    pub turn: u8,
    pub long_pause: bool,
}

impl History {
    /// After another use, `pause_ms` after the last.
    pub fn used_again(self, pause_ms: u64) -> History {
        History { uses: self.uses.saturating_add(1), turn: self.turn, long_pause: pause_ms > SHORT_PAUSE_MS }
    }

    /// Of a block first seen now behind this one: a new turn, when this one was there before.
    pub fn of_child(self) -> History {
        History { uses: 0, turn: (self.turn + u8::from(self.uses > 0)).min(MOST_TURNS), long_pause: false }
    }

    pub(crate) fn class(self) -> u8 {
        match self.uses.min(MOST_USES) {
            0 => self.turn,
            uses => 4 + ((uses - 1) * 4 + self.turn) * 2 + u8::from(self.long_pause),
        }
    }
}

impl Density {
    /// The queue of arena blocks that are about to be written: evicting one would lose it, so they go last.
    pub const UNWRITTEN: u8 = CLASSES as u8;

    pub fn queue(tier: TierKind, record: &Record) -> u8 {
        if tier == TierKind::Cpu && record.backlogged { Density::UNWRITTEN } else { record.history.class() }
    }

    /// The head that is worth least.
    pub fn least(&self, now: Tick, queues: &Queues, spared: Option<BlockIndex>) -> Option<Head> {
        let mut best: Option<(f64, Head)> = None;
        for head in queues.heads_but(spared) {
            let value = match head.queue {
                Density::UNWRITTEN => f64::INFINITY,
                class => self.model.value(class, now.since_ms(last_use(head.order))),
            };
            let better = |(least, first): (f64, Head)| value < least || (value == least && head.order < first.order);
            if best.is_none_or(better) {
                best = Some((value, head));
            }
        }
        best.map(|(_, head)| head)
    }

    /// Notes a use of a block, whether it is here or not. `blocks` is how many the ledger holds.
    pub fn used(&mut self, now: Tick, name: u64, class: u8, blocks: u64) {
        self.watch.used(now, name, class, blocks, &mut self.model);
    }

    /// Keeps the history of a block that goes.
    pub fn forget(&mut self, name: u64, history: History, last: Tick, blocks: u64) {
        self.past.put(name, history, last, blocks);
    }

    /// The history of a block that comes back, and its pause.
    pub fn recall(&self, now: Tick, name: u64) -> Option<(History, u64)> {
        self.past.get(now, name)
    }
}
