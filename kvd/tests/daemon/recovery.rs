//! Blocks on storage outlive the daemon.

use super::support::{Engine, Home, Kvd, eventually, rot, sequence};
use kvd_block::BlockState;
use kvd_proto::admin::VerifyRequest;
use std::os::unix::fs::FileExt;

fn store_and_write(home: &Home, kvd: &Kvd, count: u32) -> Vec<kvd_block::NewBlock> {
    let blocks = sequence(1, count);
    let mut engine = Engine::connect(&home.socket(), "before");
    engine.store(&blocks);
    eventually("all is written", || (kvd.counter("written") == u64::from(count)).then_some(()));
    blocks
}

fn all_come_back(home: &Home, blocks: &[kvd_block::NewBlock]) {
    let mut engine = Engine::connect(&home.socket(), "after");
    assert_eq!(engine.lookup(blocks), vec![BlockState::Nvme; blocks.len()]);
    engine.load(blocks);
}

#[test]
fn a_clean_restart_brings_every_block_back() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let blocks = sequence(1, 200);
    Engine::connect(&home.socket(), "before").store(&blocks);
    // No waiting: a clean stop writes what is pending.
    kvd.stop();
    let _kvd = home.start(&[]);
    all_come_back(&home, &blocks);
}

#[test]
fn a_killed_daemon_brings_written_blocks_back() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let life = kvd.status().incarnation;
    let blocks = store_and_write(&home, &kvd, 100);
    // Rows follow within milliseconds and nobody can wait for them.
    std::thread::sleep(std::time::Duration::from_millis(300));
    kvd.kill();
    let kvd = home.start(&[]);
    assert!(kvd.status().incarnation > life);
    all_come_back(&home, &blocks);
}

#[test]
fn a_destroyed_catalog_is_rebuilt_from_headers() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let blocks = store_and_write(&home, &kvd, 100);
    kvd.stop();
    for entry in std::fs::read_dir(home.data().join("catalog")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(path, b"destroyed").unwrap();
        }
    }
    let _kvd = home.start(&[]);
    assert!(home.journal().contains("set aside"), "{}", home.journal());
    all_come_back(&home, &blocks);
}

#[test]
fn a_missing_catalog_is_rebuilt_from_headers() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let blocks = store_and_write(&home, &kvd, 50);
    kvd.stop();
    std::fs::remove_dir_all(home.data().join("catalog")).unwrap();
    let _kvd = home.start(&[]);
    all_come_back(&home, &blocks);
}

#[test]
fn verify_finds_rot_on_storage_and_drops_it() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let blocks = store_and_write(&home, &kvd, 20);
    kvd.stop();
    assert!(rot(&home.data().join("blocks.kvd"), blocks[7].hash, 4096 + 777));
    let kvd = home.start(&[]);
    let last = kvd.with_client(async |mut client| {
        let mut progress = client.verify(VerifyRequest::default()).await.unwrap().into_inner();
        let mut last = None;
        while let Some(message) = progress.message().await.unwrap() {
            last = Some(message);
        }
        last.unwrap()
    });
    assert!(last.done);
    assert_eq!((last.checked_blocks, last.corrupt_blocks), (20, 1));
    let mut engine = Engine::connect(&home.socket(), "after");
    assert_eq!(engine.lookup(&blocks)[7], BlockState::Miss);
    assert_eq!(home.kvctl(&["verify"]).status.code(), Some(0), "what is left is sound");
}

/// Images of blocks that were evicted or whose erase was lost: they are on the disk, and nobody knows where.
#[test]
fn a_purge_reaches_images_that_nobody_knows_any_more() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let blocks = store_and_write(&home, &kvd, 60);
    let file = home.data().join("blocks.kvd");
    let images = std::fs::read(&file).unwrap().split_off(1 << 20);
    assert!(home.kvctl(&["purge", "--all", "--confirm"]).status.success());
    kvd.stop();
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().write_all_at(&images, 1 << 20).unwrap();
    std::fs::remove_dir_all(home.data().join("catalog")).unwrap();
    let kvd = home.start(&[]);
    assert!(home.journal().contains("images that were purged"), "{}", home.journal());
    assert_eq!(Engine::connect(&home.socket(), "after").lookup(&blocks), vec![BlockState::Miss; 60]);
    assert!(kvd.status().tiers.iter().all(|tier| tier.blocks == 0));
}

#[test]
fn a_purge_that_was_answered_outlasts_a_kill_and_what_comes_after_it_stays() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let blocks = store_and_write(&home, &kvd, 100);
    assert!(home.kvctl(&["purge", "--layout", "0", "--confirm"]).status.success());
    kvd.kill();
    let kvd = home.start(&[]);
    let mut engine = Engine::connect(&home.socket(), "after");
    assert_eq!(engine.lookup(&blocks), vec![BlockState::Miss; 100]);
    engine.store(&blocks);
    eventually("all is written", || (kvd.counter("written") == 100).then_some(()));
    drop(engine);
    kvd.stop();
    std::fs::remove_dir_all(home.data().join("catalog")).unwrap();
    let kvd = home.start(&[]);
    all_come_back(&home, &blocks);
    kvd.stop();
    let _kvd = home.start(&[]);
    all_come_back(&home, &blocks);
}

/// A home whose catalog has that many rows, of the smallest slots there are: 8,191 in an extent, the worst case.
pub fn home_with_rows(rows: u32) -> Home {
    use kvd_block::{BlockKey, LayoutSpec, LocalHash, SequenceHash, SlotIndex};
    let home = Home::new();
    // Without a scrubber, which would find that there are no images.
    home.write_config("scrub.enabled = false");
    let text = std::fs::read_to_string(home.config()).unwrap().replace("nvme.bytes = \"64MiB\"", "nvme.bytes = \"9GiB\"");
    std::fs::write(home.config(), text).unwrap();
    let settings = kvd::machine::resolve(&kvd::settings::load(&home.config()).unwrap());
    let arena = kvd_shm::Arena::create(1 << 20, kvd_shm::HugePages::Never).unwrap();
    let opened = kvd::storage::open(&settings.nvme, std::sync::Arc::new(arena)).unwrap();
    let spec = LayoutSpec { ranks: 1, stripe_bytes: 64, ..super::support::layout() };
    let layout = opened.catalog.layout_handle(&spec).unwrap();
    let extent_pages = (settings.nvme.extent_bytes.unwrap().0 / 4096) as u32;
    let per_extent = (extent_pages - 1) / spec.slot_pages();
    let row = |index: u32| {
        let name = |index: u32| SequenceHash(*scattered(index).first_chunk().unwrap());
        kvd_tiers::CatalogChange::Put(kvd_tiers::CatalogRow {
            key: BlockKey { layout, hash: name(index) },
            address: SlotIndex(index / per_extent * extent_pages + 1 + index % per_extent * spec.slot_pages()),
            parent: if index.is_multiple_of(1000) { SequenceHash::ROOT } else { name(index - 1) },
            local: LocalHash(index.into()),
            position: index % 1000,
        })
    };
    for start in (0..rows).step_by(10_000) {
        opened.catalog.apply((start..start + 10_000).map(row)).unwrap();
    }
    opened.catalog.set_data_file_id(opened.medium.id().unwrap()).unwrap();
    drop(opened);
    home
}

/// Recovery must not be what a restart waits for.
#[test]
#[ignore = "needs 9 GB of disk and some ten seconds"]
fn a_million_rows_come_back_in_seconds() {
    const ROWS: u32 = 1_000_000;
    let home = home_with_rows(ROWS);
    let started = std::time::Instant::now();
    let kvd = home.start(&[]);
    let ms = started.elapsed().as_millis();
    assert_eq!(kvd.status().tiers[1].blocks, u64::from(ROWS));
    eprintln!("{ROWS} rows: ready after {ms} ms\n{}", home.journal());
    // The limit leaves room for a machine that is busy with other tests.
    assert!(ms < 60_000, "{ms} ms");
}

/// Sixteen bytes that look like a hash.
fn scattered(index: u32) -> [u8; 16] {
    let a = u64::from(index).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let b = (a ^ (a >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(b ^ (b >> 29)).to_le_bytes());
    bytes[8..].copy_from_slice(&a.to_le_bytes());
    bytes
}
