//! The contract of a tier as a test suite: whatever implements [`Tier`] must pass [`run`].
//!
//! It panics at the first broken promise, naming it. It writes over the first 64 slots of the tier's medium.

use crate::error::TierError;
use crate::tier::{BlockName, ReadBlock, Tier, WriteBlock};
use kvd_block::{BlockHeader, HEADER_BYTES, LayoutSpec, PAGE_BYTES, RouteHash, SequenceHash, SlotIndex};
use kvd_shm::{Arena, Slot};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Slots of the arena and of the tier that the suite uses, besides one for each block that the tier allows in flight.
pub const SLOTS: u32 = 16;
/// Far longer than any healthy device needs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Flips a bit of the byte at an offset inside the image at an address of the medium, behind the tier's back.
pub type FlipBit<'a> = &'a dyn Fn(SlotIndex, u64);

/// Runs every check. `arena` must have room for `limits().max_inflight_blocks +` [`SLOTS`] slots of
/// [`sample_layout`], and the tier for as many; checks that need `flip_bit` are left out without it.
pub fn run(tier: &dyn Tier, arena: &Arc<Arena>, flip_bit: Option<FlipBit<'_>>) {
    let suite = Suite { tier, arena, layout: sample_layout() };
    suite.an_empty_batch_is_answered();
    suite.what_was_never_written_is_an_error();
    suite.bytes_come_back_exactly();
    suite.another_name_is_corrupt();
    suite.an_overwritten_address_holds_the_newer_block_only();
    suite.an_erased_block_is_gone();
    suite.one_bad_block_does_not_fail_its_batch();
    suite.addresses_that_are_not_slots_are_refused();
    suite.too_many_blocks_are_busy_and_the_rest_succeeds();
    suite.a_dropped_completion_cancels_nothing_and_frees_its_slots();
    if let Some(flip_bit) = flip_bit {
        suite.a_flipped_bit_is_found(flip_bit);
    }
}

/// A small layout whose payload is not whole pages: two stripes of 6,000 bytes.
pub fn sample_layout() -> LayoutSpec {
    LayoutSpec {
        model: "sample".into(),
        weights: "none".into(),
        kv_dtype: "bfloat16".into(),
        block_tokens: 16,
        group: 0,
        attention: "full_attention".into(),
        geometry: "bytes".into(),
        ranks: 2,
        stripe_bytes: 6000,
    }
}

/// Fills `slot` with a sealed image whose name and bytes follow from `seed`.
pub fn seal(slot: &Slot, layout: &LayoutSpec, seed: u64) -> BlockName {
    let payload: Vec<u8> = (0..layout.payload_bytes()).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed) as u8).collect();
    slot.write_at(HEADER_BYTES, &payload);
    let mut hash = [0xA5; 16];
    hash[..8].copy_from_slice(&seed.to_le_bytes());
    let header = BlockHeader {
        hash: SequenceHash(hash),
        parent: SequenceHash::ROOT,
        route: RouteHash(seed),
        position: 0,
        created_unix_ms: 0,
        generation: 0,
        layout: layout.clone(),
        stripes: (0..layout.ranks).map(|rank| slot.checksum_at(layout.stripe_offset(rank), layout.stripe_bytes)).collect(),
        tokens: Vec::new(),
    };
    let mut page = [0; HEADER_BYTES as usize];
    header.encode(&mut page);
    slot.write_header(&page);
    BlockName { layout: layout.id(), hash: header.hash }
}

/// Address of the `nth` slot of `slot_pages` pages in a medium with extents of `extent_bytes`.
pub fn nth_address(nth: u32, slot_pages: u32, extent_bytes: u64) -> SlotIndex {
    let extent_pages = (extent_bytes / PAGE_BYTES) as u32;
    let per_extent = (extent_pages - 1) / slot_pages;
    SlotIndex(nth / per_extent * extent_pages + 1 + nth % per_extent * slot_pages)
}

struct Suite<'a> {
    tier: &'a dyn Tier,
    arena: &'a Arc<Arena>,
    layout: LayoutSpec,
}

impl Suite<'_> {
    fn slot(&self, nth: u32) -> Slot {
        Slot::new(self.arena.clone(), SlotIndex(nth * self.layout.slot_pages()), self.layout.slot_bytes())
    }

    fn address(&self, nth: u32) -> SlotIndex {
        nth_address(nth, self.layout.slot_pages(), self.tier.limits().extent_bytes)
    }

    /// Writes the block of `seed` to the `nth` address.
    fn write(&self, nth: u32, seed: u64) -> BlockName {
        let slot = self.slot(nth);
        let name = seal(&slot, &self.layout, seed);
        let written = self.tier.write(vec![WriteBlock { slot, address: self.address(nth) }]).wait();
        let outcome = written.expect("the tier is open").pop().expect("one outcome for one block");
        outcome.result.expect("a write to a free tier succeeds");
        name
    }

    /// Reads the `nth` address into a slot full of something else.
    fn read(&self, nth: u32, name: BlockName) -> (Slot, Result<(), TierError>) {
        let slot = self.slot(nth);
        slot.write_at(0, &vec![0xEE; slot.bytes() as usize]);
        let read = self.tier.read(vec![ReadBlock { slot, address: self.address(nth), name }]).wait();
        let outcome = read.expect("the tier is open").pop().expect("one outcome for one block");
        (outcome.slot, outcome.result)
    }

    fn expect_corrupt(&self, nth: u32, name: BlockName, promise: &str) {
        let (_, result) = self.read(nth, name);
        assert!(matches!(result, Err(TierError::Corrupt { .. })), "{promise}: {result:?}");
    }

    fn an_empty_batch_is_answered(&self) {
        assert!(self.tier.write(Vec::new()).wait().expect("the tier is open").is_empty());
        assert!(self.tier.read(Vec::new()).wait().expect("the tier is open").is_empty());
        assert!(self.tier.erase(Vec::new()).wait().expect("the tier is open").is_empty());
    }

    fn what_was_never_written_is_an_error(&self) {
        let name = BlockName { layout: self.layout.id(), hash: SequenceHash([0x77; 16]) };
        self.expect_corrupt(SLOTS - 1, name, "an address that was never written holds nothing");
    }

    fn bytes_come_back_exactly(&self) {
        let name = self.write(0, 1);
        let image_bytes = (HEADER_BYTES + self.layout.payload_bytes()) as usize;
        let before = self.slot(0).read_at(0, image_bytes);
        let (slot, result) = self.read(0, name);
        result.expect("what was written can be read");
        assert!(slot.read_at(0, image_bytes) == before, "the bytes read are the bytes written");
        assert_eq!(slot.index(), self.slot(0).index(), "the slot that travelled comes back");
    }

    fn another_name_is_corrupt(&self) {
        let name = self.write(1, 2);
        let other_hash = BlockName { hash: SequenceHash([0x78; 16]), ..name };
        self.expect_corrupt(1, other_hash, "a read for another block fails");
        let other_layout = LayoutSpec { group: 1, ..sample_layout() }.id();
        self.expect_corrupt(1, BlockName { layout: other_layout, ..name }, "a read for another layout fails");
        self.read(1, name).1.expect("and the block is still there");
    }

    fn an_overwritten_address_holds_the_newer_block_only(&self) {
        let (older, newer) = (self.write(2, 3), self.write(2, 4));
        self.expect_corrupt(2, older, "the older block is gone");
        self.read(2, newer).1.expect("the newer block is there");
    }

    fn an_erased_block_is_gone(&self) {
        let (erased, kept) = (self.write(3, 5), self.write(4, 6));
        let outcome = self.tier.erase(vec![self.address(3)]).wait().expect("the tier is open");
        assert!(matches!(outcome[..], [Ok(())]), "an erase succeeds: {outcome:?}");
        self.expect_corrupt(3, erased, "an erased block cannot be read");
        self.read(4, kept).1.expect("its neighbour can");
    }

    fn one_bad_block_does_not_fail_its_batch(&self) {
        let names = [self.write(5, 7), self.write(6, 8), self.write(7, 9)];
        let wrong = BlockName { hash: SequenceHash([0x79; 16]), ..names[1] };
        let asked = [(5, names[0]), (6, wrong), (7, names[2])];
        let block = |(nth, name)| ReadBlock { slot: self.slot(nth), address: self.address(nth), name };
        let outcomes = self.tier.read(asked.map(block).into()).wait().expect("the tier is open");
        let good: Vec<bool> = outcomes.iter().map(|outcome| outcome.result.is_ok()).collect();
        assert_eq!(good, [true, false, true], "outcomes are per block, in request order");
        let slots: Vec<SlotIndex> = outcomes.iter().map(|outcome| outcome.slot.index()).collect();
        assert_eq!(slots, [5, 6, 7].map(|nth| self.slot(nth).index()), "each outcome has its own slot");
    }

    fn addresses_that_are_not_slots_are_refused(&self) {
        let limits = self.tier.limits();
        let extent_pages = (limits.extent_bytes / PAGE_BYTES) as u32;
        let beyond = SlotIndex((limits.capacity_bytes / PAGE_BYTES) as u32 + 1);
        for address in [SlotIndex(0), SlotIndex(extent_pages), SlotIndex(extent_pages - 1), beyond] {
            let slot = self.slot(0);
            seal(&slot, &self.layout, 10);
            let outcome = self.tier.write(vec![WriteBlock { slot, address }]).wait().expect("the tier is open");
            assert!(outcome[0].result.is_err(), "a write to page {address}, which is no slot, is refused");
        }
    }

    fn too_many_blocks_are_busy_and_the_rest_succeeds(&self) {
        let most = self.tier.limits().max_inflight_blocks;
        let block = |nth: u32| {
            let slot = self.slot(nth);
            seal(&slot, &self.layout, 100 + u64::from(nth));
            WriteBlock { slot, address: self.address(nth) }
        };
        let outcomes = self.tier.write((0..most as u32 + 3).map(block).collect()).wait().expect("the tier is open");
        let busy = outcomes.iter().filter(|outcome| matches!(outcome.result, Err(TierError::Busy { .. }))).count();
        let done = outcomes.iter().filter(|outcome| outcome.result.is_ok()).count();
        assert_eq!((done, busy), (most, 3), "blocks over the limit are busy, the others are written");
        self.write(0, 11);
    }

    fn a_dropped_completion_cancels_nothing_and_frees_its_slots(&self) {
        let held = Arc::strong_count(self.arena);
        let slot = self.slot(8);
        let name = seal(&slot, &self.layout, 12);
        drop(self.tier.write(vec![WriteBlock { slot, address: self.address(8) }]));
        let deadline = Instant::now() + PATIENCE;
        while Arc::strong_count(self.arena) > held {
            assert!(Instant::now() < deadline, "the slot of a dropped completion is released");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.read(8, name).1.expect("the write of a dropped completion was done");
    }

    fn a_flipped_bit_is_found(&self, flip_bit: FlipBit<'_>) {
        let payload_end = HEADER_BYTES + self.layout.payload_bytes() - 1;
        for offset in [0, 40, 700, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 6000, payload_end] {
            let name = self.write(9, 13);
            flip_bit(self.address(9), offset);
            self.expect_corrupt(9, name, &format!("a flipped bit of byte {offset} is found"));
            flip_bit(self.address(9), offset);
            self.read(9, name).1.expect("and flipped back, the block is whole again");
        }
    }
}
