//! Runs by number, in chunks that never move: growing costs no copy, and numbers are used again.

use super::run::Run;
use super::table::MOST_RUNS;

const CHUNK: usize = 1 << 10;

/// See the module. Number 0 is never given out.
#[derive(Debug)]
pub struct Slab {
    chunks: Vec<Box<[Option<Run>]>>,
    free: Vec<u32>,
    next: u32,
}

impl Default for Slab {
    fn default() -> Slab {
        Slab { chunks: Vec::new(), free: Vec::new(), next: 1 }
    }
}

impl Slab {
    /// Keeps `run`; says under which number.
    ///
    /// # Panics
    /// When there are a billion runs: the memory limit is reached long before.
    pub fn insert(&mut self, run: Run) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            assert!(self.next < MOST_RUNS, "a billion runs");
            self.next += 1;
            self.next - 1
        });
        let (chunk, at) = split(number);
        if chunk == self.chunks.len() {
            self.chunks.push((0..CHUNK).map(|_| None).collect());
        }
        self.chunks[chunk][at] = Some(run);
        number
    }

    /// Takes a run away.
    pub fn remove(&mut self, number: u32) -> Option<Run> {
        let run = self.slot_mut(number).and_then(Option::take);
        if run.is_some() {
            self.free.push(number);
        }
        run
    }

    /// The run, which must be there.
    pub fn get(&self, number: u32) -> &Run {
        let (chunk, at) = split(number);
        self.chunks[chunk][at].as_ref().expect("a number from the tables is of a live run")
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, number: u32) -> &mut Run {
        self.slot_mut(number).and_then(Option::as_mut).expect("a number from the tables is of a live run")
    }

    /// The run, if there is one of that number.
    pub fn find(&self, number: u32) -> Option<&Run> {
        let (chunk, at) = split(number);
        self.chunks.get(chunk)?[at].as_ref()
    }

    fn slot_mut(&mut self, number: u32) -> Option<&mut Option<Run>> {
        let (chunk, at) = split(number);
        self.chunks.get_mut(chunk).map(|chunk| &mut chunk[at])
    }

    /// One more than the highest number ever given out.
    pub fn end(&self) -> u32 {
        self.next
    }

    /// Every run with its number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Run)> {
        (0u32..).zip(self.chunks.iter().flat_map(|chunk| chunk.iter())).filter_map(|(number, run)| Some((number, run.as_ref()?)))
    }

    /// Runs there are.
    pub fn len(&self) -> usize {
        self.next as usize - 1 - self.free.len()
    }

    /// Bytes of all chunks.
    pub fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Option<Run>>() + self.free.capacity() * 4
    }
}

fn split(number: u32) -> (usize, usize) {
    (number as usize / CHUNK, number as usize % CHUNK)
}
