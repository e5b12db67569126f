//! The whole index as bytes, and back: how a router that restarts, or another one, starts from what is known.
//!
//! Blocks are written once however many hold them. Numbers are little-endian.
//!
//! ```text
//! "kvdindx1"
//! u32 holders, each: u8 present [u16 domain, u64 salt, u64 digest sum, u64 digest count, u64 evicted,
//!                                u32 aliases × (u64 name, u64 place, u8 media), u32 orphans × (u64 name, u64 parent, u64 local, u8 media)]
//! u32 runs, each:    u64 parent place or 0, u16 domain, u16 blocks, blocks × u64 local,
//!                    u8 domains × (u16 domain, blocks × u64 name), u32 stretches × (u16 holder, u16 from, u16 to, u8 media)
//! u64 xxh3 of all before
//! ```
//!
//! Runs are numbered from 1 in the order they come.

use super::alias::Alias;
use super::held::{Held, HeldList};
use super::orphan::Orphan;
use super::run::{Run, UNNAMED};
use super::table::{Place, RUN_BLOCKS};
use super::tree::{Holder, Index, IndexLimits, head_hash};
use super::{BlockName, HolderId, Media, NameDomain};
use kvd_block::LocalHash;
use kvd_block::digest::{Digest, mix};
use std::io::{self, Read, Write};
use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8; 8] = b"kvdindx1";

/// Why bytes are no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// They could not be read to their end.
    #[error("the index snapshot could not be read: {0}")]
    Io(#[from] io::Error),
    /// They are something else, of another version, or damaged.
    #[error("this is no sound index snapshot: {0}; start without it, the sources will be asked instead")]
    Unsound(&'static str),
}

impl Index {
    /// Writes everything that is known. Needs four bytes a run besides.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut out = Writer { inner: out, hash: Xxh3::new(), numbers: self.dense_numbers() };
        out.write_all(MAGIC)?;
        out.u32(self.holders.len() as u32)?;
        for (id, holder) in self.holders.iter().enumerate() {
            out.write_all(&[u8::from(holder.is_some())])?;
            if let Some(holder) = holder {
                self.write_holder(&mut out, HolderId(id as u16), holder)?;
            }
        }
        out.u32(self.runs.len() as u32)?;
        for (_, run) in self.runs.iter() {
            write_run(&mut out, run)?;
        }
        let sum = out.hash.digest();
        out.u64(sum)
    }

    /// Numbers without gaps, by the numbers in use.
    fn dense_numbers(&self) -> Vec<u32> {
        let mut numbers = vec![0; self.runs.end() as usize];
        (1..).zip(self.runs.iter()).for_each(|(dense, (number, _))| numbers[number as usize] = dense);
        numbers
    }

    fn write_holder(&self, out: &mut Writer<'_, impl Write>, id: HolderId, holder: &Holder) -> io::Result<()> {
        out.u16(holder.domain.0)?;
        for number in [holder.salt, holder.digest.sum, holder.digest.count, holder.evicted] {
            out.u64(number)?;
        }
        out.u32(holder.aliases.len() as u32)?;
        for (name, alias) in holder.aliases.iter() {
            out.u64(name.0)?;
            out.place(alias.place)?;
            out.write_all(&[alias.media.bits()])?;
        }
        let orphans: Vec<(BlockName, Orphan)> = self.orphans_of(id).collect();
        out.u32(orphans.len() as u32)?;
        for (name, orphan) in orphans {
            for number in [name.0, orphan.parent.0, orphan.local.0] {
                out.u64(number)?;
            }
            out.write_all(&[orphan.media.bits()])?;
        }
        Ok(())
    }

    /// Reads what [`Index::write_to`] wrote. Holders keep their ids.
    pub fn read_from(input: &mut impl Read, limits: IndexLimits) -> Result<Index, SnapshotError> {
        let mut input = Reader { inner: input, hash: Xxh3::new() };
        let mut magic = [0; 8];
        input.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(SnapshotError::Unsound("it does not begin as one of this version"));
        }
        let mut index = Index::new(limits);
        for id in 0..input.u32()? {
            if id >= u32::from(u16::MAX) {
                return Err(SnapshotError::Unsound("too many holders"));
            }
            index.holders.push(None);
            if input.u8()? == 1 {
                index.read_holder(&mut input, HolderId(id as u16))?;
            }
        }
        for _ in 0..input.u32()? {
            index.read_run(&mut input)?;
        }
        let sum = input.hash.digest();
        if input.u64()? != sum {
            return Err(SnapshotError::Unsound("its checksum differs"));
        }
        index.hang_all()?;
        Ok(index)
    }

    fn read_holder(&mut self, input: &mut Reader<'_, impl Read>, id: HolderId) -> Result<(), SnapshotError> {
        let domain = NameDomain(input.u16()?);
        let salt = input.u64()?;
        let digest = Digest { sum: input.u64()?, count: input.u64()? };
        let evicted = input.u64()?;
        self.put_holder(id, domain, salt);
        for _ in 0..input.u32()? {
            let (name, place) = (BlockName(input.u64()?), Place::of_packed(input.u64()?));
            let media = Media::of_bits(input.u8()?).ok_or(SnapshotError::Unsound("an unknown medium"))?;
            self.holder_mut(id).aliases.set(name, Alias { place, media });
        }
        for _ in 0..input.u32()? {
            let (name, parent, local) = (BlockName(input.u64()?), BlockName(input.u64()?), LocalHash(input.u64()?));
            let media = Media::of_bits(input.u8()?).ok_or(SnapshotError::Unsound("an unknown medium"))?;
            self.put_orphan(id, name, Orphan { parent, local, media });
        }
        let holder = self.holder_mut(id);
        (holder.digest, holder.evicted) = (digest, evicted);
        Ok(())
    }

    fn put_holder(&mut self, id: HolderId, domain: NameDomain, salt: u64) {
        while self.names.len() <= usize::from(domain.0) {
            self.names.push(Default::default());
        }
        self.holders[usize::from(id.0)] = Some(Holder::new(domain, salt));
    }

    fn read_run(&mut self, input: &mut Reader<'_, impl Read>) -> Result<(), SnapshotError> {
        let parent = Some(input.u64()?).filter(|place| *place > 0).map(Place::of_packed);
        let (domain, blocks) = (NameDomain(input.u16()?), usize::from(input.u16()?));
        let number = self.runs.end();
        if blocks == 0 || blocks > RUN_BLOCKS {
            return Err(SnapshotError::Unsound("a run is out of bounds"));
        }
        let locals = input.many(blocks)?.into_iter().map(LocalHash).collect::<Vec<_>>();
        let mut run = Run::new(parent, domain, blocks);
        run.extend(&locals);
        for _ in 0..input.u8()? {
            let domain = NameDomain(input.u16()?);
            let names = input.many(blocks)?;
            self.read_names(&mut run, number, domain, &names)?;
        }
        run.held = self.read_held(input, blocks)?;
        let (held, counts) = run.held_and_counts();
        for held in held.iter() {
            counts[usize::from(held.from)..usize::from(held.to)].iter_mut().for_each(|count| *count += 1);
        }
        self.stats.blocks += counts.iter().filter(|count| **count > 0).count() as u64;
        self.heads.insert(head_hash(parent, locals[0].0), Place { run: number, offset: 0 });
        self.run_bytes += run.heap_bytes();
        self.runs.insert(run);
        Ok(())
    }

    fn read_names(&mut self, run: &mut Run, number: u32, domain: NameDomain, names: &[u64]) -> Result<(), SnapshotError> {
        let table = self.names.get_mut(usize::from(domain.0)).ok_or(SnapshotError::Unsound("a domain no holder has"))?;
        run.names_mut(domain).copy_from_slice(names);
        for (offset, name) in (0u16..).zip(names).filter(|(_, name)| **name != UNNAMED) {
            table.insert(mix(*name), Place { run: number, offset });
        }
        Ok(())
    }

    fn read_held(&self, input: &mut Reader<'_, impl Read>, blocks: usize) -> Result<HeldList, SnapshotError> {
        let mut list = HeldList::default();
        let mut last = None;
        for _ in 0..input.u32()? {
            let (holder, from, to) = (HolderId(input.u16()?), input.u16()?, input.u16()?);
            let media = Media::of_bits(input.u8()?).ok_or(SnapshotError::Unsound("an unknown medium"))?;
            let known = self.holders.get(usize::from(holder.0)).is_some_and(Option::is_some);
            let in_order = last.is_none_or(|(before, end)| before < holder || before == holder && end <= from);
            if !known || !in_order || from >= to || usize::from(to) > blocks {
                return Err(SnapshotError::Unsound("a stretch is out of bounds"));
            }
            last = Some((holder, to));
            list.push(Held { holder, from, to, media });
        }
        Ok(list)
    }

    /// Notes which runs hang on which blocks, once all are there.
    fn hang_all(&mut self) -> Result<(), SnapshotError> {
        let parents: Vec<Place> = self.runs.iter().filter_map(|(_, run)| run.parent).collect();
        for place in parents {
            if self.runs.find(place.run).is_none_or(|run| run.len() <= usize::from(place.offset)) {
                return Err(SnapshotError::Unsound("a run hangs on nothing"));
            }
            self.with_run(place.run, |run| run.hang(place.offset));
        }
        let mut places = self.holders.iter().flatten().flat_map(|holder| holder.aliases.iter()).map(|(_, alias)| alias.place);
        let sound = places.all(|place| self.runs.find(place.run).is_some_and(|run| run.len() > usize::from(place.offset)));
        if sound { Ok(()) } else { Err(SnapshotError::Unsound("a name leads nowhere")) }
    }
}

fn write_run(out: &mut Writer<'_, impl Write>, run: &Run) -> io::Result<()> {
    match run.parent {
        Some(parent) => out.place(parent)?,
        None => out.u64(0)?,
    }
    out.u16(run.domain.0)?;
    out.u16(run.len() as u16)?;
    out.many(run.locals())?;
    out.write_all(&[run.all_names().count() as u8])?;
    for (domain, names) in run.all_names() {
        out.u16(domain.0)?;
        out.many(names)?;
    }
    out.u32(run.held.iter().count() as u32)?;
    for held in run.held.iter() {
        out.u16(held.holder.0)?;
        out.u16(held.from)?;
        out.u16(held.to)?;
        out.write_all(&[held.media.bits()])?;
    }
    Ok(())
}

/// Hashes what is written.
struct Writer<'a, W> {
    inner: &'a mut W,
    hash: Xxh3,
    /// What runs are called in the snapshot.
    numbers: Vec<u32>,
}

/// Hashes what is read.
struct Reader<'a, R> {
    inner: &'a mut R,
    hash: Xxh3,
}

impl<W: Write> Writer<'_, W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.inner.write_all(bytes)
    }

    fn u16(&mut self, number: u16) -> io::Result<()> {
        self.write_all(&number.to_le_bytes())
    }

    fn u32(&mut self, number: u32) -> io::Result<()> {
        self.write_all(&number.to_le_bytes())
    }

    fn u64(&mut self, number: u64) -> io::Result<()> {
        self.write_all(&number.to_le_bytes())
    }

    fn place(&mut self, place: Place) -> io::Result<()> {
        let run = self.numbers[place.run as usize];
        self.u64(Place { run, ..place }.packed())
    }

    fn many(&mut self, numbers: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.write_all(&bytes)
    }
}

impl<R: Read> Reader<'_, R> {
    fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(bytes)?;
        self.hash.update(bytes);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u8(&mut self) -> io::Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> io::Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn many(&mut self, count: usize) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; count * 8];
        self.read_exact(&mut bytes)?;
        Ok(bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect())
    }
}
