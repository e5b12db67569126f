//! The superblock and the extent labels, byte by byte. The whole file is described in [`crate::nvme`].

use kvd_block::{Checksum, LayoutId, PAGE_BYTES};

/// Format version written by this code.
pub const FORMAT_VERSION: u16 = 1;
/// Offset of the data area: slot address 0.
pub const DATA_START: u64 = 1 << 20;
/// Offset of the superblock's copy.
pub const COPY_AT: u64 = PAGE_BYTES;

/// Offset of the first of the two tables of purges.
pub(crate) const PURGES_AT: u64 = 16 * PAGE_BYTES;
/// Room for each of them: four thousand layouts need 100 KiB.
pub(crate) const PURGE_TABLE_BYTES: u64 = 64 * PAGE_BYTES;
const _: () = assert!(PURGES_AT + 2 * PURGE_TABLE_BYTES <= DATA_START);

const MAGIC: &[u8; 8] = b"kvdslots";
const PURGE_MAGIC: &[u8; 8] = b"kvdpurge";
const LABEL_MAGIC: &[u8; 8] = b"kvdextnt";
const CHECKSUM_AT: usize = PAGE_BYTES as usize - 8;

/// A page where the kernel can do direct I/O.
#[derive(Debug, Clone)]
#[repr(C, align(4096))]
pub(crate) struct Page(pub [u8; PAGE_BYTES as usize]);

impl Page {
    pub fn zeroed() -> Box<Page> {
        Box::new(Page([0; PAGE_BYTES as usize]))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().expect("N bytes")
    }

    fn get_u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.get(at))
    }

    fn seal(&mut self) {
        let checksum = Checksum::of(&self.0[..CHECKSUM_AT]);
        self.put(CHECKSUM_AT, &checksum.0.to_le_bytes());
    }

    pub fn is_blank(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    fn is_sealed(&self) -> bool {
        Checksum::of(&self.0[..CHECKSUM_AT]) == Checksum(self.get_u64(CHECKSUM_AT))
    }
}

/// What the file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub file_id: [u8; 16],
    pub machine: u64,
    pub extent_bytes: u64,
    pub capacity_bytes: u64,
    pub created_unix_ms: u64,
}

/// Why a page is not a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSuperblock {
    OtherMagic,
    Newer(u16),
    Damaged,
}

impl Superblock {
    pub fn encode(&self) -> Box<Page> {
        let mut page = Page::zeroed();
        page.put(0, MAGIC);
        page.put(8, &FORMAT_VERSION.to_le_bytes());
        page.put(16, &self.file_id);
        page.put(32, &self.machine.to_le_bytes());
        page.put(40, &self.extent_bytes.to_le_bytes());
        page.put(48, &self.capacity_bytes.to_le_bytes());
        page.put(56, &self.created_unix_ms.to_le_bytes());
        page.seal();
        page
    }

    pub fn decode(page: &Page) -> Result<Superblock, NoSuperblock> {
        if &page.get::<8>(0) != MAGIC {
            return Err(NoSuperblock::OtherMagic);
        }
        if !page.is_sealed() {
            return Err(NoSuperblock::Damaged);
        }
        let version = u16::from_le_bytes(page.get(8));
        if version > FORMAT_VERSION {
            return Err(NoSuperblock::Newer(version));
        }
        Ok(Superblock {
            file_id: page.get(16),
            machine: page.get_u64(32),
            extent_bytes: page.get_u64(40),
            capacity_bytes: page.get_u64(48),
            created_unix_ms: page.get_u64(56),
        })
    }
}

/// One page of a table of purges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PurgePage {
    /// Number of the table: all its pages have it, and the greater one is newer.
    pub sequence: u64,
    /// Pages of the table.
    pub pages: u32,
    /// Layout (`None` is all of them) and generation of its last purge.
    pub entries: Vec<(Option<LayoutId>, u64)>,
}

impl PurgePage {
    const ENTRIES_AT: usize = 24;
    const ENTRY_BYTES: usize = 24;
    /// Entries of one page.
    pub const MOST_ENTRIES: usize = (CHECKSUM_AT - Self::ENTRIES_AT) / Self::ENTRY_BYTES;

    pub fn encode(&self) -> Box<Page> {
        let mut page = Page::zeroed();
        page.put(0, PURGE_MAGIC);
        page.put(8, &FORMAT_VERSION.to_le_bytes());
        page.put(10, &(self.entries.len() as u16).to_le_bytes());
        page.put(12, &self.pages.to_le_bytes());
        page.put(16, &self.sequence.to_le_bytes());
        for (number, (layout, generation)) in self.entries.iter().enumerate() {
            let at = Self::ENTRIES_AT + number * Self::ENTRY_BYTES;
            page.put(at, &layout.unwrap_or_default().0);
            page.put(at + 16, &generation.to_le_bytes());
        }
        page.seal();
        page
    }

    pub fn decode(page: &Page) -> Option<PurgePage> {
        let count = usize::from(u16::from_le_bytes(page.get(10)));
        let readable = &page.get::<8>(0) == PURGE_MAGIC && page.is_sealed() && u16::from_le_bytes(page.get(8)) <= FORMAT_VERSION;
        let entry = |number: usize| {
            let at = Self::ENTRIES_AT + number * Self::ENTRY_BYTES;
            let layout = LayoutId(page.get(at));
            (Some(layout).filter(|layout| *layout != LayoutId::default()), page.get_u64(at + 16))
        };
        let entries = |_| (0..count).map(entry).collect();
        let whole = readable && count <= Self::MOST_ENTRIES;
        whole.then_some(()).map(entries).map(|entries| PurgePage {
            sequence: page.get_u64(16),
            pages: u32::from_le_bytes(page.get(12)),
            entries,
        })
    }
}

/// The label in an extent's first page.
pub(crate) fn encode_label(slot_pages: u32, generation: u64) -> Box<Page> {
    let mut page = Page::zeroed();
    page.put(0, LABEL_MAGIC);
    page.put(8, &FORMAT_VERSION.to_le_bytes());
    page.put(12, &slot_pages.to_le_bytes());
    page.put(16, &generation.to_le_bytes());
    page.seal();
    page
}

/// Pages of each slot of the extent; `None` when the page is not a label this code can read.
pub(crate) fn decode_label(page: &Page) -> Option<u32> {
    let ours = &page.get::<8>(0) == LABEL_MAGIC && page.is_sealed();
    let readable = ours && u16::from_le_bytes(page.get(8)) <= FORMAT_VERSION;
    readable.then(|| u32::from_le_bytes(page.get(12))).filter(|pages| *pages > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Superblock {
        Superblock { file_id: [1; 16], machine: 2, extent_bytes: 3, capacity_bytes: 4, created_unix_ms: 5 }
    }

    #[test]
    fn a_superblock_reads_back() {
        assert_eq!(Superblock::decode(&superblock().encode()), Ok(superblock()));
    }

    #[test]
    fn any_flipped_bit_of_a_superblock_is_found() {
        for at in (0..4096).step_by(7) {
            let mut page = superblock().encode();
            page.0[at] ^= 4;
            assert!(Superblock::decode(&page).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_label_reads_back_and_a_flipped_bit_is_found() {
        let mut label = encode_label(513, 9);
        assert_eq!(decode_label(&label), Some(513));
        label.0[12] ^= 1;
        assert_eq!(decode_label(&label), None);
    }

    #[test]
    fn a_page_of_purges_reads_back_and_a_flipped_bit_is_found() {
        let entries = (0..PurgePage::MOST_ENTRIES as u64).map(|number| (Some(LayoutId([7; 16])).filter(|_| number > 0), number)).collect();
        let page = PurgePage { sequence: 4, pages: 2, entries };
        assert_eq!(PurgePage::decode(&page.encode()), Some(page.clone()));
        let mut damaged = page.encode();
        damaged.0[4000] ^= 1;
        assert_eq!(PurgePage::decode(&damaged), None);
    }

    #[test]
    fn a_newer_superblock_is_named() {
        let mut page = superblock().encode();
        page.0[8] = 2;
        page.seal();
        assert_eq!(Superblock::decode(&page), Err(NoSuperblock::Newer(2)));
    }
}
