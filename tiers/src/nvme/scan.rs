//! Finds every block in the file without a catalog.
//!
//! Reads labels and headers only. Where slots are small, a header at a time would be mostly seeking, so neighbouring
//! headers are read with the payload between them. Never fails: what cannot be read is a block that is not found.

use super::device::Device;
use super::format::{DATA_START, Page, decode_label};
use kvd_block::image::HeaderPage;
use kvd_block::{BlockHeader, PAGE_BYTES, SlotIndex};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

/// Keeps that many reads in flight: headers are far apart, so one reader would wait for each.
const THREADS: usize = 8;
/// Headers closer than this are read in one piece: 64 KiB take a device about as long as 4 KiB twice.
const NEAR_BYTES: u64 = 64 << 10;
/// Bytes of such a piece.
const PIECE_PAGES: usize = 256;

/// A block image found in the file. Only its header is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundImage {
    /// Where.
    pub address: SlotIndex,
    /// What it says it is.
    pub header: BlockHeader,
}

/// Calls `on_found` for each image, in no particular order.
pub(crate) fn scan(device: &Device, mut on_found: impl FnMut(FoundImage)) {
    let extents = device.limits.capacity_bytes / device.limits.extent_bytes;
    let next = AtomicU64::new(0);
    let (sender, found) = mpsc::sync_channel(1024);
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(extents as usize) {
            let (next, sender) = (&next, sender.clone());
            scope.spawn(move || {
                let mut reader = Reader::new(device);
                loop {
                    let extent = next.fetch_add(1, Ordering::Relaxed);
                    if extent >= extents {
                        return;
                    }
                    reader.scan_extent(extent, &mut |image| drop(sender.send(image)));
                }
            });
        }
        drop(sender);
        found.into_iter().for_each(&mut on_found);
    });
}

struct Reader<'a> {
    device: &'a Device,
    pages: Vec<Page>,
}

impl Reader<'_> {
    fn new(device: &Device) -> Reader<'_> {
        Reader { device, pages: vec![*Page::zeroed(); PIECE_PAGES] }
    }

    fn scan_extent(&mut self, extent: u64, on_found: &mut impl FnMut(FoundImage)) {
        let extent_pages = self.device.limits.extent_bytes / PAGE_BYTES;
        let first_page = extent * extent_pages;
        let mut page = Page::zeroed();
        if !self.read(first_page, &mut page) {
            return;
        }
        let Some(slot_pages) = decode_label(&page).map(u64::from) else { return };
        let slots = (extent_pages - 1) / slot_pages;
        let headers = (0..slots).map(|slot| first_page + 1 + slot * slot_pages);
        if slot_pages * PAGE_BYTES <= NEAR_BYTES {
            self.scan_near(headers, first_page + extent_pages, slot_pages as u32, on_found);
        } else {
            headers.for_each(|at| {
                if self.read(at, &mut page) {
                    report(at, &page.0, slot_pages as u32, on_found);
                }
            });
        }
    }

    /// Reads pieces of the extent whole and picks the headers out.
    fn scan_near(&mut self, headers: impl Iterator<Item = u64>, end: u64, slot_pages: u32, on_found: &mut impl FnMut(FoundImage)) {
        let mut piece = 0..0;
        for at in headers {
            if !piece.contains(&at) {
                piece = at..end.min(at + PIECE_PAGES as u64);
                if !self.read_piece(&piece) {
                    piece = 0..0;
                    continue;
                }
            }
            report(at, &self.pages[(at - piece.start) as usize].0, slot_pages, on_found);
        }
    }

    fn read(&self, page_number: u64, page: &mut Page) -> bool {
        self.device.file.read_exact_at(&mut page.0, DATA_START + page_number * PAGE_BYTES).is_ok()
    }

    fn read_piece(&mut self, piece: &std::ops::Range<u64>) -> bool {
        let pages = &mut self.pages[..(piece.end - piece.start) as usize];
        super::dma::read_pages(&self.device.file, pages, DATA_START + piece.start * PAGE_BYTES).is_ok()
    }
}

/// An image left over from when the extent held slots of another size is not a block of this extent.
fn report(at: u64, page: &HeaderPage, slot_pages: u32, on_found: &mut impl FnMut(FoundImage)) {
    match BlockHeader::decode(page) {
        Ok(header) if header.layout.slot_pages() == slot_pages => on_found(FoundImage { address: SlotIndex(at as u32), header }),
        _ => {}
    }
}
