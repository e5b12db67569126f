//! Copies between engine memory and slots, with the checksum taken on the way.
//!
//! A block is megabytes, so a copy runs at the speed of memory and its CPU mostly waits; the checksum hides in that wait.
//! Where the CPU multiplies without carry, `fold` does both in one pass. Elsewhere each small piece is copied
//! to the first-level cache, checksummed there, and stored from there.

use kvd_block::checksum::ChecksumStream;

/// Bytes checksummed and then copied at a time where there is no single pass.
const PIECE_BYTES: usize = 512;

/// Copies `len` bytes.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes, and they do not overlap. Another process may write to a
/// shared source meanwhile: the copy then holds some mixture of old and new bytes, which a checksum must judge.
pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
}

/// Copies `len` bytes and continues `checksum` over exactly the bytes that were copied: a writer that races with this call
/// cannot make checksum and copy disagree.
///
/// # Safety
/// As for [`copy`].
pub unsafe fn copy_checked(to: *mut u8, from: *const u8, len: usize, checksum: &mut ChecksumStream) {
    let folded = whole_groups(len);
    // SAFETY: parts of the ranges the caller promised.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if folded > 0 {
            crate::fold::copy(to, from, folded, checksum);
        }
        copy_in_pieces(to.add(folded), from.add(folded), len - folded, checksum);
    }
}

/// Continues `checksum` over `len` bytes, read in place.
///
/// # Safety
/// `from` is readable for `len` bytes, and nobody writes to them meanwhile.
pub(crate) unsafe fn checksum_in_place(from: *const u8, len: usize, checksum: &mut ChecksumStream) {
    let folded = whole_groups(len);
    #[cfg(target_arch = "x86_64")]
    if folded > 0 {
        // SAFETY: a part of the range the caller promised.
        unsafe { crate::fold::read(from, folded, checksum) };
    }
    // SAFETY: the rest of that range, which nobody writes to.
    checksum.update(unsafe { std::slice::from_raw_parts(from.add(folded), len - folded) });
}

/// How many of `len` bytes go through the single pass.
fn whole_groups(len: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if crate::fold::is_available() {
        return len / crate::fold::GROUP_BYTES * crate::fold::GROUP_BYTES;
    }
    let _ = len;
    0
}

/// # Safety
/// As for [`copy`].
unsafe fn copy_in_pieces(to: *mut u8, from: *const u8, len: usize, checksum: &mut ChecksumStream) {
    let mut piece = [0; PIECE_BYTES];
    for done in (0..len).step_by(PIECE_BYTES) {
        let private = &mut piece[..PIECE_BYTES.min(len - done)];
        // SAFETY: inside the ranges the caller promised; `private` is ours.
        unsafe {
            std::ptr::copy_nonoverlapping(from.add(done), private.as_mut_ptr(), private.len());
            checksum.update(private);
            std::ptr::copy_nonoverlapping(private.as_ptr(), to.add(done), private.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvd_block::Checksum;

    #[test]
    fn every_length_and_alignment_is_copied_exactly() {
        let source: Vec<u8> = (0..20_000u32).map(|i| (i * 7 + i / 255) as u8).collect();
        for len in [0, 1, 31, 127, 128, 4095, 4096, 4097, 8192, 12_345] {
            for shift in [0, 1, 32] {
                let mut target = vec![0u8; len + 64];
                let mut checksum = ChecksumStream::default();
                // SAFETY: both ranges are inside their vectors.
                unsafe { copy_checked(target.as_mut_ptr().add(shift), source.as_ptr().add(shift), len, &mut checksum) };
                let expected = &source[shift..shift + len];
                assert_eq!(&target[shift..shift + len], expected);
                assert!(target[shift + len..].iter().all(|byte| *byte == 0), "wrote past the end");
                assert_eq!(checksum.finish(), Checksum::of(expected));
            }
        }
    }

    #[test]
    fn a_checksum_continues_over_pieces_of_any_length() {
        let source: Vec<u8> = (0..50_000u32).map(|i| (i * 13 + i / 251) as u8).collect();
        let mut target = vec![0u8; source.len()];
        let (mut copied, mut read) = (ChecksumStream::default(), ChecksumStream::default());
        let mut at = 0;
        for len in [128, 1, 640, 127, 4096, 300, 16_384, 12_001, 0, 16_323] {
            // SAFETY: the lengths add up to that of both vectors.
            unsafe {
                copy_checked(target.as_mut_ptr().add(at), source.as_ptr().add(at), len, &mut copied);
                checksum_in_place(source.as_ptr().add(at), len, &mut read);
            }
            at += len;
        }
        assert_eq!((at, &target), (source.len(), &source));
        assert_eq!((copied.finish(), read.finish()), (Checksum::of(&source), Checksum::of(&source)));
    }

    #[test]
    fn without_a_single_pass_the_checksum_is_the_same() {
        let source: Vec<u8> = (0..5000u32).map(|i| (i * 11) as u8).collect();
        let (mut target, mut checksum) = (vec![0u8; source.len()], ChecksumStream::default());
        // SAFETY: both vectors are that long.
        unsafe { copy_in_pieces(target.as_mut_ptr(), source.as_ptr(), source.len(), &mut checksum) };
        assert_eq!((&target, checksum.finish()), (&source, Checksum::of(&source)));
    }
}
