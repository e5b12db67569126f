//! The copy engine over a real arena: what is stored comes back, and nothing else ever does.

mod fake_daemon;

use fake_daemon::{FakeDaemon, eventually, layout, silent};
use kvd_block::{BlockHeader, Checksum, LayoutSpec, LocalHash, SequenceHash, SlotIndex};
use kvd_connector::{CopyError, CopyPool, LayerPages, LoadJob, MappedArena, PagedKv, PagesError, TransferError, WorkerLink, transfer};
use kvd_shm::{Arena, HugePages};
use std::sync::Arc;
use std::time::Duration;

/// KV memory of one rank that the test owns: `layers` arrays of `blocks` pages with gaps between the pages.
struct Kv {
    _memory: Vec<Vec<u8>>,
    pages: Arc<PagedKv>,
    page_bytes: Vec<usize>,
}

const GAP: usize = 24;

impl Kv {
    fn new(page_bytes: &[usize], blocks: usize, rank: u16, ranks: u16, seed: u8) -> Kv {
        let mut memory: Vec<Vec<u8>> = page_bytes
            .iter()
            .enumerate()
            .map(|(layer, page)| (0..(page + GAP) * blocks).map(|i| noise(i, layer, seed)).collect())
            .collect();
        let layer = |(memory, page): (&mut Vec<u8>, &usize)| LayerPages {
            base: memory.as_mut_ptr() as usize,
            page_bytes: *page,
            stride_bytes: page + GAP,
            num_blocks: blocks,
        };
        let layers = memory.iter_mut().zip(page_bytes).map(layer).collect();
        let spec = layout(ranks, page_bytes.iter().sum::<usize>() as u64);
        // SAFETY: the memory lives as long as the `Kv`, and only the copies under test touch it meanwhile.
        let pages = Arc::new(unsafe { PagedKv::new(layers, rank, spec) }.unwrap());
        Kv { _memory: memory, pages, page_bytes: page_bytes.to_vec() }
    }

    /// The bytes of one block, all layers.
    fn block(&self, block: usize) -> Vec<u8> {
        let layers = self.pages.layers().iter().zip(&self.page_bytes);
        let bytes = |(layer, page): (&LayerPages, &usize)| {
            let start = (layer.base + block * (page + GAP)) as *const u8;
            // SAFETY: a page of memory that `self` owns and nobody writes now.
            unsafe { std::slice::from_raw_parts(start, *page) }.to_vec()
        };
        layers.flat_map(bytes).collect()
    }

    fn spec(&self) -> LayoutSpec {
        self.pages.spec().clone()
    }
}

fn noise(i: usize, layer: usize, seed: u8) -> u8 {
    let mixed = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (layer as u64 * 77 + u64::from(seed));
    (mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u8
}

fn hash(n: usize) -> SequenceHash {
    SequenceHash([n as u8; 16])
}

fn arena() -> Arc<MappedArena> {
    Arc::new(MappedArena::new(Arena::create(64 << 20, HugePages::Never).unwrap()))
}

/// Slot `n` of a layout, with one page left free in front.
fn slots(spec: &LayoutSpec, blocks: usize) -> Vec<SlotIndex> {
    (0..blocks as u32).map(|n| SlotIndex(1 + n * spec.slot_pages())).collect()
}

/// What the daemon does when a store completes.
fn seal(arena: &Arena, slot: SlotIndex, spec: &LayoutSpec, hash: SequenceHash, stripes: Vec<Checksum>) {
    let parent = SequenceHash::ROOT;
    let header = BlockHeader {
        hash,
        parent,
        local: LocalHash(0),
        position: 0,
        created_unix_ms: 0,
        generation: 0,
        layout: spec.clone(),
        stripes,
        tokens: vec![],
    };
    let mut page = [0; 4096];
    header.encode(&mut page);
    arena.write_header(slot, &page);
}

/// Stores all blocks of `kv` and seals them as `hash(0)`, `hash(1)`, …
fn stored(pool: &CopyPool, kv: &Kv, arena: &Arc<MappedArena>) -> (Vec<usize>, Vec<SlotIndex>, Vec<SequenceHash>) {
    let blocks: Vec<usize> = (0..kv.pages.num_blocks()).collect();
    let slots = slots(kv.pages.spec(), blocks.len());
    let checksums = transfer::store(pool, &kv.pages, arena, &blocks, &slots).unwrap();
    for (n, checksum) in checksums.iter().enumerate() {
        seal(arena, slots[n], &kv.spec(), hash(n), vec![*checksum]);
    }
    (blocks.clone(), slots, blocks.into_iter().map(hash).collect())
}

/// Small stays on one thread, large goes through the pool; odd sizes end in the middle of every unit.
const SHAPES: [(&[usize], usize); 3] = [(&[4096, 4096], 5), (&[3, 12_345, 4097], 7), (&[300_000, 300_001, 65_536], 9)];

#[test]
fn what_is_stored_comes_back_in_any_order() {
    for (page_bytes, count) in SHAPES {
        let (pool, arena, source) = (CopyPool::new(3), arena(), Kv::new(page_bytes, count, 0, 1, 1));
        let (blocks, mut slots, mut hashes) = stored(&pool, &source, &arena);
        slots.reverse();
        hashes.reverse();
        let target = Kv::new(page_bytes, count, 0, 1, 2);
        assert_eq!(transfer::load(&pool, &target.pages, &arena, &blocks, &slots, &hashes).unwrap(), vec![true; count]);
        for block in blocks {
            assert!(target.block(block) == source.block(count - 1 - block), "block {block}");
        }
    }
}

#[test]
fn the_checksum_is_that_of_the_whole_stripe() {
    let (pool, arena, kv) = (CopyPool::new(2), arena(), Kv::new(&[5000, 70_000], 2, 0, 1, 1));
    let checksums = transfer::store(&pool, &kv.pages, &arena, &[1], &[SlotIndex(0)]).unwrap();
    assert_eq!(checksums, [Checksum::of(&kv.block(1))]);
}

#[test]
fn a_flipped_bit_is_found_and_only_in_its_block() {
    let (pool, arena, kv) = (CopyPool::new(2), arena(), Kv::new(&[4096, 5000], 3, 0, 1, 1));
    let (blocks, slots, hashes) = stored(&pool, &kv, &arena);
    let at = arena.address(slots[1].offset_bytes() + 4096 + 9000, 1);
    // SAFETY: one byte inside the arena, as `address` checked.
    unsafe { *at ^= 4 };
    assert_eq!(transfer::load(&pool, &kv.pages, &arena, &blocks, &slots, &hashes).unwrap(), [true, false, true]);
}

#[test]
fn a_slot_that_holds_something_else_is_not_loaded() {
    let (pool, arena, kv) = (CopyPool::new(2), arena(), Kv::new(&[4096], 4, 0, 1, 1));
    let (blocks, slots, mut hashes) = stored(&pool, &kv, &arena);
    hashes[0] = hash(99);
    let other = LayoutSpec { model: "other".into(), ..kv.spec() };
    seal(&arena, slots[1], &other, hashes[1], vec![Checksum::of(&kv.block(1))]);
    arena.write_header(slots[2], &[0; 4096]);
    let target = Kv::new(&[4096], 4, 0, 1, 2);
    let before = target.block(0);
    assert_eq!(transfer::load(&pool, &target.pages, &arena, &blocks, &slots, &hashes).unwrap(), [false, false, false, true]);
    assert_eq!(target.block(0), before, "a wrong block is not even copied");
}

#[test]
fn each_rank_has_its_own_stripe() {
    let (pool, arena) = (CopyPool::new(2), arena());
    let ranks: Vec<Kv> = (0..3).map(|rank| Kv::new(&[5000, 77], 2, rank, 3, rank as u8)).collect();
    let slots = slots(ranks[0].pages.spec(), 2);
    let stripes: Vec<Vec<Checksum>> = ranks.iter().map(|kv| transfer::store(&pool, &kv.pages, &arena, &[0, 1], &slots).unwrap()).collect();
    for n in 0..2 {
        seal(&arena, slots[n], &ranks[0].spec(), hash(n), stripes.iter().map(|rank| rank[n]).collect());
    }
    for rank in 0..3u16 {
        let target = Kv::new(&[5000, 77], 2, rank, 3, 200);
        let whole = transfer::load(&pool, &target.pages, &arena, &[0, 1], &slots, &[hash(0), hash(1)]).unwrap();
        assert_eq!(whole, [true, true]);
        assert_eq!(target.block(1), ranks[usize::from(rank)].block(1));
    }
}

#[test]
fn memory_that_is_not_there_is_refused_before_anything_is_copied() {
    let (pool, arena, kv) = (CopyPool::new(1), arena(), Kv::new(&[4096], 2, 0, 1, 1));
    let last = (arena.bytes() / 4096) as u32;
    let store = |blocks: &[usize], slots: &[SlotIndex]| transfer::store(&pool, &kv.pages, &arena, blocks, slots).unwrap_err();
    assert_eq!(store(&[2], &[SlotIndex(0)]), TransferError::BadBlock { block: 2, num_blocks: 2 });
    assert!(matches!(store(&[0], &[SlotIndex(last - 1)]), TransferError::BadSlot { .. }));
    assert!(matches!(store(&[0], &[SlotIndex(u32::MAX)]), TransferError::BadSlot { .. }));
    assert!(matches!(store(&[0, 1], &[SlotIndex(0)]), TransferError::Lengths { .. }));
    let load = transfer::load(&pool, &kv.pages, &arena, &[0], &[SlotIndex(0)], &[]).unwrap_err();
    assert_eq!(load, TransferError::Lengths { blocks: 1, slots: 1, hashes: 0 });
}

#[test]
fn pages_that_are_not_one_stripe_are_refused() {
    let layer = LayerPages { base: 4096, page_bytes: 100, stride_bytes: 100, num_blocks: 1 };
    // SAFETY: refused before any memory could be touched.
    let refused = |layers: Vec<LayerPages>, rank, spec| unsafe { PagedKv::new(layers, rank, spec) }.unwrap_err();
    let error = refused(vec![layer, layer], 0, layout(1, 300));
    assert_eq!(error.to_string(), "the pages of one block add up to 200 bytes over 2 layers, the layout says stripe_bytes = 300");
    assert_eq!(refused(vec![layer], 1, layout(1, 100)), PagesError::BadRank { rank: 1, ranks: 1 });
    assert_eq!(refused(vec![], 0, layout(1, 100)), PagesError::NoLayers);
    let overlapping = LayerPages { stride_bytes: 99, num_blocks: 2, ..layer };
    let endless = LayerPages { stride_bytes: usize::MAX / 2, num_blocks: 9, ..layer };
    for bad in [overlapping, endless, LayerPages { base: 0, ..layer }] {
        assert!(matches!(refused(vec![bad], 0, layout(1, 100)), PagesError::BadLayer { layer: 0, .. }));
    }
}

#[test]
fn a_layerwise_load_hands_over_layer_by_layer() {
    for threads in [1, 3] {
        let (pool, arena) = (CopyPool::new(threads), arena());
        let source = Kv::new(&[40_000, 50_001, 60_000], 7, 0, 1, 1);
        let (blocks, slots, mut hashes) = stored(&pool, &source, &arena);
        hashes[3] = hash(99);
        let target = Kv::new(&[40_000, 50_001, 60_000], 7, 0, 1, 2);
        let job = LoadJob::start(&pool, &target.pages, &arena, &blocks, &slots, &hashes).unwrap();
        job.wait_layer(0);
        assert_eq!(target.block(5)[..40_000], source.block(5)[..40_000]);
        job.wait_layer(2);
        assert_eq!(target.block(6), source.block(6));
        assert_eq!(job.finish(), [true, true, true, false, true, true, true]);
    }
}

#[test]
fn an_empty_load_is_finished_at_once() {
    let (pool, arena, kv) = (CopyPool::new(2), arena(), Kv::new(&[4096], 1, 0, 1, 1));
    let job = LoadJob::start(&pool, &kv.pages, &arena, &[], &[], &[]).unwrap();
    job.wait_layer(0);
    assert!(job.finish().is_empty());
}

#[test]
fn a_worker_refuses_slots_of_another_life_of_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("kvd.sock");
    let daemon = FakeDaemon::start(&socket, 5, silent());
    let worker = WorkerLink::connect(socket.clone(), "e1".into(), "test".into(), 2);
    assert!(worker.wait_connected(Duration::from_secs(5)));
    let kv = Kv::new(&[4096], 1, 0, 1, 1);
    assert_eq!(worker.store(&kv.pages, 4, &[0], &[SlotIndex(0)]), Err(CopyError::OtherIncarnation));
    let checksums = worker.store(&kv.pages, 5, &[0], &[SlotIndex(0)]).unwrap();
    seal(&daemon.arena, SlotIndex(0), &kv.spec(), hash(1), checksums);
    assert_eq!(worker.load(&kv.pages, 5, &[0], &[SlotIndex(0)], &[hash(1)]), Ok(vec![true]));
    daemon.kill();
    let _next = FakeDaemon::start(&socket, 6, silent());
    eventually("the next daemon is found", || worker.incarnation() == 6);
    assert_eq!(worker.load(&kv.pages, 5, &[0], &[SlotIndex(0)], &[hash(1)]), Err(CopyError::OtherIncarnation));
    assert_eq!(worker.load(&kv.pages, 6, &[0], &[SlotIndex(0)], &[hash(1)]), Ok(vec![false]), "its arena is empty");
}
