//! The catalog across restarts, and what is done about catalogs that are not as they should be.

mod made;

use kvd_block::{BlockKey, LayoutHandle, LayoutSpec, LocalHash, SequenceHash, SlotIndex};
use kvd_tiers::catalog::QueueFull;
use kvd_tiers::conformance::sample_layout;
use kvd_tiers::{Catalog, CatalogChange, CatalogError, CatalogRow, CatalogWriter};
use made::folder;
use rocksdb::{DB, Options};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

fn dir(folder: &TempDir) -> PathBuf {
    folder.path().join("catalog")
}

fn row(n: u32) -> CatalogRow {
    let mut hash = [0; 16];
    hash[..4].copy_from_slice(&n.to_be_bytes());
    CatalogRow {
        key: BlockKey { layout: LayoutHandle((n % 3) as u16), hash: SequenceHash(hash) },
        address: SlotIndex(n + 1),
        parent: SequenceHash([9; 16]),
        local: LocalHash(u64::from(n) << 32),
        position: n,
    }
}

fn rows(catalog: &Catalog) -> Vec<CatalogRow> {
    let mut rows = Vec::new();
    catalog.scan(100, |batch| rows.extend(batch)).unwrap();
    rows.sort_by_key(|row| row.position);
    rows
}

#[test]
fn rows_survive_a_restart_and_deleted_ones_do_not() {
    let folder = folder();
    let catalog = Catalog::open(dir(&folder)).unwrap();
    let all: Vec<CatalogRow> = (0..1000).map(row).collect();
    catalog.put_and_delete(&all, &[]).unwrap();
    let gone: Vec<BlockKey> = all[..400].iter().map(|row| row.key).collect();
    catalog.put_and_delete(&[], &gone).unwrap();
    drop(catalog);
    assert_eq!(rows(&Catalog::open(dir(&folder)).unwrap()), all[400..]);
}

#[test]
fn a_scan_comes_in_batches_of_the_size_asked_for() {
    let folder = folder();
    let catalog = Catalog::open(dir(&folder)).unwrap();
    catalog.put_and_delete(&(0..250).map(row).collect::<Vec<_>>(), &[]).unwrap();
    let mut sizes = Vec::new();
    catalog.scan(100, |batch| sizes.push(batch.len())).unwrap();
    assert_eq!(sizes, [100, 100, 50]);
}

#[test]
fn a_cleared_catalog_has_no_rows_and_keeps_its_layouts() {
    let folder = folder();
    let catalog = Catalog::open(dir(&folder)).unwrap();
    catalog.layout_handle(&sample_layout()).unwrap();
    catalog.put_and_delete(&[row(1)], &[]).unwrap();
    catalog.clear().unwrap();
    assert_eq!(rows(&catalog), []);
    assert_eq!(catalog.layouts().len(), 1);
}

#[test]
fn every_start_has_a_greater_incarnation() {
    let folder = folder();
    let start = || Catalog::open(dir(&folder)).unwrap().next_incarnation().unwrap();
    let first = start();
    assert_eq!([start(), start()], [first + 1, first + 2]);
}

#[test]
fn a_catalog_that_is_made_anew_does_not_repeat_incarnations() {
    let folder = folder();
    let start = || Catalog::open(dir(&folder)).unwrap().next_incarnation().unwrap();
    let before = start();
    std::thread::sleep(std::time::Duration::from_millis(2));
    Catalog::set_aside(dir(&folder)).unwrap();
    assert!(start() > before);
}

#[test]
fn a_layout_keeps_its_handle() {
    let folder = folder();
    let other = LayoutSpec { group: 1, ..sample_layout() };
    let catalog = Catalog::open(dir(&folder)).unwrap();
    let (a, b) = (catalog.layout_handle(&sample_layout()).unwrap(), catalog.layout_handle(&other).unwrap());
    assert_ne!(a, b);
    drop(catalog);
    let catalog = Catalog::open(dir(&folder)).unwrap();
    assert_eq!(catalog.layout_handle(&other).unwrap(), b);
    assert_eq!(catalog.layouts(), [(a, sample_layout()), (b, other)]);
}

#[test]
fn the_slot_file_it_describes_is_remembered() {
    let folder = folder();
    let catalog = Catalog::open(dir(&folder)).unwrap();
    assert_eq!(catalog.data_file_id().unwrap(), None);
    catalog.set_data_file_id([5; 16]).unwrap();
    drop(catalog);
    assert_eq!(Catalog::open(dir(&folder)).unwrap().data_file_id().unwrap(), Some([5; 16]));
}

#[test]
fn a_catalog_in_use_is_refused() {
    let folder = folder();
    let _held = Catalog::open(dir(&folder)).unwrap();
    let error = Catalog::open(dir(&folder)).unwrap_err();
    assert!(matches!(error, CatalogError::Locked { .. }), "{error}");
}

#[test]
fn a_damaged_catalog_is_named_set_aside_and_replaced() {
    let folder = folder();
    let catalog = Catalog::open(dir(&folder)).unwrap();
    catalog.put_and_delete(&[row(1)], &[]).unwrap();
    drop(catalog);
    let manifest = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("MANIFEST");
    let manifest = fs::read_dir(dir(&folder)).unwrap().map(Result::unwrap).find(manifest).unwrap().path();
    let mut bytes = fs::read(&manifest).unwrap();
    bytes[..16].fill(0xff);
    fs::write(&manifest, bytes).unwrap();
    let error = Catalog::open(dir(&folder)).unwrap_err();
    assert!(matches!(error, CatalogError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("move the folder away"), "{error}");
    let aside = Catalog::set_aside(dir(&folder)).unwrap();
    assert_eq!(aside, folder.path().join("catalog.corrupt-1"));
    assert!(aside.join("CURRENT").exists());
    assert_eq!(rows(&Catalog::open(dir(&folder)).unwrap()), []);
    assert_eq!(Catalog::set_aside(dir(&folder)).unwrap(), folder.path().join("catalog.corrupt-2"));
}

#[test]
fn a_catalog_that_lost_its_files_is_damaged_and_not_made_anew() {
    for lost in ["CURRENT", "MANIFEST"] {
        let folder = folder();
        Catalog::open(dir(&folder)).unwrap().put_and_delete(&[row(1)], &[]).unwrap();
        for entry in fs::read_dir(dir(&folder)).unwrap().map(Result::unwrap) {
            if entry.file_name().to_string_lossy().starts_with(lost) {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        let error = Catalog::open(dir(&folder)).unwrap_err();
        assert!(matches!(error, CatalogError::Corrupt { .. }), "{lost}: {error}");
    }
}

#[test]
fn a_newer_catalog_is_refused() {
    let folder = folder();
    drop(Catalog::open(dir(&folder)).unwrap());
    let db = DB::open_cf(&Options::default(), dir(&folder), ["default", "blocks", "layouts", "meta"]).unwrap();
    db.put_cf(db.cf_handle("meta").unwrap(), b"format", 3u16.to_le_bytes()).unwrap();
    drop(db);
    let error = Catalog::open(dir(&folder)).unwrap_err();
    assert!(matches!(error, CatalogError::Newer { .. }), "{error}");
}

#[test]
fn rows_of_an_older_format_are_forgotten_so_that_the_slot_file_is_scanned() {
    let folder = folder();
    let catalog = Catalog::open(dir(&folder)).unwrap();
    let layout = catalog.layout_handle(&sample_layout()).unwrap();
    catalog.put_and_delete(&[row(1)], &[]).unwrap();
    catalog.set_data_file_id([5; 16]).unwrap();
    let life = catalog.next_incarnation().unwrap();
    drop(catalog);
    let db = DB::open_cf(&Options::default(), dir(&folder), ["default", "blocks", "layouts", "meta"]).unwrap();
    db.put_cf(db.cf_handle("meta").unwrap(), b"format", 1u16.to_le_bytes()).unwrap();
    drop(db);
    for _ in 0..2 {
        let catalog = Catalog::open(dir(&folder)).unwrap();
        assert_eq!((rows(&catalog), catalog.data_file_id().unwrap()), (vec![], None));
        assert_eq!(catalog.layouts(), [(layout, sample_layout())]);
    }
    assert_eq!(Catalog::open(dir(&folder)).unwrap().next_incarnation().unwrap(), life + 1);
}

#[test]
fn a_catalog_with_an_unknown_column_family_is_a_newer_one() {
    let folder = folder();
    drop(Catalog::open(dir(&folder)).unwrap());
    let mut db = DB::open_cf(&Options::default(), dir(&folder), ["default", "blocks", "layouts", "meta"]).unwrap();
    db.create_cf("future", &Options::default()).unwrap();
    drop(db);
    let error = Catalog::open(dir(&folder)).unwrap_err();
    assert!(matches!(error, CatalogError::Newer { .. }), "{error}");
}

#[test]
fn a_folder_with_other_files_is_left_untouched() {
    let folder = folder();
    fs::create_dir(dir(&folder)).unwrap();
    fs::write(dir(&folder).join("thesis.txt"), "words").unwrap();
    let error = Catalog::open(dir(&folder)).unwrap_err();
    assert!(matches!(error, CatalogError::NotACatalog { .. }), "{error}");
    assert_eq!(fs::read_dir(dir(&folder)).unwrap().count(), 1);
}

#[test]
fn the_writer_keeps_the_order_of_changes() {
    let folder = folder();
    let catalog = Arc::new(Catalog::open(dir(&folder)).unwrap());
    let writer = CatalogWriter::start(catalog.clone(), 10_000).unwrap();
    for n in 0..500 {
        writer.submit(vec![CatalogChange::Put(row(n))]).unwrap();
        writer.submit(vec![CatalogChange::Delete(row(n).key)]).unwrap();
        writer.submit(vec![CatalogChange::Put(CatalogRow { address: SlotIndex(7), ..row(n) })]).unwrap();
    }
    writer.flush();
    let rows = rows(&catalog);
    assert_eq!(rows.len(), 500);
    assert!(rows.iter().all(|row| row.address == SlotIndex(7)));
    assert_eq!((writer.queued_changes(), writer.failed_changes()), (0, 0));
}

#[test]
fn a_dropped_writer_writes_what_is_queued() {
    let folder = folder();
    let catalog = Arc::new(Catalog::open(dir(&folder)).unwrap());
    let writer = CatalogWriter::start(catalog.clone(), 10_000).unwrap();
    (0..100).for_each(|n| writer.submit(vec![CatalogChange::Put(row(n))]).unwrap());
    drop(writer);
    assert_eq!(rows(&catalog).len(), 100);
}

#[test]
fn a_full_queue_gives_the_changes_back_at_once() {
    let folder = folder();
    let catalog = Arc::new(Catalog::open(dir(&folder)).unwrap());
    let writer = CatalogWriter::start(catalog, 10).unwrap();
    let QueueFull(back) = writer.submit((0..11).map(|n| CatalogChange::Put(row(n))).collect()).unwrap_err();
    assert_eq!(back.len(), 11);
}

#[test]
fn a_purge_takes_the_rows_of_its_layout_and_is_remembered() {
    let folder = folder();
    let catalog = Catalog::open(dir(&folder)).unwrap();
    let of = |layout: u16, n: u32| {
        let row = row(n);
        CatalogRow { key: BlockKey { layout: LayoutHandle(layout), ..row.key }, ..row }
    };
    let layouts = [0, 1, 2, u16::MAX];
    let every: Vec<CatalogRow> = layouts.iter().flat_map(|layout| (0..10).map(move |n| of(*layout, n))).collect();
    catalog.put_and_delete(&every, &[]).unwrap();
    let purge = |layout: Option<u16>, generation| CatalogChange::Purge { layout: layout.map(LayoutHandle), generation };
    catalog.apply([purge(Some(1), 7), CatalogChange::Put(of(1, 3)), purge(Some(u16::MAX), 8)]).unwrap();
    drop(catalog);
    let catalog = Catalog::open(dir(&folder)).unwrap();
    let mut left: Vec<u16> = rows(&catalog).iter().map(|row| row.key.layout.0).collect();
    left.sort();
    assert_eq!(left, [[0; 10].as_slice(), &[1], &[2; 10]].concat(), "what was stored after the purge stays");
    assert_eq!([0, 1, u16::MAX].map(|layout| catalog.purged(LayoutHandle(layout)).unwrap()), [0, 7, 8]);
    catalog.apply([purge(None, 9)]).unwrap();
    assert_eq!((rows(&catalog).len(), catalog.purged(LayoutHandle(0)).unwrap()), (0, 9));
}
