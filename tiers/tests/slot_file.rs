//! The slot file across restarts, and what is done about files that are not as they should be.

mod made;

use kvd_block::{Checksum, LayoutSpec};
use kvd_tiers::conformance::sample_layout;
use kvd_tiers::{BlockName, IoEngine, NvmeConfig, NvmeTier, OpenError, Tier, TierError};
use made::{EXTENT_BYTES, address, arena, config, edit, folder, path, read, write};
use std::collections::HashMap;
use std::fs::{self, OpenOptions};

const ENGINES: [IoEngine; 2] = [IoEngine::Uring, IoEngine::Posix];

fn refusal(config: NvmeConfig) -> OpenError {
    NvmeTier::open(config).expect_err("this file must be refused")
}

#[test]
fn a_reopened_file_gives_its_blocks_back_to_either_engine() {
    for (first, second) in [(ENGINES[0], ENGINES[1]), (ENGINES[1], ENGINES[0])] {
        let (folder, arena, layout) = (folder(), arena(), sample_layout());
        let tier = NvmeTier::open(config(&folder, &arena, first)).unwrap();
        let (id, name) = (tier.file_id(), write(&tier, &arena, &layout, 70, 1));
        drop(tier);
        let tier = NvmeTier::open(config(&folder, &arena, second)).unwrap();
        assert_eq!(tier.file_id(), id);
        read(&tier, &arena, &layout, 70, name).unwrap();
    }
}

#[test]
fn a_second_kvd_is_refused_while_the_first_runs() {
    let (folder, arena) = (folder(), arena());
    let first = NvmeTier::open(config(&folder, &arena, IoEngine::Auto)).unwrap();
    assert!(matches!(refusal(config(&folder, &arena, IoEngine::Auto)), OpenError::Locked { .. }));
    drop(first);
    NvmeTier::open(config(&folder, &arena, IoEngine::Auto)).unwrap();
}

#[test]
fn a_file_that_is_not_ours_is_left_untouched() {
    let (folder, arena) = (folder(), arena());
    for bytes in [&b"thesis"[..], &[7; 100_000]] {
        fs::write(path(&folder), bytes).unwrap();
        let error = refusal(config(&folder, &arena, IoEngine::Auto));
        assert!(matches!(error, OpenError::NotOurs { .. }), "{error}");
        assert!(error.to_string().contains(path(&folder).to_str().unwrap()), "{error}");
        assert!(fs::read(path(&folder)).unwrap() == bytes);
    }
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let (folder, arena) = (folder(), arena());
    drop(NvmeTier::open(config(&folder, &arena, IoEngine::Auto)).unwrap());
    for offset in [0, 4096] {
        edit(&path(&folder), offset, |page| {
            page[8] = 2;
            let checksum = Checksum::of(&page[..4088]);
            page[4088..].copy_from_slice(&checksum.0.to_le_bytes());
        });
    }
    assert!(matches!(refusal(config(&folder, &arena, IoEngine::Auto)), OpenError::Newer { found: 2, .. }));
}

#[test]
fn a_damaged_superblock_is_mended_from_its_copy() {
    let (folder, arena, layout) = (folder(), arena(), sample_layout());
    let tier = NvmeTier::open(config(&folder, &arena, IoEngine::Auto)).unwrap();
    let name = write(&tier, &arena, &layout, 0, 1);
    drop(tier);
    edit(&path(&folder), 0, |page| page[40] ^= 1);
    let tier = NvmeTier::open(config(&folder, &arena, IoEngine::Auto)).unwrap();
    read(&tier, &arena, &layout, 0, name).unwrap();
    drop(tier);
    edit(&path(&folder), 4096, |page| page[40] ^= 1);
    let tier = NvmeTier::open(config(&folder, &arena, IoEngine::Auto)).unwrap();
    read(&tier, &arena, &layout, 0, name).unwrap();
}

#[test]
fn two_damaged_superblocks_are_made_anew_under_another_id() {
    let (folder, arena, layout) = (folder(), arena(), sample_layout());
    let tier = NvmeTier::open(config(&folder, &arena, IoEngine::Auto)).unwrap();
    let (id, name) = (tier.file_id(), write(&tier, &arena, &layout, 0, 1));
    drop(tier);
    for offset in [0, 4096] {
        edit(&path(&folder), offset, |page| page[40] ^= 1);
    }
    let tier = NvmeTier::open(config(&folder, &arena, IoEngine::Auto)).unwrap();
    assert_ne!(tier.file_id(), id, "no catalog of the old file is believed");
    read(&tier, &arena, &layout, 0, name).unwrap();
}

#[test]
fn damaged_superblocks_of_a_newer_format_are_left_untouched() {
    let (folder, arena) = (folder(), arena());
    drop(NvmeTier::open(config(&folder, &arena, IoEngine::Auto)).unwrap());
    for offset in [0, 4096] {
        edit(&path(&folder), offset, |page| page[8] = 2);
    }
    assert!(matches!(refusal(config(&folder, &arena, IoEngine::Auto)), OpenError::Damaged { .. }));
}

#[test]
fn a_file_cut_inside_its_superblocks_is_made_whole() {
    for length in [100, 4096, 5000] {
        let (folder, arena) = (folder(), arena());
        drop(NvmeTier::open(config(&folder, &arena, IoEngine::Auto)).unwrap());
        OpenOptions::new().write(true).open(path(&folder)).unwrap().set_len(length).unwrap();
        drop(NvmeTier::open(config(&folder, &arena, IoEngine::Auto)).unwrap());
        assert!(fs::metadata(path(&folder)).unwrap().len() > 1 << 20, "cut at {length}");
    }
}

#[test]
fn other_settings_are_refused_by_name() {
    let (folder, arena) = (folder(), arena());
    let base = config(&folder, &arena, IoEngine::Auto);
    drop(NvmeTier::open(base.clone()).unwrap());
    let smaller = refusal(NvmeConfig { capacity_bytes: EXTENT_BYTES, ..base.clone() });
    assert!(matches!(smaller, OpenError::OtherSettings { setting: "capacity_bytes", .. }), "{smaller}");
    let other_extents = refusal(NvmeConfig { extent_bytes: 2 * EXTENT_BYTES, ..base });
    assert!(matches!(other_extents, OpenError::OtherSettings { setting: "extent_bytes", .. }), "{other_extents}");
}

#[test]
fn a_grown_file_keeps_its_blocks_and_takes_more() {
    let (folder, arena, layout) = (folder(), arena(), sample_layout());
    let base = config(&folder, &arena, IoEngine::Auto);
    let tier = NvmeTier::open(base.clone()).unwrap();
    let old = write(&tier, &arena, &layout, 0, 1);
    drop(tier);
    let tier = NvmeTier::open(NvmeConfig { capacity_bytes: 8 * EXTENT_BYTES, ..base }).unwrap();
    let beyond = 4 * 63;
    let new = write(&tier, &arena, &layout, beyond, 2);
    read(&tier, &arena, &layout, 0, old).unwrap();
    read(&tier, &arena, &layout, beyond, new).unwrap();
}

#[test]
fn a_truncated_file_loses_only_what_was_cut_off() {
    for engine in ENGINES {
        let (folder, arena, layout) = (folder(), arena(), sample_layout());
        let tier = NvmeTier::open(config(&folder, &arena, engine)).unwrap();
        let (kept, lost) = (write(&tier, &arena, &layout, 0, 1), write(&tier, &arena, &layout, 200, 2));
        drop(tier);
        OpenOptions::new().write(true).open(path(&folder)).unwrap().set_len(2 << 20).unwrap();
        let tier = NvmeTier::open(config(&folder, &arena, engine)).unwrap();
        read(&tier, &arena, &layout, 0, kept).unwrap();
        assert!(matches!(read(&tier, &arena, &layout, 200, lost), Err(TierError::Corrupt { .. })));
    }
}

#[test]
fn a_file_cut_while_it_is_open_gives_misses() {
    for engine in ENGINES {
        let (folder, arena, layout) = (folder(), arena(), sample_layout());
        let tier = NvmeTier::open(config(&folder, &arena, engine)).unwrap();
        let name = write(&tier, &arena, &layout, 200, 1);
        OpenOptions::new().write(true).open(path(&folder)).unwrap().set_len(2 << 20).unwrap();
        let result = read(&tier, &arena, &layout, 200, name);
        assert!(matches!(result, Err(TierError::Corrupt { .. })), "{result:?}");
    }
}

#[test]
fn a_disk_that_is_too_small_is_named_with_both_sizes_and_nothing_is_left() {
    let (folder, arena) = (folder(), arena());
    let huge = NvmeConfig { capacity_bytes: 15 << 40, ..config(&folder, &arena, IoEngine::Auto) };
    let error = refusal(huge);
    assert!(matches!(error, OpenError::NoSpace { wanted_bytes, free_bytes, .. } if wanted_bytes > free_bytes), "{error}");
    assert!(!path(&folder).exists());
}

#[test]
fn a_missing_folder_and_a_forbidden_one_are_told_apart() {
    let (folder, arena) = (folder(), arena());
    let base = config(&folder, &arena, IoEngine::Auto);
    let missing = refusal(NvmeConfig { path: folder.path().join("gone/slots"), ..base.clone() });
    assert!(matches!(missing, OpenError::NoFolder { .. }), "{missing}");
    // The kernel lets nobody, root included, make files here.
    let forbidden = refusal(NvmeConfig { path: "/sys/slots".into(), ..base });
    assert!(matches!(forbidden, OpenError::Permission { .. }), "{forbidden}");
}

#[test]
fn a_scan_finds_every_block_of_every_layout_and_no_erased_one() {
    for engine in ENGINES {
        let (folder, arena) = (folder(), arena());
        let small = sample_layout();
        let large = LayoutSpec { stripe_bytes: 40_000, ..sample_layout() };
        let tier = NvmeTier::open(config(&folder, &arena, engine)).unwrap();
        let mut expected: HashMap<u32, BlockName> = HashMap::new();
        for nth in [0, 5, 62] {
            expected.insert(address(&small, nth).0, write(&tier, &arena, &small, nth, nth.into()));
        }
        for nth in [12, 13, 20] {
            expected.insert(address(&large, nth).0, write(&tier, &arena, &large, nth, 1000 + u64::from(nth)));
        }
        let erased = address(&small, 5);
        assert!(matches!(tier.erase(vec![erased]).wait().unwrap()[..], [Ok(())]));
        expected.remove(&erased.0);
        drop(tier);
        let tier = NvmeTier::open(config(&folder, &arena, engine)).unwrap();
        let mut found = HashMap::new();
        tier.scan(|image| {
            let name = BlockName { layout: image.header.layout.id(), hash: image.header.hash };
            found.insert(image.address.0, name);
        });
        assert_eq!(found, expected);
    }
}

#[test]
fn an_extent_that_changed_its_slot_size_shows_no_older_block() {
    let (folder, arena) = (folder(), arena());
    let small = sample_layout();
    let large = LayoutSpec { stripe_bytes: 40_000, ..sample_layout() };
    let tier = NvmeTier::open(config(&folder, &arena, IoEngine::Auto)).unwrap();
    for nth in 0..63 {
        write(&tier, &arena, &small, nth, nth.into());
    }
    write(&tier, &arena, &large, 3, 500);
    let mut found = Vec::new();
    tier.scan(|image| found.push(image.address));
    assert_eq!(found, [address(&large, 3)]);
}

#[test]
fn the_probe_line_says_which_way_blocks_take() {
    let (folder, arena) = (folder(), arena());
    let tier = NvmeTier::open(config(&folder, &arena, IoEngine::Posix)).unwrap();
    assert!(tier.probe_line().starts_with("pread/pwrite (as the settings say)"), "{}", tier.probe_line());
    drop(tier);
    let tier = NvmeTier::open(config(&folder, &arena, IoEngine::Uring)).unwrap();
    write(&tier, &arena, &sample_layout(), 0, 1);
    assert!(tier.probe_line().contains("io_uring"), "{}", tier.probe_line());
}

#[test]
fn a_purge_is_remembered_by_the_file() {
    let (folder, arena) = (folder(), arena());
    let (one, other) = (sample_layout().id(), LayoutSpec { stripe_bytes: 40_000, ..sample_layout() }.id());
    for engine in ENGINES {
        let tier = NvmeTier::open(config(&folder, &arena, engine)).unwrap();
        let purges = tier.purge_table();
        let before = purges.generation(one);
        assert!(purges.purge(Some(one)).unwrap() > before);
        drop((tier, purges));
        let tier = NvmeTier::open(config(&folder, &arena, engine)).unwrap();
        let purges = tier.purge_table();
        assert!(purges.generation(one) > before);
        assert_eq!(purges.generation(other), 0);
    }
}

#[test]
fn a_purge_that_a_crash_tore_leaves_those_before_it() {
    let (folder, arena) = (folder(), arena());
    let layout = sample_layout().id();
    let purges = NvmeTier::open(config(&folder, &arena, IoEngine::Posix)).unwrap().purge_table();
    let generations = [(); 3].map(|()| purges.purge(Some(layout)).unwrap());
    assert_eq!(generations, [1, 2, 3]);
    drop(purges);
    // The third is in the table of the first.
    edit(&path(&folder), 65_536 + 262_144, |page| page[30] ^= 1);
    let purges = NvmeTier::open(config(&folder, &arena, IoEngine::Posix)).unwrap().purge_table();
    assert_eq!(purges.generation(layout), 2);
    assert_eq!(purges.purge(Some(layout)).unwrap(), 3, "and the next one works");
}

#[test]
fn thousands_of_layouts_can_be_purged_one_by_one() {
    let (folder, arena) = (folder(), arena());
    let layout = |number: u16| kvd_block::LayoutId([[1; 14].as_slice(), &number.to_le_bytes()].concat().try_into().unwrap());
    let purges = NvmeTier::open(config(&folder, &arena, IoEngine::Posix)).unwrap().purge_table();
    for number in 0..400 {
        assert_eq!(purges.purge(Some(layout(number))).unwrap(), u64::from(number) + 1);
    }
    drop(purges);
    let purges = NvmeTier::open(config(&folder, &arena, IoEngine::Posix)).unwrap().purge_table();
    assert!((0..400).all(|number| purges.generation(layout(number)) == u64::from(number) + 1));
    assert_eq!(purges.purge(None).unwrap(), 401);
    assert_eq!(purges.generation(layout(0)), 401);
}
