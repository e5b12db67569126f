//! What is in the blocks, and how large they are: a medium must not care.

use super::blocks::{layout_of, payload, seal, seal_payload};
use super::stage::{Stage, Trial, same_bytes};
use super::{Check, Group, Trouble, Verdict, WIDEST_PAYLOAD_BYTES, broken, promise};
use kvd_block::{HEADER_BYTES, LayoutSpec, PAGE_BYTES, SlotIndex};

const fn check(name: &'static str, promise: &'static str, try_it: fn(&Stage<'_>) -> Verdict) -> Check {
    Check { name, group: Group::Data, promise, try_it }
}

pub(super) const CHECKS: &[Check] = &[
    check("patterns", "Zeros, ones, repeats and noise come back alike, whatever a device compresses, deduplicates or trims.", patterns),
    check("block-in-block", "A payload that looks like a block is still only a payload.", block_in_block),
    check("sizes", "Blocks from one byte to 16 MiB, of whole pages or not, come back to the last byte.", sizes),
    check("mixed-sizes", "Blocks of several sizes live side by side on one medium.", mixed_sizes),
    check("changed-size", "Space that held small blocks and now holds large ones gives neither back wrongly.", changed_size),
];

/// Payloads with their ranks: odd, even, one less and one more than whole pages, small and wide.
const SIZES: &[(u64, u16)] = &[
    (1, 1),
    (511, 1),
    (4095, 1),
    (4096, 1),
    (4097, 1),
    (6000, 2),
    (21_845, 3),
    (131_072, 1),
    (1_048_575, 1),
    (262_144, 8),
    (4_194_307, 1),
    (WIDEST_PAYLOAD_BYTES, 1),
];

/// Those that fit the extents of the medium and half of the arena.
fn fitting(trial: &Trial<'_>) -> Vec<LayoutSpec> {
    let most = trial.limits().extent_bytes.saturating_sub(PAGE_BYTES).min(trial.arena().bytes() / 2);
    SIZES.iter().map(|(stripe_bytes, ranks)| layout_of(*stripe_bytes, *ranks)).filter(|layout| layout.slot_bytes() <= most).collect()
}

/// Writes a block of `layout` to `address` out of the first half of the arena.
fn write(trial: &Trial<'_>, layout: &LayoutSpec, address: SlotIndex, seed: u64) -> Result<(), Trouble> {
    let slot = trial.slot_of(layout, 0);
    seal(&slot, layout, seed);
    match trial.write_slot(slot, address)? {
        Ok(()) => Ok(()),
        Err(error) => broken(format!("a write of a block with {} bytes of payload failed: {error}", layout.payload_bytes())),
    }
}

/// Reads it again.
fn expect(trial: &Trial<'_>, layout: &LayoutSpec, address: SlotIndex, seed: u64) -> Result<(), Trouble> {
    let name = super::blocks::name_of(layout, seed);
    let when = format!("for a payload of {} bytes", layout.payload_bytes());
    match trial.read_slot(trial.slot_of(layout, 0), address, name)? {
        (slot, Ok(())) => same_bytes(&slot, layout, seed, &when),
        (_, Err(error)) => broken(format!("{when}, what was written cannot be read: {error}")),
    }
}

fn patterns(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let layout = layout_of(65_536, 1);
    let bytes = layout.payload_bytes() as usize;
    let noise = payload(&layout, trial.seed());
    let patterns: [(&str, Vec<u8>); 5] = [
        ("zeros", vec![0; bytes]),
        ("ones", vec![0xFF; bytes]),
        ("a repeated word", [0xAA, 0x55, 0x00, 0xFF].repeat(bytes / 4)),
        ("a repeated sector", noise[..512].repeat(bytes / 512)),
        ("noise", noise),
    ];
    for (what, pattern) in &patterns {
        let slot = trial.slot_of(&layout, 0);
        let name = seal_payload(&slot, &layout, trial.seed(), pattern);
        if let Err(error) = trial.write_slot(slot, trial.extent_address(0))? {
            return broken(format!("a write of {what} failed: {error}"));
        }
        match trial.read_slot(trial.slot_of(&layout, 1), trial.extent_address(0), name)? {
            (slot, Ok(())) => promise(slot.read_at(HEADER_BYTES, bytes) == *pattern, || format!("{what} came back as WRONG BYTES"))?,
            (_, Err(error)) => return broken(format!("a block of {what} cannot be read: {error}")),
        }
    }
    Ok(String::new())
}

fn block_in_block(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let (inner, outer) = (layout_of(8192, 1), layout_of(65_536, 1));
    let (inner_slot, seed) = (trial.slot_of(&inner, 0), trial.seed());
    let inner_name = seal(&inner_slot, &inner, seed);
    let image = inner_slot.read_at(0, inner.slot_bytes() as usize);
    let mut bytes = image.repeat(outer.payload_bytes() as usize / image.len() + 1);
    bytes.truncate(outer.payload_bytes() as usize);
    let slot = trial.slot_of(&outer, 1);
    let name = seal_payload(&slot, &outer, trial.seed(), &bytes);
    if let Err(error) = trial.write_slot(slot, trial.extent_address(0))? {
        return broken(format!("the write failed: {error}"));
    }
    let (slot, result) = trial.read_slot(trial.slot_of(&outer, 1), trial.extent_address(0), name)?;
    promise(result.is_ok() && slot.read_at(HEADER_BYTES, bytes.len()) == bytes, || format!("the outer block came back as {result:?}"))?;
    let (_, result) = trial.read_slot(trial.slot_of(&inner, 0), trial.extent_address(0), inner_name)?;
    promise(result.is_err(), || "the block inside the payload was given out as the block there".into())?;
    Ok(String::new())
}

fn sizes(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let layouts = fitting(&trial);
    for layout in &layouts {
        let seed = trial.seed();
        write(&trial, layout, trial.extent_address(0), seed)?;
        expect(&trial, layout, trial.extent_address(0), seed)?;
    }
    let widest = layouts.iter().map(LayoutSpec::payload_bytes).max().unwrap_or(0);
    Ok(format!("{} sizes, up to {widest} bytes", layouts.len()))
}

fn mixed_sizes(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let extents = trial.limits().capacity_bytes / trial.limits().extent_bytes;
    if extents < 2 {
        return Err(Trouble::CannotTry("the target is too small for two sizes".into()));
    }
    let blocks: Vec<(LayoutSpec, SlotIndex, u64)> = fitting(&trial)
        .into_iter()
        .rev()
        .zip(0..extents)
        .map(|(layout, extent)| (layout, trial.extent_address(extent), trial.seed()))
        .collect();
    for (layout, address, seed) in &blocks {
        write(&trial, layout, *address, *seed)?;
    }
    for (layout, address, seed) in &blocks {
        expect(&trial, layout, *address, *seed)?;
    }
    Ok(format!("{} sizes", blocks.len()))
}

fn changed_size(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let small = (0..8).map(|nth| trial.write(nth)).collect::<Result<Vec<_>, _>>()?;
    let large = layout_of(40_000, 1);
    let seed = trial.seed();
    write(&trial, &large, trial.extent_address(0), seed)?;
    expect(&trial, &large, trial.extent_address(0), seed)?;
    // The large block lies over the first small ones only.
    let covered = large.slot_pages().div_ceil(trial.layout.slot_pages());
    for block in &small {
        let there = trial.right_or_corrupt(block, "after its space got blocks of another size")?;
        promise(!there || block.nth >= covered, || format!("small block {} was given out though it was written over", block.nth))?;
    }
    expect(&trial, &large, trial.extent_address(0), seed)?;
    Ok(String::new())
}
