//! Judges whether a slot holds the whole image of the block asked for.
//!
//! Every byte of header and payload is checked, so nothing a medium did (rot, a torn or lost write, another block at that
//! address) can be taken for the block.

use crate::tier::BlockName;
use kvd_block::units::round_up_to_page;
use kvd_block::{HEADER_BYTES, image};
use kvd_shm::Slot;

/// `Err` says what was found instead.
pub(crate) fn verify(slot: &Slot, name: &BlockName) -> Result<(), String> {
    let page = slot.read_header();
    image::verify_page(&page).map_err(|error| error.to_string())?;
    let found = BlockName { layout: image::layout_id(&page), hash: image::sequence_hash(&page) };
    if found != *name {
        return Err(format!("holds {found}"));
    }
    let (payload_bytes, ranks) = (image::payload_bytes(&page), u64::from(image::ranks(&page)));
    if payload_bytes > slot.bytes() || HEADER_BYTES + round_up_to_page(payload_bytes) != slot.bytes() {
        return Err(format!("payload of {payload_bytes} bytes does not fit a slot of {} bytes", slot.bytes()));
    }
    if ranks == 0 || !payload_bytes.is_multiple_of(ranks) {
        return Err(format!("payload of {payload_bytes} bytes in {ranks} stripes"));
    }
    let stripe_bytes = payload_bytes / ranks;
    for rank in 0..ranks as u16 {
        let found = slot.checksum_at(HEADER_BYTES + u64::from(rank) * stripe_bytes, stripe_bytes);
        if found != image::stripe_checksum(&page, rank) {
            return Err(format!("stripe {rank} failed its checksum"));
        }
    }
    Ok(())
}
