//! The engine's KV memory as this process sees it: for each layer, an array of pages, one per block.

use kvd_block::{LayoutError, LayoutId, LayoutSpec};

/// One layer's pages: page `i` starts at `base + i × stride_bytes` and is `page_bytes` long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerPages {
    /// Address of page 0.
    pub base: usize,
    /// Bytes of one block's page.
    pub page_bytes: usize,
    /// Bytes from one page to the next.
    pub stride_bytes: usize,
    /// How many pages there are.
    pub num_blocks: usize,
}

/// Why pages cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PagesError {
    /// The layout is refused.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// No layer at all.
    #[error("no layers were given")]
    NoLayers,
    /// The pages of one block are not one stripe.
    #[error("the pages of one block add up to {pages_bytes} bytes over {layers} layers, the layout says stripe_bytes = {stripe_bytes}")]
    StripeDiffers {
        /// Sum over layers.
        pages_bytes: u64,
        /// How many layers.
        layers: usize,
        /// What the layout says.
        stripe_bytes: u64,
    },
    /// A rank that the layout does not have.
    #[error("rank {rank} of a layout with {ranks} ranks")]
    BadRank {
        /// The rank.
        rank: u16,
        /// The layout's ranks.
        ranks: u16,
    },
    /// Numbers that cannot describe memory.
    #[error("layer {layer}: {why}")]
    BadLayer {
        /// Which.
        layer: usize,
        /// What is wrong.
        why: &'static str,
    },
}

/// One rank's KV memory of one layout.
#[derive(Debug, Clone)]
pub struct PagedKv {
    layers: Vec<LayerPages>,
    rank: u16,
    spec: LayoutSpec,
    layout_id: LayoutId,
    num_blocks: usize,
}

impl PagedKv {
    /// Describes KV memory. A stripe holds the layers' pages in the order given.
    ///
    /// # Safety
    /// Every page of every layer is readable and writable memory of this process for as long as copies are asked for. While a
    /// block is being copied, nobody else writes its pages.
    pub unsafe fn new(layers: Vec<LayerPages>, rank: u16, spec: LayoutSpec) -> Result<PagedKv, PagesError> {
        spec.validate()?;
        if rank >= spec.ranks {
            return Err(PagesError::BadRank { rank, ranks: spec.ranks });
        }
        for (layer, pages) in layers.iter().enumerate() {
            pages.check().map_err(|why| PagesError::BadLayer { layer, why })?;
        }
        let num_blocks = layers.iter().map(|pages| pages.num_blocks).min().ok_or(PagesError::NoLayers)?;
        let pages_bytes = layers.iter().map(|pages| pages.page_bytes as u64).sum();
        if pages_bytes != spec.stripe_bytes {
            return Err(PagesError::StripeDiffers { pages_bytes, layers: layers.len(), stripe_bytes: spec.stripe_bytes });
        }
        Ok(PagedKv { layout_id: spec.id(), layers, rank, spec, num_blocks })
    }

    /// How many layers there are.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Block ids below this are valid: the fewest pages that any layer has.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Which stripe of the payload these pages are.
    pub fn rank(&self) -> u16 {
        self.rank
    }

    /// What gives the bytes their meaning.
    pub fn spec(&self) -> &LayoutSpec {
        &self.spec
    }

    /// Name of the layout, computed once.
    pub fn layout_id(&self) -> LayoutId {
        self.layout_id
    }

    /// The layers, in stripe order.
    pub fn layers(&self) -> &[LayerPages] {
        &self.layers
    }
}

impl LayerPages {
    fn check(&self) -> Result<(), &'static str> {
        let span = self.num_blocks.saturating_sub(1).checked_mul(self.stride_bytes).and_then(|bytes| bytes.checked_add(self.page_bytes));
        match span.and_then(|bytes| bytes.checked_add(self.base)) {
            _ if self.base == 0 => Err("the base address is zero"),
            _ if self.page_bytes == 0 || self.num_blocks == 0 => Err("it has no pages"),
            _ if self.stride_bytes < self.page_bytes => Err("pages overlap: stride_bytes is less than page_bytes"),
            Some(end) if end <= isize::MAX as usize => Ok(()),
            _ => Err("the pages do not fit the address space"),
        }
    }

    /// Address of `block`'s page.
    ///
    /// # Panics
    /// When there is no such block.
    pub(crate) fn page(&self, block: usize) -> *mut u8 {
        assert!(block < self.num_blocks, "block {block} of {} pages", self.num_blocks);
        (self.base + block * self.stride_bytes) as *mut u8
    }
}
