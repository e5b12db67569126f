//! The bytes of a slot file or a device, behind the tier's back.

use kvd_block::SlotIndex;
use kvd_tiers::conformance::Raw;
use kvd_tiers::nvme::DATA_START;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A file or device that a tier may have open at the same time.
#[derive(Debug)]
pub(crate) struct RawFile {
    pub path: PathBuf,
    /// A device does not get shorter.
    pub can_be_cut: bool,
}

impl RawFile {
    fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(&self.path)
    }
}

fn at(address: SlotIndex, offset: u64) -> u64 {
    DATA_START + address.offset_bytes() + offset
}

impl Raw for RawFile {
    fn read(&self, address: SlotIndex, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let file = self.open()?;
        // What the page cache still has may be older than what the tier wrote past it.
        let _ = rustix::fs::fadvise(&file, at(address, offset), None, rustix::fs::Advice::DontNeed);
        file.read_exact_at(bytes, at(address, offset))
    }

    fn write(&self, address: SlotIndex, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.open()?;
        file.write_all_at(bytes, at(address, offset))?;
        file.sync_data()
    }

    fn cut(&self, address: SlotIndex) -> Option<io::Result<()>> {
        let cut = || self.open()?.set_len(at(address, 6000));
        self.can_be_cut.then(cut)
    }
}
