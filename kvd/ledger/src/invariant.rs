//! What must be true after every step.

use crate::lease::{LeaseKind, LoadBlock, StoreBlock};
use crate::machine::{Ledger, Op};
use crate::record::{BlockIndex, USUAL_PRIORITY};
use kvd_block::{SlotIndex, TierKind};
use std::collections::{BTreeMap, BTreeSet};

impl Ledger {
    /// Panics when an invariant is broken. Costs time in proportion to everything the ledger holds: for simulation and tests.
    pub fn check(&self) {
        self.check_slots();
        self.check_pins();
        self.check_links();
        self.check_lists();
        self.check_queues();
    }

    /// Every slot taken has exactly one owner, and no two slots overlap.
    fn check_slots(&self) {
        for tier in TierKind::ALL {
            let Some(state) = &self.tiers[tier as usize] else { continue };
            let mut owned: Vec<(SlotIndex, u32)> = Vec::new();
            let mut resident = 0;
            for index in self.records.indices() {
                let record = &self.records[index];
                let moving = match tier {
                    TierKind::Cpu => record.filling || record.reading,
                    TierKind::Nvme => record.writing,
                };
                assert!(!(moving && record.resident.contains(tier)), "{} gains {tier} while it has it", record.key);
                if record.resident.contains(tier) || moving {
                    owned.push((record.slot(tier), self.slot_pages(index)));
                    let owner = state.space.owner(record.slot(tier), self.slot_pages(index));
                    assert_eq!(owner, Some(index.number() as u32), "the slot of {} in {tier} knows it", record.key);
                }
                resident += u64::from(record.resident.contains(tier));
            }
            match tier {
                TierKind::Cpu => owned.extend(self.late_slots()),
                TierKind::Nvme => owned.extend(self.erasing_slots()),
            }
            owned.sort();
            for pair in owned.windows(2) {
                assert!(pair[0].0.0 + pair[0].1 <= pair[1].0.0, "slots {} and {} of {tier} overlap", pair[0].0, pair[1].0);
            }
            let bytes: u64 = owned.iter().map(|(_, pages)| u64::from(*pages) * kvd_block::PAGE_BYTES).sum();
            assert_eq!(bytes, state.space.used_bytes(), "every slot taken in {tier} has an owner");
            assert_eq!(resident, state.blocks, "blocks resident in {tier} are counted");
            let by_layout: u64 = self.layouts.values().map(|facts| facts.blocks[tier as usize]).sum();
            assert_eq!(resident, by_layout, "and by layout, too");
        }
    }

    fn erasing_slots(&self) -> impl Iterator<Item = (SlotIndex, u32)> + '_ {
        let running =
            self.ops.values().filter_map(|op| if let Op::Erase { address, pages } = op { Some((*address, *pages)) } else { None });
        running.chain(self.erases.backlog.iter().copied())
    }

    fn late_slots(&self) -> impl Iterator<Item = (SlotIndex, u32)> + '_ {
        self.leases
            .values()
            .flat_map(|lease| match &lease.kind {
                LeaseKind::Store(blocks) => blocks.as_slice(),
                LeaseKind::Load(_) => &[],
            })
            .filter_map(|block| if let StoreBlock::Late { slot, pages } = block { Some((*slot, *pages)) } else { None })
    }

    /// Pins, fills and transfers are exactly what leases and operations hold.
    fn check_pins(&self) {
        let mut pins: BTreeMap<BlockIndex, u32> = BTreeMap::new();
        let mut filling = BTreeSet::new();
        for (id, lease) in &self.leases {
            assert!(self.sessions[&lease.session].contains(id), "a lease belongs to an open session");
            match &lease.kind {
                LeaseKind::Load(blocks) => {
                    for (at, block) in blocks.iter().enumerate() {
                        match block {
                            LoadBlock::Ready(index) => *pins.entry(*index).or_default() += 1,
                            LoadBlock::Staging(index) => {
                                assert!(self.records[*index].staging, "a block that is waited for is being staged");
                                assert!(self.waiters[index].contains(&(*id, at as u32)), "a lease that waits is listed");
                            }
                            LoadBlock::Missing => {}
                        }
                    }
                }
                LeaseKind::Store(blocks) => {
                    for block in blocks {
                        if let StoreBlock::Filling { index, .. } = block {
                            assert!(filling.insert(*index), "one lease fills a block");
                        }
                    }
                }
            }
        }
        for index in self.records.indices() {
            let record = &self.records[index];
            assert_eq!(record.pins, pins.get(&index).copied().unwrap_or(0), "pins of {}", record.key);
            assert_eq!(record.filling, filling.contains(&index), "fill of {}", record.key);
            assert_eq!(record.writing, self.ops.values().any(|op| *op == Op::Write(index)), "write of {}", record.key);
            assert_eq!(record.reading, self.ops.values().any(|op| *op == Op::Read(index)), "read of {}", record.key);
            assert!(record.pins == 0 || record.resident.contains(TierKind::Cpu), "{} is pinned where it is not", record.key);
            assert!(!record.doomed || record.in_use(), "{} is doomed and nothing keeps it", record.key);
            assert!(!record.spoiled || record.used_in(TierKind::Cpu), "{} is spoiled and nothing keeps it", record.key);
        }
        assert_eq!(self.writes + self.reads + self.erases.running, self.ops.len());
    }

    fn check_links(&self) {
        let mut links: BTreeMap<BlockIndex, (u32, [u32; 2])> = BTreeMap::new();
        for index in self.records.indices() {
            let record = &self.records[index];
            if let Some(parent) = record.parent {
                let above = &self.records[parent];
                assert!(above.parent.is_none() || above.position < record.position, "the chain of {} goes in a circle", record.key);
                let entry = links.entry(parent).or_default();
                entry.0 += 1;
                TierKind::ALL.into_iter().for_each(|tier| entry.1[tier as usize] += u32::from(record.resident.contains(tier)));
                entry.1[TierKind::Cpu as usize] += u32::from(record.filling);
            }
        }
        for index in self.records.indices() {
            let record = &self.records[index];
            let counted = links.get(&index).copied().unwrap_or_default();
            assert_eq!((record.links, record.children), counted, "children of {}", record.key);
            assert!(!record.resident.is_empty() || record.in_use() || record.links > 0, "{} is kept for nothing", record.key);
        }
    }

    fn check_lists(&self) {
        for tier in TierKind::ALL {
            let Some(state) = &self.tiers[tier as usize] else { continue };
            let listed = self.records.iter().filter(|record| record.listed.contains(tier)).count();
            assert_eq!(listed, state.lists.len(), "blocks listed in {tier}");
            for index in self.records.indices() {
                let record = &self.records[index];
                let wanted = self.evictable(index, tier);
                assert_eq!(record.listed.contains(tier), wanted, "{} is listed in {tier} when it may be evicted", record.key);
                assert!(!wanted || state.lists.contains(self.place_of(index, tier), index), "{} is in its list", record.key);
                assert!(!wanted || !record.used_in(tier), "{} is listed and in use", record.key);
            }
        }
    }

    fn check_queues(&self) {
        assert!(self.write_backlog.len() <= self.config.max_write_backlog);
        assert!(self.read_backlog.len() <= self.config.max_read_backlog);
        assert!(self.writes + self.erases.running <= self.config.max_writes, "erases take the places of writes");
        assert!(self.writes <= self.config.max_writes && self.reads <= self.config.max_reads);
        let deadlines = self.leases.values().filter(|lease| lease.deadline.is_some()).count();
        assert_eq!(deadlines, self.deadlines.len(), "deadlines are those of leases");
        for index in self.retained.blocks() {
            assert!(
                self.records.get(*index).is_some_and(|record| !record.resident.is_empty()),
                "a priority is kept for a block that is gone"
            );
        }
        let usual = self.records.indices().filter(|index| self.records[*index].priority != USUAL_PRIORITY);
        usual.for_each(|index| assert!(self.retained.contains(index), "{} has a priority for ever", self.records[index].key));
        for index in self.waiters.keys().chain(self.pinned.blocks()) {
            assert!(self.records.get(*index).is_some(), "a table points to a block that is gone");
        }
    }
}
