//! Sizes and time, with their units in their names.

/// Everything on disk and in the arena is addressed in pages of this many bytes.
///
/// 4 KiB satisfies O_DIRECT on every device seen (statx reports 512 or 4,096) and is the CPU's page.
pub const PAGE_BYTES: u64 = 4096;

/// Bytes of the header in front of every payload: one page, so payloads stay page-aligned for DMA.
pub const HEADER_BYTES: u64 = PAGE_BYTES;

/// Milliseconds on a clock that only goes forward; its zero has no meaning.
///
/// The pure parts of kvd receive it as an argument and never ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// The tick `ms` milliseconds later.
    pub fn after_ms(self, ms: u64) -> Tick {
        Tick(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to `self`; zero when `earlier` is later.
    pub fn since_ms(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// `bytes` rounded up to whole pages, in bytes.
pub fn round_up_to_page(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES
}
