//! A run: blocks of which each is the parent of the next, side by side in memory.
//!
//! Runs are never split. A block with another successor than the next of its run has that one at the head of a run of its own,
//! and the run notes how many hang on which offset.

use super::held::HeldList;
use super::table::{Place, RUN_BLOCKS};
use super::{BlockName, NameDomain};
use kvd_block::LocalHash;
use std::sync::atomic::AtomicU32;

/// The name of a block that nobody who holds it has named. A real name that looks like it is kept elsewhere.
pub const UNNAMED: u64 = 0x6e6f_2d6e_616d_6521;

/// Names that a second, third … domain has for a run's blocks.
#[derive(Debug)]
pub struct OtherNames {
    /// Whose they are.
    pub domain: NameDomain,
    /// One for each block of the run, [`UNNAMED`] where there is none.
    pub names: Vec<u64>,
}

/// Runs that hang on one block.
#[derive(Debug, Clone, Copy)]
struct Branch {
    offset: u16,
    runs: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Run {
    cells: Cells,
    /// Who has what of it.
    pub held: HeldList,
    /// The block before the first; `None` at the start of a sequence.
    pub parent: Option<Place>,
    /// Whose names the cells have.
    pub domain: NameDomain,
    /// When it was last stored to or looked up, in ticks of the index.
    pub touched: AtomicU32,
    #[expect(clippy::box_collection, reason = "most runs have none: eight bytes instead of 24")]
    others: Option<Box<Vec<OtherNames>>>,
    #[expect(clippy::box_collection, reason = "most runs have none: eight bytes instead of 24")]
    branches: Option<Box<Vec<Branch>>>,
}

impl Run {
    /// A run without blocks.
    pub fn new(parent: Option<Place>, domain: NameDomain, blocks: usize) -> Run {
        let cells = Cells::with_capacity(blocks.min(RUN_BLOCKS));
        Run { cells, held: HeldList::default(), parent, domain, touched: AtomicU32::new(0), others: None, branches: None }
    }

    /// Blocks in it.
    pub fn len(&self) -> usize {
        usize::from(self.cells.len)
    }

    /// Their local hashes.
    pub fn locals(&self) -> &[u64] {
        self.cells.locals()
    }

    /// How many holders have each block, in any medium.
    pub fn counts(&self) -> &[u16] {
        self.cells.counts()
    }

    /// Who has what, and how many have each block, to be changed together.
    pub fn held_and_counts(&mut self) -> (&mut HeldList, &mut [u16]) {
        (&mut self.held, self.cells.counts_mut())
    }

    /// What `domain` calls each block; `None` when it names none.
    pub fn names(&self, domain: NameDomain) -> Option<&[u64]> {
        if domain == self.domain {
            return Some(self.cells.names());
        }
        let other = self.others.as_ref()?.iter().find(|other| other.domain == domain)?;
        Some(&other.names[..self.len()])
    }

    /// True when `domain` calls the block at `offset` so.
    pub fn is_named(&self, domain: NameDomain, offset: u16, name: BlockName) -> bool {
        self.names(domain).and_then(|names| names.get(usize::from(offset))).is_some_and(|found| *found == name.0)
    }

    /// The names of `domain`, to be changed.
    pub fn names_mut(&mut self, domain: NameDomain) -> &mut [u64] {
        if domain == self.domain {
            return self.cells.names_mut();
        }
        let length = self.len();
        let others = self.others.get_or_insert_default();
        let at = others.iter().position(|other| other.domain == domain).unwrap_or_else(|| {
            others.push(OtherNames { domain, names: Vec::new() });
            others.len() - 1
        });
        let names = &mut others[at].names;
        names.resize(length, UNNAMED);
        names
    }

    /// Forgets every name of a block, telling each.
    pub fn unname(&mut self, offset: u16, mut tell: impl FnMut(NameDomain, BlockName)) {
        let at = usize::from(offset);
        let mut forget = |domain, name: &mut u64| {
            let had = std::mem::replace(name, UNNAMED);
            if had != UNNAMED {
                tell(domain, BlockName(had));
            }
        };
        forget(self.domain, &mut self.cells.names_mut()[at]);
        for other in self.others.iter_mut().flat_map(|others| others.iter_mut()) {
            if let Some(name) = other.names.get_mut(at) {
                forget(other.domain, name);
            }
        }
    }

    /// Adds unnamed blocks that nobody holds yet, as many as there is room for; says how many.
    pub fn extend(&mut self, locals: &[LocalHash]) -> usize {
        let room = RUN_BLOCKS - self.len();
        let fits = &locals[..locals.len().min(room)];
        self.cells.extend(fits);
        let length = self.len();
        self.others.iter_mut().flat_map(|others| others.iter_mut()).for_each(|other| other.names.resize(length, UNNAMED));
        fits.len()
    }

    /// Drops blocks at the end that nobody holds and no run hangs on.
    pub fn trim(&mut self) {
        let hung = self.branches.as_ref().and_then(|branches| branches.last()).map_or(0, |branch| usize::from(branch.offset) + 1);
        let kept = self.counts().iter().rposition(|count| *count > 0).map_or(0, |last| last + 1).max(hung);
        self.cells.truncate(kept);
        for other in self.others.iter_mut().flat_map(|others| others.iter_mut()) {
            other.names.truncate(kept);
        }
    }

    /// A run hangs on `offset` from now on.
    pub fn hang(&mut self, offset: u16) {
        let branches = self.branches.get_or_insert_default();
        match branches.binary_search_by_key(&offset, |branch| branch.offset) {
            Ok(at) => branches[at].runs += 1,
            Err(at) => branches.insert(at, Branch { offset, runs: 1 }),
        }
    }

    /// A run that hung on `offset` is gone.
    pub fn unhang(&mut self, offset: u16) {
        let Some(branches) = &mut self.branches else { return };
        if let Ok(at) = branches.binary_search_by_key(&offset, |branch| branch.offset) {
            branches[at].runs -= 1;
            if branches[at].runs == 0 {
                branches.remove(at);
            }
        }
        if branches.is_empty() {
            self.branches = None;
        }
    }

    /// Runs that hang on `offset`.
    #[cfg(test)]
    pub fn hung(&self, offset: u16) -> u32 {
        let branches = self.branches.as_ref().map_or(&[][..], |branches| branches);
        branches.iter().find(|branch| branch.offset == offset).map_or(0, |branch| branch.runs)
    }

    /// True when no run hangs on it.
    pub fn is_leaf(&self) -> bool {
        self.branches.is_none()
    }

    /// Bytes beyond the run itself.
    pub fn heap_bytes(&self) -> usize {
        let others =
            self.others.as_ref().map_or(0, |others| 24 + others.iter().map(|other| 32 + other.names.capacity() * 8).sum::<usize>());
        let branches = self.branches.as_ref().map_or(0, |branches| 24 + branches.capacity() * size_of::<Branch>());
        self.cells.bytes() + self.held.heap_bytes() + others + branches
    }

    /// Every domain that names blocks of it, with the names.
    pub fn all_names(&self) -> impl Iterator<Item = (NameDomain, &[u64])> {
        let others = self.others.iter().flat_map(|others| others.iter()).map(|other| (other.domain, other.names.as_slice()));
        std::iter::once((self.domain, self.cells.names())).chain(others)
    }
}

/// Local hash, name and holders' count of each block, in one piece of memory: 18 bytes a block.
///
/// ```text
/// words: [ locals: capacity × u64 | names: capacity × u64 | counts: capacity × u16, rounded up ]
/// ```
#[derive(Debug, Default)]
struct Cells {
    words: Box<[u64]>,
    capacity: u16,
    len: u16,
}

impl Cells {
    fn with_capacity(blocks: usize) -> Cells {
        Cells { words: vec![0; blocks * 2 + blocks.div_ceil(4)].into(), capacity: blocks as u16, len: 0 }
    }

    fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    fn locals(&self) -> &[u64] {
        &self.words[..usize::from(self.len)]
    }

    fn names(&self) -> &[u64] {
        &self.words[usize::from(self.capacity)..][..usize::from(self.len)]
    }

    fn names_mut(&mut self) -> &mut [u64] {
        &mut self.words[usize::from(self.capacity)..][..usize::from(self.len)]
    }

    fn counts(&self) -> &[u16] {
        &bytemuck::cast_slice(&self.words[usize::from(self.capacity) * 2..])[..usize::from(self.len)]
    }

    fn counts_mut(&mut self) -> &mut [u16] {
        &mut bytemuck::cast_slice_mut(&mut self.words[usize::from(self.capacity) * 2..])[..usize::from(self.len)]
    }

    fn extend(&mut self, locals: &[LocalHash]) {
        let from = usize::from(self.len);
        let to = from + locals.len();
        if to > usize::from(self.capacity) {
            // Half as much again as there is: runs grow by a few blocks a turn, and every growth copies.
            self.resize((to + from / 2).min(RUN_BLOCKS));
        }
        self.len = to as u16;
        self.words[from..to].iter_mut().zip(locals).for_each(|(cell, local)| *cell = local.0);
        self.names_mut()[from..].fill(UNNAMED);
        self.counts_mut()[from..].fill(0);
    }

    fn truncate(&mut self, blocks: usize) {
        self.len = self.len.min(blocks as u16);
        if blocks * 2 < usize::from(self.capacity) {
            self.resize(blocks);
        }
    }

    fn resize(&mut self, blocks: usize) {
        let mut larger = Cells::with_capacity(blocks);
        larger.len = self.len;
        larger.words[..self.locals().len()].copy_from_slice(self.locals());
        larger.names_mut().copy_from_slice(self.names());
        larger.counts_mut().copy_from_slice(self.counts());
        *self = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locals(numbers: std::ops::Range<u64>) -> Vec<LocalHash> {
        numbers.map(LocalHash).collect()
    }

    #[test]
    fn blocks_keep_their_cells_when_a_run_grows_and_shrinks() {
        let mut run = Run::new(None, NameDomain(0), 2);
        assert_eq!(run.extend(&locals(1..3)), 2);
        run.names_mut(NameDomain(0)).copy_from_slice(&[10, 20]);
        run.names_mut(NameDomain(7))[1] = 70;
        run.extend(&locals(3..9));
        run.held_and_counts().1[1] = 1;
        assert_eq!((run.locals(), run.len()), (&[1, 2, 3, 4, 5, 6, 7, 8][..], 8));
        assert!(run.is_named(NameDomain(0), 1, BlockName(20)) && run.is_named(NameDomain(7), 1, BlockName(70)));
        run.trim();
        assert_eq!((run.locals(), run.counts()), (&[1, 2][..], &[0, 1][..]));
        let mut told = Vec::new();
        run.unname(1, |domain, name| told.push((domain.0, name.0)));
        assert_eq!(told, [(0, 20), (7, 70)]);
    }

    #[test]
    fn a_block_that_a_run_hangs_on_stays() {
        let mut run = Run::new(None, NameDomain(0), 4);
        run.extend(&locals(1..5));
        run.hang(2);
        run.hang(2);
        run.trim();
        assert_eq!(run.len(), 3);
        run.unhang(2);
        run.trim();
        assert_eq!(run.len(), 3);
        run.unhang(2);
        run.trim();
        assert_eq!((run.len(), run.is_leaf()), (0, true));
    }

    #[test]
    fn a_run_has_room_for_so_many_blocks() {
        let mut run = Run::new(None, NameDomain(0), 4);
        assert_eq!(run.extend(&locals(0..RUN_BLOCKS as u64 + 5)), RUN_BLOCKS);
        assert_eq!(run.extend(&locals(0..1)), 0);
    }

    #[test]
    fn a_run_is_small() {
        assert!(size_of::<Run>() <= 96, "{}", size_of::<Run>());
    }
}
