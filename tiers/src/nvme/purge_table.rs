//! What was purged, kept in the slot file beside the images it is about. Offsets are in [`crate::nvme`].
//!
//! Two tables, written in turn and synced: a crash in the middle of one leaves the other, which is the state before. The purge is
//! answered after the table is on the disk, so a purge that an operator saw is never undone. Damage to both tables is told and read
//! as "nothing was purged": a cache that refuses to start for that would be worse.

use super::device::Device;
use super::dma::read_pages;
use super::format::{PURGE_TABLE_BYTES, PURGES_AT, Page, PurgePage};
use kvd_block::{LayoutId, PAGE_BYTES, Purges};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use tracing::error;

/// The purges of one slot file.
#[derive(Debug)]
pub struct PurgeTable {
    device: Arc<Device>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    purges: Purges,
    /// Number of the table written last; its lowest bit says which of the two it is.
    sequence: u64,
}

impl PurgeTable {
    /// Reads the newer of the two tables.
    pub(super) fn open(device: Arc<Device>) -> PurgeTable {
        let tables = [0, 1].map(|which| read(&device, which));
        let damaged = tables.iter().all(|table| matches!(table, Table::Damaged));
        if damaged {
            error!(path = %device.path.display(), "which layouts were purged is lost: a scan may find purged blocks again");
        }
        let whole = |table| if let Table::Whole(state) = table { Some(state) } else { None };
        let newest = tables.into_iter().filter_map(whole).max_by_key(|state| state.sequence);
        PurgeTable { device, state: Mutex::new(newest.unwrap_or(State { purges: Purges::default(), sequence: 0 })) }
    }

    /// What headers of this layout's images must say at least.
    pub fn generation(&self, layout: LayoutId) -> u64 {
        self.state.lock().expect("no panic while held").purges.generation(layout)
    }

    /// The number of the last purge; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.state.lock().expect("no panic while held").purges.newest()
    }

    /// Remembers a purge of one layout or of all, for good, and returns its generation. Blocks until the disk has it. When it fails,
    /// nothing was purged.
    pub fn purge(&self, layout: Option<LayoutId>) -> io::Result<u64> {
        let mut state = self.state.lock().expect("no panic while held");
        let mut next = State { purges: state.purges.clone(), sequence: state.sequence + 1 };
        let generation = next.purges.purge(layout);
        self.write(&next)?;
        *state = next;
        Ok(generation)
    }

    fn write(&self, state: &State) -> io::Result<()> {
        let entries: Vec<_> = state.purges.entries().collect();
        let pages = entries.len().div_ceil(PurgePage::MOST_ENTRIES).max(1);
        if pages as u64 * PAGE_BYTES > PURGE_TABLE_BYTES {
            return Err(io::Error::other("too many layouts were purged one by one: purge all of them once"));
        }
        for number in 0..pages {
            let from = number * PurgePage::MOST_ENTRIES;
            let entries = entries[from..entries.len().min(from + PurgePage::MOST_ENTRIES)].to_vec();
            let page = PurgePage { sequence: state.sequence, pages: pages as u32, entries }.encode();
            self.device.file.write_all_at(&page.0, offset(state.sequence % 2) + number as u64 * PAGE_BYTES)?;
        }
        self.device.file.sync_data()
    }
}

/// What stands where a table may be.
enum Table {
    Whole(State),
    /// Never written.
    None,
    Damaged,
}

fn read(device: &Device, which: u64) -> Table {
    let Ok(first) = read_page(device, which, 0) else { return Table::Damaged };
    if first.is_blank() {
        return Table::None;
    }
    let Some(PurgePage { sequence, pages, entries }) = PurgePage::decode(&first) else { return Table::Damaged };
    let mut purges = Purges::default();
    entries.into_iter().for_each(|(layout, generation)| purges.note(layout, generation));
    for number in 1..pages {
        let page = read_page(device, which, number.into()).ok().and_then(|page| PurgePage::decode(&page));
        let Some(page) = page.filter(|page| page.sequence == sequence) else { return Table::Damaged };
        page.entries.into_iter().for_each(|(layout, generation)| purges.note(layout, generation));
    }
    Table::Whole(State { purges, sequence })
}

fn read_page(device: &Device, which: u64, number: u64) -> io::Result<Box<Page>> {
    let mut page = Page::zeroed();
    read_pages(&device.file, std::slice::from_mut(&mut *page), offset(which) + number * PAGE_BYTES)?;
    Ok(page)
}

fn offset(which: u64) -> u64 {
    PURGES_AT + which * PURGE_TABLE_BYTES
}
