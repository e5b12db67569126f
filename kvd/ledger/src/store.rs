//! From an engine's memory into the arena.

use crate::evict::Use;
use crate::input::{Action, LedgerReply, SealedBlock};
use crate::lease::{LeaseKind, StoreBlock};
use crate::machine::Ledger;
use crate::record::BlockIndex;
use kvd_block::{BlockKey, FilledBlock, LayoutHandle, LeaseId, NewBlock, SessionId, StoreGrant, TierKind};

impl Ledger {
    pub(crate) fn prepare_store(
        &mut self,
        session: SessionId,
        layout: LayoutHandle,
        blocks: Vec<NewBlock>,
        actions: &mut Vec<Action>,
    ) -> LedgerReply {
        let mut grants = Vec::with_capacity(blocks.len());
        let mut held = Vec::with_capacity(blocks.len());
        let mut refused = None;
        for block in blocks {
            let (hash, is_orphan) = (block.hash, Some(block.parent) == refused);
            let (grant, hold) = self.grant_store(layout, block, is_orphan, actions);
            if grant == StoreGrant::Busy {
                refused = Some(hash);
            }
            self.count_grant(grant);
            grants.push(grant);
            held.push(hold);
        }
        let anything = held.iter().any(|block| matches!(block, StoreBlock::Filling { .. }));
        let expires = self.now.after_ms(self.config.store_lease_ms);
        let lease = if anything { self.open_lease(session, expires, expires, LeaseKind::Store(held)) } else { self.next_lease_id() };
        LedgerReply::StoreLease { lease, grants }
    }

    fn grant_store(
        &mut self,
        layout: LayoutHandle,
        block: NewBlock,
        is_orphan: bool,
        actions: &mut Vec<Action>,
    ) -> (StoreGrant, StoreBlock) {
        let index = self.records.find_or_create(BlockKey { layout, hash: block.hash });
        self.records.place(index, block.parent, block.local, block.position);
        let record = &mut self.records[index];
        if record.filling || record.doomed {
            return (StoreGrant::Pending, StoreBlock::None);
        }
        if !record.resident.is_empty() {
            self.touch(index, Use::Served);
            self.offer_again(index);
            return (StoreGrant::Present, StoreBlock::None);
        }
        // Set first: making room may evict this record's last child, and the record must outlive that.
        self.start_filling(index);
        self.meet(index);
        // Without its parent a block is useless.
        let slot = if is_orphan { None } else { self.obtain_slot(TierKind::Cpu, index, actions) };
        let Some(slot) = slot else {
            self.end_filling(index);
            self.remember(index);
            self.records.release(index);
            return (StoreGrant::Busy, StoreBlock::None);
        };
        self.records[index].slots[TierKind::Cpu as usize] = slot;
        (StoreGrant::Write(slot), StoreBlock::Filling { index, tokens: block.tokens })
    }

    pub(crate) fn complete_store(&mut self, session: SessionId, lease: LeaseId, filled: Vec<FilledBlock>, actions: &mut Vec<Action>) {
        let Some(LeaseKind::Store(mut blocks)) = self.take_lease_of_store(session, lease) else { return };
        for FilledBlock { index: at, stripes } in filled {
            let Some(block) = blocks.get_mut(at as usize) else { continue };
            match std::mem::replace(block, StoreBlock::None) {
                StoreBlock::Filling { index, tokens } if self.ranks_of(index) == stripes.len() => {
                    self.finish_store(index, tokens, stripes, actions);
                }
                other => self.abandon(other),
            }
        }
        blocks.into_iter().for_each(|block| self.abandon(block));
    }

    fn take_lease_of_store(&mut self, session: SessionId, lease: LeaseId) -> Option<LeaseKind> {
        let is_store = matches!(self.leases.get(&lease)?.kind, LeaseKind::Store(_));
        if is_store { self.take_lease(session, lease) } else { None }
    }

    fn ranks_of(&self, index: BlockIndex) -> usize {
        usize::from(self.layouts[&self.records[index].key.layout].ranks)
    }

    fn finish_store(&mut self, index: BlockIndex, tokens: Vec<u8>, stripes: Vec<kvd_block::Checksum>, actions: &mut Vec<Action>) {
        if self.records[index].doomed {
            return self.abandon(StoreBlock::Filling { index, tokens });
        }
        let stamp = self.next_stamp();
        // Gaining the arena counts the block as its parent's child again.
        self.count_child(index, false);
        let record = &mut self.records[index];
        record.filling = false;
        record.stamp = stamp;
        actions.push(Action::Seal(SealedBlock {
            key: record.key,
            slot: record.slot(TierKind::Cpu),
            parent: record.parent_hash,
            local: record.local,
            position: record.position,
            tokens,
            stripes,
            generation: self.layouts[&record.key.layout].generation,
        }));
        self.counters.stored += 1;
        self.gain(index, TierKind::Cpu, actions);
        self.offer_new(index);
    }

    /// Gives up one block of a store lease: its slot is free again.
    pub(crate) fn abandon(&mut self, block: StoreBlock) {
        let (slot, pages) = match block {
            StoreBlock::None => return,
            StoreBlock::Late { slot, pages } => (slot, pages),
            StoreBlock::Filling { index, .. } => {
                let (slot, pages) = (self.records[index].slot(TierKind::Cpu), self.slot_pages(index));
                self.stop_filling(index);
                (slot, pages)
            }
        };
        self.tier(TierKind::Cpu).expect("there is always an arena").space.give_back(slot, pages);
    }

    /// Takes the blocks of an overdue store lease away from it. Its slots stay with it.
    pub(crate) fn detach_store(&mut self, id: LeaseId) {
        let Some(LeaseKind::Store(blocks)) = self.leases.get_mut(&id).map(|lease| &mut lease.kind) else { return };
        let mut blocks = std::mem::take(blocks);
        for block in &mut blocks {
            if let StoreBlock::Filling { index, .. } = *block {
                let (slot, pages) = (self.records[index].slot(TierKind::Cpu), self.slot_pages(index));
                *block = StoreBlock::Late { slot, pages };
                self.tier(TierKind::Cpu).expect("there is always an arena").space.set_owner(slot, pages, None);
                self.stop_filling(index);
            }
        }
        self.leases.get_mut(&id).expect("found above").kind = LeaseKind::Store(blocks);
    }

    fn stop_filling(&mut self, index: BlockIndex) {
        self.counters.store_abandoned += 1;
        self.end_filling(index);
        self.records[index].doomed = false;
        self.records.release(index);
    }

    /// A block that is being stored keeps its parent in the arena: without it, it would be useless.
    fn start_filling(&mut self, index: BlockIndex) {
        self.records[index].filling = true;
        self.count_child(index, true);
        self.records[index].parent.into_iter().for_each(|parent| self.relist(parent));
    }

    fn end_filling(&mut self, index: BlockIndex) {
        self.records[index].filling = false;
        self.count_child(index, false);
        self.records[index].parent.into_iter().for_each(|parent| self.relist(parent));
    }

    fn count_child(&mut self, index: BlockIndex, more: bool) {
        if let Some(parent) = self.records[index].parent {
            let children = &mut self.records[parent].children[TierKind::Cpu as usize];
            *children = if more { *children + 1 } else { *children - 1 };
        }
    }

    fn count_grant(&mut self, grant: StoreGrant) {
        let counter = match grant {
            StoreGrant::Write(_) => &mut self.counters.store_granted,
            StoreGrant::Present | StoreGrant::Pending => &mut self.counters.store_deduplicated,
            StoreGrant::Busy => &mut self.counters.store_busy,
        };
        *counter += 1;
    }
}
