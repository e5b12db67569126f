//! Whose data a block device holds, so that nobody's is overwritten.
//!
//! Signatures are looked for even where kvd's own superblock is: whoever made a filesystem on a device after kvd used it may
//! have left pages of kvd standing.

use super::dma;
use super::format::{NoSuperblock, Page, Superblock};
use kvd_block::PAGE_BYTES;
use std::fs::File;
use std::io;

/// Bytes at either end of a device that are looked at. All signatures below lie in them.
const LOOKED_AT_BYTES: u64 = 1 << 20;
/// ZFS keeps its uberblocks here, one each KiB, in the first of its labels.
const ZFS_UBERBLOCKS: std::ops::Range<usize> = 128 << 10..256 << 10;
const ZFS_MAGIC: u64 = 0x00ba_b10c;

/// What stands where on a device: offset, bytes, name.
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (0x438, &[0x53, 0xEF], "an ext2, ext3 or ext4 filesystem"),
    (0, b"XFSB", "an XFS filesystem"),
    (0x1_0040, b"_BHRfS_M", "a btrfs filesystem"),
    (0x400, &[0x10, 0x20, 0xF5, 0xF2], "an F2FS filesystem"),
    (0x1018, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca], "a bcachefs filesystem"),
    (0x1018, &[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9], "a bcachefs filesystem"),
    (0, b"hsqs", "a squashfs image"),
    (0x8001, b"CD001", "an ISO 9660 image"),
    (3, b"NTFS    ", "an NTFS filesystem"),
    (3, b"EXFAT   ", "an exFAT filesystem"),
    (54, b"FAT", "a FAT filesystem"),
    (82, b"FAT32", "a FAT filesystem"),
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (0, b"LABELONE", "an LVM physical volume"),
    (512, b"LABELONE", "an LVM physical volume"),
    (1024, b"LABELONE", "an LVM physical volume"),
    (1536, b"LABELONE", "an LVM physical volume"),
    (0, b"LUKS\xba\xbe", "an encrypted (LUKS) volume"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4086, b"SWAP-SPACE", "swap space"),
    (0, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of an md array"),
    (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of an md array"),
    (0, b"bluestore block device", "a Ceph BlueStore device"),
    (510, &[0x55, 0xAA], "an MBR partition table or a boot sector"),
];

/// The first and the last bytes of a device.
pub(crate) struct Ends {
    first: Vec<Page>,
    last: Vec<Page>,
    device_bytes: u64,
}

impl Ends {
    /// Reads both ends.
    pub fn read(device: &File, device_bytes: u64) -> io::Result<Ends> {
        let looked_at = LOOKED_AT_BYTES.min(device_bytes / PAGE_BYTES * PAGE_BYTES);
        let pages = |offset| {
            let mut pages = vec![*Page::zeroed(); (looked_at / PAGE_BYTES) as usize];
            dma::read_pages(device, &mut pages, offset).map(|()| pages)
        };
        // A device's size is a number of sectors, not always of pages.
        let last_at = (device_bytes - looked_at) / PAGE_BYTES * PAGE_BYTES;
        Ok(Ends { first: pages(0)?, last: pages(last_at)?, device_bytes })
    }

    /// Whose device this is by a signature, in words.
    pub fn signature(&self) -> Option<String> {
        let first = bytes(&self.first);
        let stands = |(at, magic, _): &&(usize, &[u8], &str)| first.get(*at..at + magic.len()) == Some(*magic);
        if let Some((_, _, name)) = SIGNATURES.iter().find(stands) {
            return Some((*name).to_owned());
        }
        ZFS_UBERBLOCKS.step_by(1024).find_map(|at| {
            let magic = first.get(at..at + 8)?.try_into().expect("8 bytes");
            let is_zfs = [u64::from_le_bytes(magic), u64::from_be_bytes(magic)].contains(&ZFS_MAGIC);
            is_zfs.then(|| "a ZFS pool's disk".to_owned())
        })
    }

    /// Whether a superblock of kvd is there, whole or not.
    pub fn is_ours(&self) -> bool {
        let ours = |page: Option<&Page>| page.is_some_and(|page| !matches!(Superblock::decode(page), Err(NoSuperblock::OtherMagic)));
        ours(self.first.first()) || ours(self.first.get(1))
    }

    /// The first byte of either end that is not zero, in words.
    pub fn anything(&self) -> Option<String> {
        let last_start = self.device_bytes / PAGE_BYTES * PAGE_BYTES - (self.last.len() as u64 * PAGE_BYTES);
        let found = |pages: &[Page], start: u64| Some(start + bytes(pages).iter().position(|byte| *byte != 0)? as u64);
        if bytes(&self.last).chunks_exact(512).any(|sector| sector.starts_with(b"EFI PART")) {
            return Some("the backup of a GPT partition table".into());
        }
        let at = found(&self.first, 0).or_else(|| found(&self.last, last_start))?;
        Some(format!("data of an unknown kind (byte {at} is not zero)"))
    }
}

fn bytes(pages: &[Page]) -> Vec<u8> {
    pages.iter().flat_map(|page| page.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(at: usize, magic: &[u8]) -> Ends {
        let mut pages = vec![*Page::zeroed(); 256];
        for (nth, byte) in magic.iter().enumerate() {
            pages[(at + nth) / 4096].0[(at + nth) % 4096] = *byte;
        }
        Ends { first: pages, last: vec![*Page::zeroed(); 256], device_bytes: 64 << 20 }
    }

    #[test]
    fn every_signature_is_found_where_it_stands() {
        for (at, magic, name) in SIGNATURES {
            assert_eq!(ends(*at, magic).signature().as_deref(), Some(*name));
        }
        let zfs = ends((128 << 10) + 5 * 1024, &ZFS_MAGIC.to_be_bytes());
        assert_eq!(zfs.signature().as_deref(), Some("a ZFS pool's disk"));
    }

    #[test]
    fn a_blank_device_is_nobodys() {
        assert_eq!((ends(0, &[]).signature(), ends(0, &[]).anything()), (None, None));
    }

    #[test]
    fn any_byte_that_is_not_zero_is_somebodys() {
        assert!(ends(77_777, &[1]).anything().is_some_and(|found| found.contains("77777")));
        let mut last = ends(0, &[]);
        last.last[255].0[4095] = 9;
        assert!(last.anything().is_some_and(|found| found.contains("67108863")));
    }
}
