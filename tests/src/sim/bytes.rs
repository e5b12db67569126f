//! The bytes of the simulation: a page says who wrote it, so wrong bytes are seen even when every checksum matches.
//!
//! Readers decide by header and checksum alone, as real ones do; the [`Copies`] table is for the judge only.

use crate::sim::dice::mix;
use kvd_block::{BlockKey, Checksum};
use kvd_ledger::CatalogRow;
use std::ops::Range;
use std::rc::Rc;

/// One act of storing one block. Two engines that store the same block write different copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyId(pub u32);

/// What a header page says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The block and its place in its sequence; the address means nothing.
    pub row: CatalogRow,
    /// Checksum of each rank's stripe.
    pub stripes: Vec<Checksum>,
    /// That of the last purge when it was stored.
    pub generation: u64,
}

/// Four KiB.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Page {
    /// Never written, or erased.
    #[default]
    Blank,
    /// A sealed header.
    Header(Rc<Header>),
    /// Page `part` of the payload of a copy.
    Data {
        /// Which copy.
        copy: CopyId,
        /// Which page of its payload.
        part: u32,
    },
    /// Rot, or a torn page.
    Noise(u64),
}

impl Page {
    /// True for rot.
    pub fn is_noise(&self) -> bool {
        matches!(self, Page::Noise(_))
    }

    fn digest(&self) -> u64 {
        match self {
            Page::Blank => 0,
            Page::Header(header) => mix(header.row.key.hash.table_hash() ^ 0x4845_4144),
            Page::Data { copy, part } => mix((u64::from(copy.0) << 20 | u64::from(*part)) + 1),
            Page::Noise(noise) => mix(*noise ^ 0x4E4F_4953),
        }
    }
}

/// Sizes of a layout's slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Stripes.
    pub ranks: u16,
    /// Pages of one stripe.
    pub stripe_pages: u32,
}

impl Shape {
    /// Pages of a slot, header included.
    pub fn slot_pages(self) -> u32 {
        1 + u32::from(self.ranks) * self.stripe_pages
    }

    /// Where a rank's stripe lies in its slot, in pages.
    pub fn stripe(self, rank: u16) -> Range<usize> {
        let start = 1 + usize::from(rank) * self.stripe_pages as usize;
        start..start + self.stripe_pages as usize
    }
}

/// The checksum of a stripe.
pub fn checksum(pages: &[Page]) -> Checksum {
    Checksum(pages.iter().fold(0x6B76_6464, |sum, page| mix(sum ^ page.digest())))
}

/// True when `image` says that it is `key` and every stripe matches: what a tier checks after a read.
pub fn is_image_of(image: &[Page], key: BlockKey, shape: Shape) -> bool {
    let Page::Header(header) = &image[0] else { return false };
    header.row.key == key && (0..shape.ranks).all(|rank| header.stripes[usize::from(rank)] == checksum(&image[shape.stripe(rank)]))
}

/// Who wrote what: known to the judge, never to a reader.
#[derive(Debug, Default)]
pub struct Copies(Vec<Origin>);

/// Where a copy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The block.
    pub key: BlockKey,
    /// The engine that stored it.
    pub engine: usize,
    /// How many purges its layout had seen before.
    pub purges: u64,
}

impl Copies {
    /// A new copy.
    pub fn make(&mut self, origin: Origin) -> CopyId {
        self.0.push(origin);
        CopyId(self.0.len() as u32 - 1)
    }

    /// Judges pages that a reader accepted as `rank`'s stripe of `key`. Returns where they come from.
    ///
    /// # Panics
    /// When they are anything else.
    pub fn judge(&self, pages: &[Page], key: BlockKey, shape: Shape, rank: u16) -> Origin {
        let Some(Page::Data { copy: first, .. }) = pages.first() else { panic!("a reader of {key} accepted {pages:?}") };
        for (page, expected) in pages.iter().zip(shape.stripe(rank)) {
            let want = Page::Data { copy: *first, part: expected as u32 };
            assert_eq!(*page, want, "a reader of {key} accepted bytes that nobody stored");
        }
        let origin = self.0[first.0 as usize];
        assert_eq!(origin.key, key, "a reader accepted another block's bytes");
        origin
    }
}
