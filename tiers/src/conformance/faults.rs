//! A medium that fails in silence: whatever it gives back, no wrong byte is called a success, and the rest is untouched.
//!
//! The damage is done to the bytes of the medium behind the tier's back: what a device does that rots, tears, loses or misplaces.

use super::blocks::seal;
use super::stage::{Raw, Stage, Trial, Written};
use super::{Check, Group, Trouble, Verdict, promise};
use kvd_block::HEADER_BYTES;
use std::io;

const fn check(name: &'static str, promise: &'static str, try_it: fn(&Stage<'_>) -> Verdict) -> Check {
    Check { name, group: Group::Faults, promise, try_it }
}

pub(super) const CHECKS: &[Check] = &[
    check("flipped-bit", "One flipped bit anywhere in header or payload is found, and flipped back the block is whole.", flipped_bit),
    check("torn-write", "A block of which only a part was written is found out, whichever part.", torn_write),
    check("torn-sectors", "A block of which every other sector is the older one is found out.", torn_sectors),
    check("lost-write", "A write that was acknowledged and lost is found out: the older block is not taken for it.", lost_write),
    check("misplaced-write", "A block that was written over another one's place is not taken for that one.", misplaced_write),
    check("zeroed", "Space that was discarded or zeroed is not taken for a block.", zeroed),
    check("scrub", "A pass over everything names the damaged blocks and no others.", scrub),
    check("cut-short", "A medium that ends too early loses what was behind its end and nothing else.", cut_short),
];

fn done(result: io::Result<()>) -> Result<(), Trouble> {
    result.map_err(|error| Trouble::CannotTry(format!("the bytes of this target cannot be changed: {error}")))
}

/// Three neighbours: what is done to the middle one must not be seen in the others.
struct Neighbours([Written; 3]);

impl Neighbours {
    fn write(trial: &Trial<'_>) -> Result<Neighbours, Trouble> {
        Ok(Neighbours([trial.write(8)?, trial.write(9)?, trial.write(10)?]))
    }

    fn middle(&self) -> &Written {
        &self.0[1]
    }

    fn others_are_whole(&self, trial: &Trial<'_>, when: &str) -> Result<(), Trouble> {
        trial.expect(&self.0[0], when)?;
        trial.expect(&self.0[2], when)
    }
}

fn image_bytes(trial: &Trial<'_>) -> usize {
    (HEADER_BYTES + trial.layout.payload_bytes()) as usize
}

fn image(trial: &Trial<'_>, raw: &dyn Raw, nth: u32) -> Result<Vec<u8>, Trouble> {
    let mut bytes = vec![0; image_bytes(trial)];
    done(raw.read(trial.address(nth), 0, &mut bytes))?;
    Ok(bytes)
}

/// The bytes of the medium are those of the block, or nothing below would prove anything.
fn expect_image(trial: &Trial<'_>, raw: &dyn Raw, block: &Written) -> Result<Vec<u8>, Trouble> {
    let found = image(trial, raw, block.nth)?;
    let slot = trial.slot(0);
    seal(&slot, &trial.layout, block.seed);
    let expected = slot.read_at(0, image_bytes(trial));
    promise(found == expected, || "an acknowledged block is not on the medium: its bytes there are others".into())?;
    Ok(found)
}

fn flipped_bit(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let blocks = Neighbours::write(&trial)?;
    let (address, payload_bytes) = (trial.address(9), trial.layout.payload_bytes());
    let flip = |offset| match stage.medium.flip_bit(address, offset) {
        Some(flipped) => done(flipped),
        None => Err(Trouble::CannotTry("the bytes of this target cannot be reached past the tier".into())),
    };
    let offsets = [0, 40, 700, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 6000, HEADER_BYTES + payload_bytes - 1];
    for offset in offsets {
        flip(offset)?;
        trial.expect_corrupt(9, blocks.middle().name, &format!("with a flipped bit in byte {offset}"))?;
        blocks.others_are_whole(&trial, "with a flipped bit in its neighbour")?;
        flip(offset)?;
        trial.expect(blocks.middle(), "with the bit flipped back")?;
    }
    Ok(format!("{} places", offsets.len()))
}

/// Two images at one place, the older overwritten.
fn two_images(trial: &Trial<'_>, raw: &dyn Raw) -> Result<(Written, Vec<u8>, Written, Vec<u8>), Trouble> {
    let older = trial.write(9)?;
    let older_image = expect_image(trial, raw, &older)?;
    let newer = trial.write(9)?;
    let newer_image = expect_image(trial, raw, &newer)?;
    Ok((older, older_image, newer, newer_image))
}

fn torn_write(stage: &Stage<'_>) -> Verdict {
    let raw = stage.raw()?;
    let trial = stage.open()?;
    let (older, older_image, newer, newer_image) = two_images(&trial, raw)?;
    let (header, half) = (HEADER_BYTES as usize, image_bytes(&trial) / 2 / 512 * 512);
    let mixtures = [
        ("the first half new and the second old", &newer_image, half, &older_image),
        ("the first half old and the second new", &older_image, half, &newer_image),
        ("the header new and the payload old", &newer_image, header, &older_image),
        ("the header old and the payload new", &older_image, header, &newer_image),
    ];
    for (what, first, at, second) in mixtures {
        done(raw.write(trial.address(9), 0, &[&first[..at], &second[at..]].concat()))?;
        trial.expect_corrupt(9, newer.name, &format!("for the newer block, with {what}"))?;
        trial.expect_corrupt(9, older.name, &format!("for the older block, with {what}"))?;
    }
    done(raw.write(trial.address(9), 0, &newer_image))?;
    trial.expect(&newer, "once it is whole")?;
    Ok(format!("{} mixtures", mixtures.len()))
}

fn torn_sectors(stage: &Stage<'_>) -> Verdict {
    let raw = stage.raw()?;
    let trial = stage.open()?;
    let (older, older_image, newer, newer_image) = two_images(&trial, raw)?;
    for sector_bytes in [512, 4096] {
        let sectors = newer_image.chunks(sector_bytes).zip(older_image.chunks(sector_bytes)).enumerate();
        let mixture: Vec<u8> = sectors.flat_map(|(nth, (new, old))| if nth % 2 == 0 { new } else { old }).copied().collect();
        done(raw.write(trial.address(9), 0, &mixture))?;
        let when = format!("with every other sector of {sector_bytes} bytes from the older block");
        trial.expect_corrupt(9, newer.name, &when)?;
        trial.expect_corrupt(9, older.name, &when)?;
    }
    Ok(String::new())
}

fn lost_write(stage: &Stage<'_>) -> Verdict {
    let raw = stage.raw()?;
    let trial = stage.open()?;
    let (older, older_image, newer, _) = two_images(&trial, raw)?;
    done(raw.write(trial.address(9), 0, &older_image))?;
    trial.expect_corrupt(9, newer.name, "for a block whose write was lost")?;
    trial.expect(&older, "for the older block, whole, where the write was lost")?;
    Ok(String::new())
}

fn misplaced_write(stage: &Stage<'_>) -> Verdict {
    let raw = stage.raw()?;
    let trial = stage.open()?;
    let blocks = Neighbours::write(&trial)?;
    let elsewhere = trial.write(12)?;
    let stray = expect_image(&trial, raw, &elsewhere)?;
    done(raw.write(trial.address(9), 0, &stray))?;
    trial.expect_corrupt(9, blocks.middle().name, "for a block that another one was written over")?;
    trial.expect(&elsewhere, "at its own place")?;
    blocks.others_are_whole(&trial, "beside a misplaced write")?;
    Ok(String::new())
}

fn zeroed(stage: &Stage<'_>) -> Verdict {
    let raw = stage.raw()?;
    let trial = stage.open()?;
    let header = HEADER_BYTES as usize;
    for (what, from, to) in
        [("header", 0, header), ("payload", header, image_bytes(&trial)), ("last sector", header + 11_500, image_bytes(&trial))]
    {
        let blocks = Neighbours::write(&trial)?;
        expect_image(&trial, raw, blocks.middle())?;
        done(raw.write(trial.address(9), from as u64, &vec![0; to - from]))?;
        trial.expect_corrupt(9, blocks.middle().name, &format!("with its {what} zeroed"))?;
        blocks.others_are_whole(&trial, "beside zeroed space")?;
    }
    Ok(String::new())
}

fn scrub(stage: &Stage<'_>) -> Verdict {
    let trial = stage.open()?;
    let blocks = (0..trial.room().min(60)).map(|nth| trial.write(nth)).collect::<Result<Vec<_>, _>>()?;
    let is_damaged = |nth: u32| nth % 7 == 3;
    for block in blocks.iter().filter(|block| is_damaged(block.nth)) {
        let offset = HEADER_BYTES + u64::from(block.nth) * 31;
        match stage.medium.flip_bit(trial.address(block.nth), offset) {
            Some(flipped) => done(flipped)?,
            None => return Err(Trouble::CannotTry("the bytes of this target cannot be reached past the tier".into())),
        }
    }
    let mut wrong = Vec::new();
    for block in &blocks {
        let whole = trial.right_or_corrupt(block, "in a pass over everything")?;
        if whole == is_damaged(block.nth) {
            wrong.push(block.nth);
        }
    }
    promise(wrong.is_empty(), || format!("these blocks were judged wrongly: {wrong:?}"))?;
    Ok(format!("{} of {} damaged", blocks.iter().filter(|block| is_damaged(block.nth)).count(), blocks.len()))
}

fn cut_short(stage: &Stage<'_>) -> Verdict {
    let raw = stage.raw()?;
    let (kept, lost) = {
        let trial = stage.open()?;
        let last = trial.room() - 2;
        let (kept, lost) = (trial.write(1)?, trial.write(last)?);
        match raw.cut(trial.address(last)) {
            None => return Err(Trouble::CannotTry("a device does not get shorter".into())),
            Some(cut) => done(cut)?,
        }
        trial.expect_corrupt(lost.nth, lost.name, "behind the new end, while it is open")?;
        trial.expect(&kept, "before the new end, while it is open")?;
        (kept, lost)
    };
    let trial = stage.open()?;
    trial.expect_corrupt(lost.nth, lost.name, "behind the end, once it is opened again")?;
    trial.expect(&kept, "before the end, once it is opened again")?;
    let after = trial.write(lost.nth)?;
    trial.expect(&after, "once it is written again")?;
    Ok(String::new())
}
