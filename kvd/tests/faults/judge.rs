//! An engine that judges: what it loads is right, or it is a miss.
//!
//! It does what the connectors do: it copies a block out, checks the header and the checksums of what it copied, and takes
//! what does not match for a miss that it reports. What does match must also be the bytes that were stored; anything else
//! fails the test, as does an answer that does not come.

use super::place::HANG;
use super::support::{hello, layout, stripe};
use kvd_block::image::{self, HeaderPage};
use kvd_block::{BlockState, Checksum, FilledBlock, LayoutHandle, LoadGrant, NewBlock, RequestId, SlotIndex, StoreGrant};
use kvd_proto::frame::{self, FrameError};
use kvd_proto::local::{HelloAnswer, Keys, Reply, Request, Role, ToDaemon, ToEngine};
use kvd_shm::{Arena, Slot, fds};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The daemon is gone, or does not want this engine any more.
#[derive(Debug)]
pub struct Gone;

/// What became of blocks that were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Right, every byte.
    pub hits: usize,
    /// Not there, not in time, or found not to match.
    pub misses: usize,
    /// … of which did not match.
    pub corrupt: usize,
}

pub struct Judge {
    socket: UnixStream,
    layout: LayoutHandle,
    arena: Arc<Arena>,
    last: u64,
    notices: Vec<Reply>,
    /// The longest any answer took.
    pub longest: Duration,
}

fn gone<T>(result: io::Result<T>) -> Result<T, Gone> {
    result.map_err(|error| {
        let hangs = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        assert!(!hangs, "no answer in {HANG:?}: a hang");
        Gone
    })
}

fn framed<T>(result: Result<T, FrameError>) -> Result<T, Gone> {
    match result {
        Ok(value) => Ok(value),
        Err(FrameError::Io(error)) => gone(Err(error)),
        Err(other) => panic!("the daemon spoke nonsense: {other}"),
    }
}

impl Judge {
    pub fn connect(socket: &Path, name: &str) -> Result<Judge, Gone> {
        let stream = UnixStream::connect(socket).map_err(|_| Gone)?;
        gone(stream.set_read_timeout(Some(HANG)))?;
        gone(stream.set_write_timeout(Some(HANG)))?;
        framed(frame::write(&mut &stream, &hello(Role::Control, name)))?;
        let mut prefix = [0; frame::PREFIX_BYTES];
        let mut received = gone(fds::receive_with_fds(&stream, &mut prefix))?;
        let mut body = vec![0; framed(frame::body_bytes(&prefix))?];
        received.extend(gone(fds::receive_with_fds(&stream, &mut body))?);
        let HelloAnswer::Welcome(welcome) = framed(frame::decode(&body))? else { return Err(Gone) };
        let arena = Arc::new(Arena::from_fd(received.pop().ok_or(Gone)?).unwrap());
        Ok(Judge { socket: stream, layout: welcome.layouts[0], arena, last: 0, notices: Vec::new(), longest: Duration::ZERO })
    }

    /// Connects to a daemon that must be there.
    pub fn at(place: &super::place::Place) -> Judge {
        Judge::connect(&place.socket(), "judge").expect("a daemon that is ready")
    }

    fn ask(&mut self, body: Request) -> Result<Reply, Gone> {
        let began = Instant::now();
        self.last += 1;
        framed(frame::write(&mut &self.socket, &ToDaemon { id: RequestId(self.last), body }))?;
        loop {
            let message: ToEngine = framed(frame::read(&mut &self.socket))?;
            if message.id.0 == self.last {
                self.longest = self.longest.max(began.elapsed());
                return Ok(message.body);
            }
            self.notices.push(message.body);
        }
    }

    fn keys(blocks: &[NewBlock]) -> Keys {
        Keys::from_hashes(&blocks.iter().map(|block| block.hash).collect::<Vec<_>>())
    }

    pub fn lookup(&mut self, blocks: &[NewBlock]) -> Result<Vec<BlockState>, Gone> {
        match self.ask(Request::Lookup { layout: self.layout, keys: Judge::keys(blocks), until_miss: false })? {
            Reply::Found { states } => Ok(states.into_iter().map(|byte| BlockState::from_byte(byte).unwrap()).collect()),
            other => panic!("{other:?}"),
        }
    }

    /// Stores what is not there and can be had a slot for. Returns how many it wrote.
    pub fn store(&mut self, blocks: &[NewBlock]) -> Result<usize, Gone> {
        let (lease, grants) = match self.ask(Request::PrepareStore { layout: self.layout, blocks: blocks.to_vec() })? {
            Reply::StoreLease { lease, grants } => (lease, grants),
            Reply::Busy { .. } => return Ok(0),
            other => panic!("{other:?}"),
        };
        let mut filled = Vec::new();
        for (index, (block, grant)) in blocks.iter().zip(&grants).enumerate() {
            let StoreGrant::Write(at) = grant else { continue };
            let slot = self.slot(*at);
            let stripes = (0..layout().ranks).map(|rank| {
                let bytes = stripe(block.hash, rank);
                slot.write_at(layout().stripe_offset(rank), &bytes);
                Checksum::of(&bytes)
            });
            filled.push(FilledBlock { index: index as u32, stripes: stripes.collect() });
        }
        let stored = filled.len();
        if stored > 0 {
            assert_eq!(self.ask(Request::CompleteStore { lease, filled })?, Reply::Done);
        }
        Ok(stored)
    }

    pub fn load(&mut self, blocks: &[NewBlock]) -> Result<Loaded, Gone> {
        self.load_within(blocks, 0)
    }

    /// Loads what can be had in `deadline_ms` (zero: what the daemon thinks right).
    pub fn load_within(&mut self, blocks: &[NewBlock], deadline_ms: u32) -> Result<Loaded, Gone> {
        let request = Request::PrepareLoad { layout: self.layout, keys: Judge::keys(blocks), deadline_ms };
        let (lease, mut grants) = match self.ask(request)? {
            Reply::LoadLease { lease, grants } => (lease, grants),
            Reply::Busy { .. } => return Ok(Loaded { misses: blocks.len(), ..Loaded::default() }),
            other => panic!("{other:?}"),
        };
        let began = Instant::now();
        while grants.contains(&LoadGrant::Staging) {
            assert!(began.elapsed() < HANG, "blocks are not settled in {HANG:?}: a hang");
            let notice = match self.notices.pop() {
                Some(notice) => notice,
                None => framed(frame::read::<ToEngine>(&mut &self.socket))?.body,
            };
            let Reply::Staged { lease: of, ready, missing } = notice else { panic!("{notice:?}") };
            if of == lease {
                ready.into_iter().for_each(|(index, slot)| grants[index as usize] = LoadGrant::Ready(slot));
                missing.into_iter().for_each(|index| grants[index as usize] = LoadGrant::Miss);
            }
        }
        self.longest = self.longest.max(began.elapsed());
        let mut loaded = Loaded::default();
        let mut corrupt = Vec::new();
        for (index, (block, grant)) in blocks.iter().zip(&grants).enumerate() {
            match grant {
                LoadGrant::Ready(at) if self.is_right(block, *at) => loaded.hits += 1,
                LoadGrant::Ready(_) => corrupt.push(index as u32),
                _ => loaded.misses += 1,
            }
        }
        loaded.corrupt = corrupt.len();
        loaded.misses += corrupt.len();
        if loaded.hits + loaded.corrupt > 0 {
            assert_eq!(self.ask(Request::CompleteLoad { lease, corrupt })?, Reply::Done);
        }
        Ok(loaded)
    }

    fn slot(&self, at: SlotIndex) -> Slot {
        Slot::new(self.arena.clone(), at, layout().slot_bytes())
    }

    /// False when header and checksums tell that this is not the block. Panics when they do not and it is not.
    fn is_right(&self, block: &NewBlock, at: SlotIndex) -> bool {
        let slot = self.slot(at);
        let page: HeaderPage = slot.read_header();
        if image::verify_page(&page).is_err() || image::sequence_hash(&page) != block.hash {
            return false;
        }
        (0..layout().ranks).all(|rank| {
            let bytes = slot.read_at(layout().stripe_offset(rank), stripe(block.hash, rank).len());
            let matches = Checksum::of(&bytes) == image::stripe_checksum(&page, rank);
            assert!(!matches || bytes == stripe(block.hash, rank), "WRONG BYTES in rank {rank} of {}", block.hash);
            matches
        })
    }
}
