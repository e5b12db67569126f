//! The blocks of one tier that may be evicted, in the order in which they would go.
//!
//! Blocks compete for slots of their own size, so each slot size has lists of its own. Within it the lowest priority goes first,
//! whatever the policy says; within a priority the policy has one or more queues, each ordered by a number of its own. The head
//! of every queue is kept beside it, because a policy with many queues looks at all heads and at nothing else.

use crate::record::BlockIndex;
use std::collections::{BTreeMap, BTreeSet};

/// Where a block stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub slot_pages: u32,
    pub priority: u8,
    pub queue: u8,
    pub order: u64,
}

/// The first block of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub queue: u8,
    pub order: u64,
    pub index: BlockIndex,
}

#[derive(Debug, Default)]
struct Queue {
    blocks: BTreeSet<(u64, BlockIndex)>,
    head: Option<(u64, BlockIndex)>,
}

/// The queues of one slot size and one priority.
#[derive(Debug, Default)]
pub(crate) struct Queues(Vec<Queue>);

impl Queues {
    /// The first block of every queue that has one.
    pub fn heads(&self) -> impl Iterator<Item = Head> + '_ {
        (0..).zip(&self.0).filter_map(|(queue, state)| state.head.map(|(order, index)| Head { queue, order, index }))
    }

    /// As [`Queues::heads`], looking past one block.
    pub fn heads_but(&self, spared: Option<BlockIndex>) -> impl Iterator<Item = Head> + '_ {
        (0..).zip(&self.0).filter_map(move |(queue, state)| {
            let (order, index) = match state.head? {
                (_, index) if Some(index) == spared => *state.blocks.iter().nth(1)?,
                head => head,
            };
            Some(Head { queue, order, index })
        })
    }

    /// Blocks of one queue from `order` on.
    pub fn from(&self, queue: u8, order: u64) -> impl Iterator<Item = Head> + '_ {
        let blocks = self.0.get(usize::from(queue)).map(|state| state.blocks.range((order, BlockIndex::FIRST)..));
        blocks.into_iter().flatten().map(move |(order, index)| Head { queue, order: *order, index: *index })
    }
}

/// Every list of one tier.
#[derive(Debug, Default)]
pub(crate) struct EvictionLists {
    queues: BTreeMap<(u32, u8), Queues>,
    listed: usize,
}

impl EvictionLists {
    pub fn insert(&mut self, place: Place, index: BlockIndex) {
        let queues = &mut self.queues.entry((place.slot_pages, place.priority)).or_default().0;
        let at = usize::from(place.queue);
        if queues.len() <= at {
            queues.resize_with(at + 1, Queue::default);
        }
        let entry = (place.order, index);
        let queue = &mut queues[at];
        queue.blocks.insert(entry);
        queue.head = Some(queue.head.map_or(entry, |head| head.min(entry)));
        self.listed += 1;
    }

    pub fn remove(&mut self, place: Place, index: BlockIndex) {
        let entry = (place.order, index);
        let queues = self.queues.get_mut(&(place.slot_pages, place.priority));
        let queue = queues.and_then(|queues| queues.0.get_mut(usize::from(place.queue)));
        let queue = queue.filter(|queue| queue.blocks.contains(&entry)).expect("a listed block is where its state says");
        queue.blocks.remove(&entry);
        if queue.head == Some(entry) {
            queue.head = queue.blocks.first().copied();
        }
        self.listed -= 1;
    }

    pub fn contains(&self, place: Place, index: BlockIndex) -> bool {
        let queue = self.queues.get(&(place.slot_pages, place.priority)).and_then(|queues| queues.0.get(usize::from(place.queue)));
        queue.is_some_and(|queue| queue.blocks.contains(&(place.order, index)) && queue.head == queue.blocks.first().copied())
    }

    /// The queues of one slot size, lowest priority first.
    pub fn of_size(&self, slot_pages: u32) -> impl Iterator<Item = (u8, &Queues)> {
        self.queues.range((slot_pages, 0)..=(slot_pages, u8::MAX)).map(|((_, priority), queues)| (*priority, queues))
    }

    pub fn len(&self) -> usize {
        self.listed
    }
}
