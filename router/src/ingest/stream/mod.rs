//! One publisher's stream: what to apply, what to ask for, and whether the view is as the publisher's. Pure: time is passed in,
//! and the sockets, the index and the decoder are its user's ([`Action`]).
//!
//! # What is believed
//! * Messages are applied in the order of their numbers, without a hole, or not at all.
//! * A number that was seen is a duplicate if the bytes are the same, and else another **life** of the publisher: engines restart
//!   at 0 without a word. Before a replay continues a view it must therefore repeat the last message applied, byte by byte.
//! * A message that was published before the last one applied comes from a life that is over, unless a replay repeats it.
//! * While the view is not proven, its state is [`State::Unknown`].
//!
//! # What repairs a view
//! A replay fills gaps. When it cannot (its buffer begins later, another life answers, a digest differs) a snapshot replaces the
//! view; a publisher without snapshots is replayed from 0. What begins later than 0 is **incomplete**: it lacks what was stored
//! before, and claims nothing that is not so, because removals of blocks it never heard of change nothing. A publisher that can do
//! neither loses all that is known of it at every gap and is followed, incomplete, from there; that one connection brings messages
//! of one life only is then its user's part, who makes a new socket for each.

mod held;
mod steps;
mod trail;

use super::saved::SavedProgress;
use bytes::Bytes;
use held::Held;
use kvd_block::digest::Digest;
use std::collections::VecDeque;
use std::fmt;
use trail::Trail;
use xxhash_rust::xxh3::xxh3_64;

/// One message, not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its number in the publisher's life.
    pub number: u64,
    /// MessagePack.
    pub payload: Bytes,
}

impl Message {
    fn print(&self) -> u64 {
        xxh3_64(&self.payload)
    }

    fn published(&self) -> f64 {
        super::wire::published(&self.payload)
    }
}

/// How a publisher helps those who lost messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Means {
    /// It answers from a buffer of its last messages.
    pub replay: bool,
    /// It tells all that is resident.
    pub snapshot: bool,
}

/// Bounds and times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most messages kept while a replay or snapshot is under way.
    pub held_messages: usize,
    /// Most bytes of them.
    pub held_bytes: usize,
    /// A replay or snapshot of which nothing came for so long has failed.
    pub answer_ms: u64,
    /// After so much silence the publisher is asked whether the last message is still its last.
    pub audit_ms: u64,
    /// Pause before the second attempt to repair a view; doubles with each.
    pub rest_ms: u64,
    /// Longest pause.
    pub most_rest_ms: u64,
    /// A publisher that answered no replay is not asked for one again for so long.
    pub mute_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            held_messages: 1 << 16,
            held_bytes: 64 << 20,
            answer_ms: 5_000,
            audit_ms: 5_000,
            rest_ms: 100,
            most_rest_ms: 10_000,
            mute_ms: 60_000,
        }
    }
}

/// Attempts at a replay before something else is tried.
const MOST_FAILURES: u32 = 3;
/// A publisher with snapshots and without replays is silent for so many times the pause before an audit before it is doubted.
const SILENCES: u64 = 3;
/// Messages from before a view began that may come late, such as those on their way while a snapshot was taken.
const MOST_LATE: u64 = 1024;

/// What happened. Answers to questions that were given up since are ignored: `ask` tells them apart.
#[derive(Debug, Clone, PartialEq)]
pub enum Input<P> {
    /// The stream is connected.
    Connected,
    /// The stream is not connected any more; what was under way is lost.
    Disconnected,
    /// A message of the stream.
    Live(Message),
    /// A message of a replay.
    Replayed {
        /// Which question is answered.
        ask: u32,
        /// The message.
        message: Message,
    },
    /// A replay is whole.
    ReplayEnd {
        /// Which question is answered.
        ask: u32,
    },
    /// A replay or snapshot broke off.
    Failed {
        /// Which question is not answered.
        ask: u32,
    },
    /// A snapshot begins. Messages from `next` on change what its parts say.
    SnapshotBegin {
        /// Which question is answered.
        ask: u32,
        /// First message that the parts may not contain.
        next: u64,
    },
    /// A part of a snapshot.
    SnapshotPart {
        /// Which question is answered.
        ask: u32,
        /// Blocks.
        part: P,
    },
    /// A snapshot is whole: with all messages before `as_of` it is what is resident.
    SnapshotEnd {
        /// Which question is answered.
        ask: u32,
        /// First message that is not in the digest.
        as_of: u64,
        /// Of all that is resident then.
        digest: Option<Digest>,
    },
    /// Time passed: see [`Stream::deadline`].
    Tick,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Action<P> {
    /// Forget all blocks of this publisher, and what its messages taught the decoder.
    Clear,
    /// Apply a message; say how it went by [`Stream::done`] before asking for the next action.
    Apply {
        /// The message.
        message: Message,
        /// Compare its digest, if it has one. False while a snapshot's parts are of different times.
        compare: bool,
    },
    /// Add blocks of a snapshot.
    Place(P),
    /// Compare the view with a snapshot's digest; say how it went by [`Stream::done`].
    Compare(Digest),
    /// Ask for the messages from `from` on.
    AskReplay {
        /// Name of the question.
        ask: u32,
        /// First number.
        from: u64,
    },
    /// Ask for a snapshot.
    AskSnapshot {
        /// Name of the question.
        ask: u32,
    },
}

/// How applying, or comparing, went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should.
    Sound,
    /// The digest is another: the view was cleared.
    Diverged,
    /// The message cannot be read: nothing of it was applied.
    Malformed,
    /// The publisher cannot be followed at all: the view was cleared.
    Refused,
}

/// Why a view is not proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nothing is known yet.
    Starting,
    /// There is no connection.
    Disconnected,
    /// Messages are missing.
    Gap,
    /// Nothing comes, not even the messages that say nothing.
    Silent,
    /// The publisher began anew.
    Restarted,
    /// The publisher has other blocks than its messages say.
    Diverged,
    /// A message cannot be read.
    Malformed,
    /// Neither replay nor snapshot is answered.
    Unanswered,
    /// Its block size or hashes do not fit what was declared.
    Refused,
    /// Nobody follows it any more: it was removed, or its task broke down.
    Stopped,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Starting => "starting",
            Reason::Disconnected => "disconnected",
            Reason::Gap => "messages are missing",
            Reason::Silent => "nothing comes",
            Reason::Restarted => "the publisher began anew",
            Reason::Diverged => "the digests differ",
            Reason::Malformed => "a message cannot be read",
            Reason::Unanswered => "neither replay nor snapshot is answered",
            Reason::Refused => "refused",
            Reason::Stopped => "nobody follows it any more",
        })
    }
}

/// Whether the view may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It is what the publisher had after some message.
    Known {
        /// False when it lacks what was stored before it was followed: it may say too little, never too much.
        complete: bool,
    },
    /// It is not proven.
    Unknown(Reason),
}

/// How often what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages applied.
    pub applied: u64,
    /// Messages that came again.
    pub duplicates: u64,
    /// Messages of lives that were over.
    pub stale: u64,
    /// Times that messages were missing.
    pub gaps: u64,
    /// Times that the publisher began anew.
    pub restarts: u64,
    /// Times that a digest differed.
    pub divergences: u64,
    /// Messages that could not be read.
    pub malformed: u64,
    /// Times that too many messages waited.
    pub overflows: u64,
    /// Replays asked for.
    pub replays: u64,
    /// Snapshots asked for.
    pub snapshots: u64,
    /// Replays and snapshots that broke off.
    pub failures: u64,
}

impl Counts {
    /// Of two streams together.
    pub fn and(self, other: Counts) -> Counts {
        Counts {
            applied: self.applied + other.applied,
            duplicates: self.duplicates + other.duplicates,
            stale: self.stale + other.stale,
            gaps: self.gaps + other.gaps,
            restarts: self.restarts + other.restarts,
            divergences: self.divergences + other.divergences,
            malformed: self.malformed + other.malformed,
            overflows: self.overflows + other.overflows,
            replays: self.replays + other.replays,
            snapshots: self.snapshots + other.snapshots,
            failures: self.failures + other.failures,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Down,
    /// Messages are applied as they come.
    Following,
    Replaying(Replaying),
    Snapshotting {
        ask: u32,
        begun: bool,
    },
    Resting {
        until_ms: u64,
    },
    Refused,
}

/// Why a replay was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Purpose {
    /// Messages are missing.
    Fill,
    /// To see whether any are; the view stays known meanwhile.
    Audit,
    /// To begin anew, with the oldest there is.
    Begin,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Replaying {
    ask: u32,
    purpose: Purpose,
    /// It must begin with the last message applied.
    overlap: bool,
    /// Its first message came.
    begun: bool,
}

/// See the module. `P` is a part of a snapshot.
#[derive(Debug)]
pub struct Stream<P> {
    means: Means,
    limits: Limits,
    phase: Phase,
    /// Number of the next message to apply; `None`: whichever comes first.
    next: Option<u64>,
    complete: bool,
    /// The view is proven once messages up to here are applied.
    proven_from: u64,
    proof: Option<Digest>,
    /// The first message after the beginning of the view; older ones may still come late.
    floor: u64,
    /// When the first message applied to this view was published; later ones are not late.
    floor_published: f64,
    /// Until then no replay is asked for, because none was answered.
    mute_until_ms: u64,
    reason: Reason,
    trail: Trail,
    held: Held,
    /// From the replay under way, waiting to be looked at.
    replayed: VecDeque<Message>,
    applying: Option<(u64, u64, f64)>,
    comparing: bool,
    /// When the last applied message was published.
    last_published: f64,
    /// Messages in a row that came from the past.
    suspects: u32,
    /// When something last came, for time-outs and audits.
    heard_ms: u64,
    now_ms: u64,
    asks: u32,
    /// Failed repairs in a row.
    failures: u32,
    actions: VecDeque<Action<P>>,
    counts: Counts,
}

impl<P> Stream<P> {
    /// Nothing came yet.
    pub fn new(means: Means, limits: Limits) -> Stream<P> {
        Stream {
            means,
            limits,
            phase: Phase::Down,
            next: None,
            complete: false,
            proven_from: 0,
            proof: None,
            floor: 0,
            floor_published: f64::INFINITY,
            mute_until_ms: 0,
            reason: Reason::Starting,
            trail: Trail::default(),
            held: Held::default(),
            replayed: VecDeque::new(),
            applying: None,
            comparing: false,
            last_published: 0.0,
            suspects: 0,
            heard_ms: 0,
            now_ms: 0,
            asks: 0,
            failures: 0,
            actions: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// Goes on where a former life was. Unknown until the publisher has repeated the last message that was applied then.
    pub(in crate::ingest) fn resume(means: Means, limits: Limits, saved: &SavedProgress) -> Stream<P> {
        let mut stream = Stream::new(means, limits);
        let Some(last) = saved.next.checked_sub(1).filter(|_| means.replay) else { return stream };
        stream.trail.push(last, saved.print);
        stream.next = Some(saved.next);
        (stream.complete, stream.last_published) = (saved.complete, saved.published);
        (stream.floor, stream.floor_published) = (saved.floor, saved.floor_published.unwrap_or(f64::INFINITY));
        stream
    }

    /// What the next life needs to go on; `None` when the view is not proven, or a replay could not prove it again.
    pub(in crate::ingest) fn saved(&self) -> Option<SavedProgress> {
        let next = self.next.filter(|_| self.means.replay && matches!(self.state(), State::Known { .. }))?;
        let print = self.trail.get(next.checked_sub(1)?)?;
        let floor_published = Some(self.floor_published).filter(|published| published.is_finite());
        let (published, complete, floor) = (self.last_published, self.complete, self.floor);
        Some(SavedProgress { next, print, published, complete, floor, floor_published })
    }

    /// Whether the view may be used, once [`Stream::next_action`] has nothing more to do.
    pub fn state(&self) -> State {
        let following = match self.phase {
            Phase::Following => true,
            Phase::Replaying(Replaying { purpose, .. }) => purpose == Purpose::Audit,
            _ => false,
        };
        if following && self.next.is_none_or(|next| next >= self.proven_from) {
            State::Known { complete: self.complete }
        } else {
            State::Unknown(self.reason)
        }
    }

    /// True while no replay is asked for, because none was answered: only the connection tells lives apart then.
    pub fn is_muted(&self) -> bool {
        self.means.replay && self.now_ms < self.mute_until_ms
    }

    /// Number of the last message applied.
    pub fn last_number(&self) -> Option<u64> {
        self.next.and_then(|next| next.checked_sub(1))
    }

    /// How often what happened.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// When [`Input::Tick`] is due.
    pub fn deadline(&self) -> Option<u64> {
        match self.phase {
            Phase::Down | Phase::Refused => None,
            Phase::Following if self.means.replay => Some((self.heard_ms + self.limits.audit_ms).max(self.mute_until_ms)),
            // kvd is never silent for long: it has a message without events for that.
            Phase::Following if self.means.snapshot => Some(self.heard_ms + SILENCES * self.limits.audit_ms),
            Phase::Following => None,
            Phase::Replaying(_) | Phase::Snapshotting { .. } => Some(self.heard_ms + self.limits.answer_ms),
            Phase::Resting { until_ms } => Some(until_ms),
        }
    }
}
