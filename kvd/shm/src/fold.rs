//! The checksum of bytes while they are in the CPU's registers, on their way from one place to another.
//!
//! A CRC is the remainder of a division, and 128 bytes that leave the same remainder can stand for all bytes before them. So
//! each 128 bytes are loaded once, stored once, and folded into eight 16-byte lanes by carry-less multiplication; at the end
//! the library divides the lanes alone. Two things follow: the checksum is of exactly the bytes that were stored, whoever
//! writes to the source meanwhile, and the multiplications hide behind the loads.
//!
//! Stores go past the caches (non-temporal), so that no line is read only to be overwritten, and memory is asked for ahead,
//! because the CPU's own prefetcher stops at every 4 KiB page.
//!
//! Measured on a busy 2.5 GHz Skylake (64 KiB pieces of 256 MiB, CPU time): 1.02 of a plain `memcpy` of the same bytes, where
//! checksumming 512-byte pieces in the first-level cache gave 0.85; checksumming alone, 1.15 of the library on cold memory.

use kvd_block::checksum::ChecksumStream;
use std::arch::x86_64::{
    __m128i, _MM_HINT_T0, _mm_clmulepi64_si128, _mm_cvtsi64_si128, _mm_loadu_si128, _mm_prefetch, _mm_set_epi64x, _mm_sfence,
    _mm_storeu_si128, _mm_stream_si128, _mm_xor_si128,
};

/// Bytes folded at a time.
pub(crate) const GROUP_BYTES: usize = 128;
/// How far ahead memory is asked for.
const AHEAD_BYTES: usize = 2048;
/// Where bytes are only read, there is more room for them on their way.
const AHEAD_OF_READS_BYTES: usize = 4096;

/// CRC-64/NVME's polynomial without its highest term.
const POLYNOMIAL: u64 = 0xAD93_D235_94C9_3659;
/// What a lane's halves are multiplied with to move them 1,024 bits on. The odd bit is what a reflected product is short of.
const LOW_HALF_ON: u64 = power_of_x(1024 + 64 - 1).reverse_bits();
const HIGH_HALF_ON: u64 = power_of_x(1024 - 1).reverse_bits();

/// x to the power of `n`, modulo the polynomial.
const fn power_of_x(n: u32) -> u64 {
    let (mut remainder, mut done) = (1u64, 0);
    while done < n {
        let carry = remainder >> 63;
        remainder = (remainder << 1) ^ (carry * POLYNOMIAL);
        done += 1;
    }
    remainder
}

/// What becomes of the bytes besides their checksum.
const READ: u8 = 0;
const STORE: u8 = 1;
const STORE_PAST_CACHES: u8 = 2;

/// Whether this CPU can.
pub(crate) fn is_available() -> bool {
    std::is_x86_feature_detected!("pclmulqdq") && std::is_x86_feature_detected!("avx")
}

/// Copies `len` bytes and continues `checksum` over them.
///
/// # Safety
/// [`is_available`]; `len` is a positive multiple of [`GROUP_BYTES`]; `from` is readable and `to` writable for `len` bytes, and
/// they do not overlap.
pub(crate) unsafe fn copy(to: *mut u8, from: *const u8, len: usize, checksum: &mut ChecksumStream) {
    // SAFETY: the caller's promise; past the caches only where the target is aligned for it.
    unsafe {
        if (to as usize).is_multiple_of(16) {
            fold::<STORE_PAST_CACHES, AHEAD_BYTES>(to, from, len, checksum);
            // Makes these stores visible to other cores before whatever says that they are done.
            _mm_sfence();
        } else {
            fold::<STORE, AHEAD_BYTES>(to, from, len, checksum);
        }
    }
}

/// Continues `checksum` over `len` bytes.
///
/// # Safety
/// [`is_available`]; `len` is a positive multiple of [`GROUP_BYTES`]; `from` is readable for `len` bytes.
pub(crate) unsafe fn read(from: *const u8, len: usize, checksum: &mut ChecksumStream) {
    // SAFETY: the caller's promise; nothing is stored.
    unsafe { fold::<READ, AHEAD_OF_READS_BYTES>(std::ptr::null_mut(), from, len, checksum) }
}

type Lanes = [__m128i; GROUP_BYTES / 16];

#[target_feature(enable = "avx,pclmulqdq")]
unsafe fn fold<const TARGET: u8, const AHEAD: usize>(to: *mut u8, from: *const u8, len: usize, checksum: &mut ChecksumStream) {
    // SAFETY: every group lies inside the ranges the caller promised. A prefetch never faults, whatever its address.
    let lanes = unsafe {
        let mut lanes = load(from);
        store::<TARGET>(to, lanes);
        lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi64_si128(checksum.register() as i64));
        let on = _mm_set_epi64x(HIGH_HALF_ON as i64, LOW_HALF_ON as i64);
        for at in (GROUP_BYTES..len).step_by(GROUP_BYTES) {
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(at + AHEAD).cast());
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(at + AHEAD + 64).cast());
            let group = load(from.add(at));
            store::<TARGET>(to.wrapping_add(at), group);
            for (lane, bytes) in lanes.iter_mut().zip(group) {
                let low = _mm_clmulepi64_si128::<0x00>(*lane, on);
                let high = _mm_clmulepi64_si128::<0x11>(*lane, on);
                *lane = _mm_xor_si128(_mm_xor_si128(low, high), bytes);
            }
        }
        lanes
    };
    *checksum = ChecksumStream::from_register(0);
    checksum.update(&bytes_of(lanes));
}

/// # Safety
/// `from` is readable for [`GROUP_BYTES`].
#[inline(always)]
unsafe fn load(from: *const u8) -> Lanes {
    // SAFETY: the caller's promise.
    unsafe { std::array::from_fn(|lane| _mm_loadu_si128(from.cast::<__m128i>().add(lane))) }
}

/// # Safety
/// `to` is writable for [`GROUP_BYTES`] unless `TARGET` is [`READ`], and aligned to 16 bytes for [`STORE_PAST_CACHES`].
#[inline(always)]
unsafe fn store<const TARGET: u8>(to: *mut u8, group: Lanes) {
    for (lane, bytes) in group.into_iter().enumerate() {
        let at = to.cast::<__m128i>().wrapping_add(lane);
        // SAFETY: the caller's promise.
        unsafe {
            match TARGET {
                STORE_PAST_CACHES => _mm_stream_si128(at, bytes),
                STORE => _mm_storeu_si128(at, bytes),
                _ => {}
            }
        }
    }
}

fn bytes_of(lanes: Lanes) -> [u8; GROUP_BYTES] {
    let mut bytes = [0; GROUP_BYTES];
    for (to, lane) in bytes.chunks_exact_mut(16).zip(lanes) {
        // SAFETY: `to` is 16 bytes long.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), lane) };
    }
    bytes
}
