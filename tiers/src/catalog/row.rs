//! One row: which block is where. Offsets are in the catalog's module documentation.

use kvd_block::{BlockKey, LayoutHandle, LocalHash, SequenceHash, SlotIndex};

pub(super) const KEY_BYTES: usize = 18;
pub(super) const VALUE_BYTES: usize = 32;

/// A block in the slot file, with what its header says that is needed without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogRow {
    /// The block.
    pub key: BlockKey,
    /// Where.
    pub address: SlotIndex,
    /// The block before it in its sequence.
    pub parent: SequenceHash,
    /// What routers match its own tokens by.
    pub local: LocalHash,
    /// How many blocks come before it.
    pub position: u32,
}

/// One change of the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogChange {
    /// The block is at that address now.
    Put(CatalogRow),
    /// The block is in the file no more.
    Delete(BlockKey),
    /// Every block of a layout, or of all, was purged; remembered together with the rows' absence.
    Purge {
        /// Which layout; `None` is all.
        layout: Option<LayoutHandle>,
        /// Which purge.
        generation: u64,
    },
}

pub(super) fn encode_key(key: BlockKey) -> [u8; KEY_BYTES] {
    let mut bytes = [0; KEY_BYTES];
    bytes[..2].copy_from_slice(&key.layout.0.to_be_bytes());
    bytes[2..].copy_from_slice(&key.hash.0);
    bytes
}

/// First key of a layout's rows, and the first key behind them.
pub(super) fn layout_keys(layout: LayoutHandle) -> ([u8; KEY_BYTES], Option<[u8; KEY_BYTES]>) {
    let first = |layout: u16| encode_key(BlockKey { layout: LayoutHandle(layout), hash: SequenceHash([0; 16]) });
    (first(layout.0), layout.0.checked_add(1).map(first))
}

pub(super) fn encode_value(row: &CatalogRow) -> [u8; VALUE_BYTES] {
    let mut bytes = [0; VALUE_BYTES];
    bytes[..4].copy_from_slice(&row.address.0.to_le_bytes());
    bytes[4..8].copy_from_slice(&row.position.to_le_bytes());
    bytes[8..16].copy_from_slice(&row.local.0.to_le_bytes());
    bytes[16..].copy_from_slice(&row.parent.0);
    bytes
}

pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<CatalogRow> {
    let key: &[u8; KEY_BYTES] = key.try_into().ok()?;
    let value: &[u8; VALUE_BYTES] = value.try_into().ok()?;
    let layout = LayoutHandle(u16::from_be_bytes(part(key, 0)));
    Some(CatalogRow {
        key: BlockKey { layout, hash: SequenceHash(part(key, 2)) },
        address: SlotIndex(u32::from_le_bytes(part(value, 0))),
        position: u32::from_le_bytes(part(value, 4)),
        local: LocalHash(u64::from_le_bytes(part(value, 8))),
        parent: SequenceHash(part(value, 16)),
    })
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("N bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_back_and_a_short_one_does_not() {
        let row = CatalogRow {
            key: BlockKey { layout: LayoutHandle(0x0102), hash: SequenceHash([3; 16]) },
            address: SlotIndex(4),
            parent: SequenceHash([5; 16]),
            local: LocalHash(6),
            position: 7,
        };
        let (key, value) = (encode_key(row.key), encode_value(&row));
        assert_eq!(decode(&key, &value), Some(row));
        assert_eq!(decode(&key, &value[1..]), None);
    }
}
