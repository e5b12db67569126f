//! The transitions of a [`Stream`].

use super::{Action, Input, MOST_FAILURES, MOST_LATE, Message, Phase, Purpose, Reason, Replaying, Stream, Verdict};

/// Messages in a row that come from the past before it is taken for the present: the publisher's clock was set back.
const MOST_SUSPECTS: u32 = 3;

impl<P> Stream<P> {
    /// Takes note of `input` as of `now_ms`; [`Stream::next_action`] then says what to do, until it has nothing more.
    pub fn step(&mut self, now_ms: u64, input: Input<P>) {
        self.now_ms = now_ms;
        match input {
            Input::Connected => self.start(),
            Input::Disconnected => self.disconnected(),
            Input::Live(message) => self.live(message),
            Input::Replayed { ask, message } if self.asked() == Some(ask) => {
                self.heard_ms = now_ms;
                self.replayed.push_back(message);
            }
            Input::ReplayEnd { ask } if self.asked() == Some(ask) => self.replay_ended(),
            Input::Failed { ask } if self.asked() == Some(ask) => self.failed(),
            Input::SnapshotBegin { ask, next } if self.asked() == Some(ask) => self.snapshot_began(ask, next),
            Input::SnapshotPart { ask, part } if self.asked() == Some(ask) => {
                self.heard_ms = now_ms;
                self.actions.push_back(Action::Place(part));
            }
            Input::SnapshotEnd { ask, as_of, digest } if self.asked() == Some(ask) => {
                self.heard_ms = now_ms;
                match self.phase {
                    Phase::Snapshotting { begun: true, .. } => {
                        (self.proven_from, self.proof) = (as_of, digest);
                        self.phase = Phase::Following;
                    }
                    _ => self.failed(),
                }
            }
            Input::Tick => self.tick(),
            // An answer to a question that was given up.
            _ => {}
        }
    }

    /// What to do now; `None` until the next [`Stream::step`].
    ///
    /// # Panics
    /// When the outcome of the last action was not told.
    pub fn next_action(&mut self) -> Option<Action<P>> {
        assert!(self.applying.is_none() && !self.comparing, "the last action's outcome comes first");
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            let moved = match self.phase {
                Phase::Following => self.follow(),
                Phase::Replaying(replaying) => self.replay(replaying),
                _ => false,
            };
            if !moved {
                return None;
            }
        }
    }

    /// The publisher cannot be followed at all, as a part of its snapshot shows. It is tried again when it connects anew.
    pub fn refuse(&mut self) {
        self.forget();
        self.reason = Reason::Refused;
        self.phase = Phase::Refused;
    }

    /// How applying or comparing went.
    pub fn done(&mut self, verdict: Verdict) {
        let applied = self.applying.take();
        self.comparing = false;
        match (verdict, applied) {
            (Verdict::Sound, Some((number, print, published))) => {
                self.counts.applied += 1;
                self.trail.push(number, print);
                self.next = Some(number + 1);
                (self.last_published, self.suspects) = (published, 0);
                self.floor_published = self.floor_published.min(published);
            }
            (Verdict::Sound, None) => {}
            (Verdict::Diverged, _) => {
                self.counts.divergences += 1;
                self.repair(Reason::Diverged);
            }
            (Verdict::Malformed, applied) => {
                self.counts.malformed += 1;
                // A replay would bring the same bytes.
                if self.means.snapshot { self.repair(Reason::Malformed) } else { self.begin_after(applied.map(|(number, ..)| number)) }
            }
            (Verdict::Refused, _) => self.refuse(),
        }
    }

    fn asked(&self) -> Option<u32> {
        match self.phase {
            Phase::Replaying(Replaying { ask, .. }) | Phase::Snapshotting { ask, .. } => Some(ask),
            _ => None,
        }
    }

    fn disconnected(&mut self) {
        self.phase = Phase::Down;
        self.reason = Reason::Disconnected;
        self.held.clear();
        self.replayed.clear();
    }

    /// Begins to follow, or proves that what was followed goes on.
    fn start(&mut self) {
        self.replayed.clear();
        if self.replays() && !self.trail.is_empty() {
            self.ask_replay(Purpose::Fill);
        } else {
            self.renew();
        }
    }

    fn replays(&self) -> bool {
        self.means.replay && self.now_ms >= self.mute_until_ms
    }

    /// Replaces the view.
    fn renew(&mut self) {
        self.replayed.clear();
        if self.means.snapshot {
            self.ask_snapshot();
        } else if self.replays() {
            self.forget();
            self.next = Some(0);
            self.ask_replay(Purpose::Begin);
        } else {
            self.begin_anywhere();
        }
    }

    /// Replaces the view because of `reason`: at once, or after a pause when the last attempts failed.
    fn repair(&mut self, reason: Reason) {
        self.reason = reason;
        self.failures += 1;
        if self.failures == 1 {
            self.renew();
        } else {
            self.rest();
        }
    }

    fn rest(&mut self) {
        let pause = self.limits.rest_ms << (self.failures.saturating_sub(2)).min(16);
        self.phase = Phase::Resting { until_ms: self.now_ms + pause.min(self.limits.most_rest_ms) };
        // Whatever is tried next begins from nothing.
        self.trail.clear();
        self.replayed.clear();
    }

    fn forget(&mut self) {
        self.actions.push_back(Action::Clear);
        self.trail.clear();
        self.replayed.clear();
        (self.complete, self.proven_from, self.proof, self.floor) = (false, 0, None, 0);
        (self.last_published, self.floor_published, self.suspects) = (0.0, f64::INFINITY, 0);
    }

    /// Follows from the first message that is here or will come, without what was before.
    fn begin_anywhere(&mut self) {
        self.forget();
        self.next = None;
        self.phase = Phase::Following;
    }

    fn begin_after(&mut self, number: Option<u64>) {
        self.begin_anywhere();
        self.next = number.map(|number| number + 1);
    }

    fn ask_replay(&mut self, purpose: Purpose) {
        let next = self.next.unwrap_or(0);
        let overlap = next > 0 && self.trail.get(next - 1).is_some();
        self.asks += 1;
        self.counts.replays += 1;
        self.heard_ms = self.now_ms;
        self.phase = Phase::Replaying(Replaying { ask: self.asks, purpose, overlap, begun: false });
        // What came before the question is in the answer, or of a life that is over.
        self.held.clear();
        self.actions.push_back(Action::AskReplay { ask: self.asks, from: if overlap { next - 1 } else { next } });
    }

    fn ask_snapshot(&mut self) {
        self.asks += 1;
        self.counts.snapshots += 1;
        self.heard_ms = self.now_ms;
        self.phase = Phase::Snapshotting { ask: self.asks, begun: false };
        self.actions.push_back(Action::AskSnapshot { ask: self.asks });
    }

    fn snapshot_began(&mut self, ask: u32, next: u64) {
        self.heard_ms = self.now_ms;
        self.forget();
        (self.next, self.floor) = (Some(next), next);
        self.complete = true;
        self.proven_from = u64::MAX;
        self.phase = Phase::Snapshotting { ask, begun: true };
    }

    fn replay_ended(&mut self) {
        self.heard_ms = self.now_ms;
        let Phase::Replaying(replaying) = self.phase else { return };
        if replaying.overlap && !replaying.begun {
            // The last message applied is not among its last: this is another life, or a long time later.
            self.counts.restarts += 1;
            return self.repair(Reason::Restarted);
        }
        if !replaying.begun && replaying.purpose == Purpose::Begin {
            // It has said nothing in its life.
            self.complete = true;
        }
        self.phase = Phase::Following;
    }

    /// A replay or snapshot broke off.
    fn failed(&mut self) {
        self.counts.failures += 1;
        self.failures += 1;
        self.reason = Reason::Unanswered;
        let replaying = matches!(self.phase, Phase::Replaying(_));
        if replaying && self.failures >= MOST_FAILURES && !self.means.snapshot {
            // A publisher that promised replays and gives none is followed as one without.
            self.failures = 0;
            self.mute_until_ms = self.now_ms + self.limits.mute_ms;
            // Nothing proves that these are all of one life.
            self.held.clear();
            return self.begin_anywhere();
        }
        let until_ms = self.now_ms + (self.limits.rest_ms << (self.failures - 1).min(16)).min(self.limits.most_rest_ms);
        if replaying && self.failures >= MOST_FAILURES {
            self.trail.clear();
        }
        self.replayed.clear();
        self.phase = Phase::Resting { until_ms };
    }

    fn tick(&mut self) {
        if self.deadline().is_none_or(|deadline| self.now_ms < deadline) {
            return;
        }
        match self.phase {
            Phase::Following if self.next.is_none() => self.heard_ms = self.now_ms,
            Phase::Following if self.replays() => self.ask_replay(Purpose::Audit),
            Phase::Following => self.repair(Reason::Silent),
            Phase::Replaying(_) | Phase::Snapshotting { .. } => self.failed(),
            Phase::Resting { .. } => self.start(),
            Phase::Down | Phase::Refused => {}
        }
    }

    fn live(&mut self, message: Message) {
        match self.phase {
            Phase::Refused => return,
            Phase::Down => self.start(),
            Phase::Following => self.heard_ms = self.now_ms,
            _ => {}
        }
        if !self.held.insert(message, self.limits.held_messages, self.limits.held_bytes) {
            self.counts.overflows += 1;
        }
    }

    /// Looks at the lowest message that waits. False when there is nothing to do.
    fn follow(&mut self) -> bool {
        if self.next == Some(self.proven_from)
            && let Some(proof) = self.proof.take()
        {
            self.comparing = true;
            self.actions.push_back(Action::Compare(proof));
            return true;
        }
        let Some(first) = self.held.first() else {
            let missing = self.next.is_some_and(|next| next < self.proven_from);
            if missing {
                self.gap();
            } else {
                self.failures = 0;
            }
            return missing;
        };
        let next = *self.next.get_or_insert_with(|| {
            (self.complete, self.floor) = (first == 0, first);
            first
        });
        if first > next {
            self.gap();
            return true;
        }
        let message = self.held.take_first().expect("it was looked at");
        let seen = self.trail.get(first) == Some(message.print());
        let stale = message.published() < self.last_published;
        match () {
            () if first < next && seen => self.counts.duplicates += 1,
            () if stale => self.suspect(message, next),
            () if self.is_late(&message) => self.counts.stale += 1,
            () if first < next => self.restarted(message),
            () => self.apply(message, next),
        }
        true
    }

    /// True for a message from before the view began. The first of a life is none: it would be older than the last applied.
    fn is_late(&self, message: &Message) -> bool {
        let before = (1..self.floor).contains(&message.number) && message.number + MOST_LATE >= self.floor;
        before && message.published() <= self.floor_published
    }

    fn apply(&mut self, message: Message, next: u64) {
        self.applying = Some((message.number, message.print(), message.published()));
        self.actions.push_back(Action::Apply { message, compare: next + 1 >= self.proven_from });
    }

    /// A message from before the last: of a life that is over, or the publisher's clock was set back.
    fn suspect(&mut self, message: Message, next: u64) {
        self.counts.stale += 1;
        self.suspects += 1;
        if self.replays() {
            // The replay brings it again if it belongs here.
            self.ask_replay(Purpose::Audit);
        } else if self.suspects >= MOST_SUSPECTS {
            self.restarted(message);
        } else if message.number == next {
            self.gap();
        }
    }

    fn restarted(&mut self, message: Message) {
        self.counts.restarts += 1;
        if message.number == 0 {
            // All of its life is here.
            self.reason = Reason::Restarted;
            self.forget();
            self.held.clear();
            (self.next, self.complete) = (Some(0), true);
            self.held.insert(message, self.limits.held_messages, self.limits.held_bytes);
        } else {
            self.repair(Reason::Restarted);
            self.held.clear();
            self.held.insert(message, self.limits.held_messages, self.limits.held_bytes);
        }
    }

    fn gap(&mut self) {
        self.counts.gaps += 1;
        self.reason = Reason::Gap;
        if self.replays() { self.ask_replay(Purpose::Fill) } else { self.repair(Reason::Gap) }
    }

    /// Looks at the next message of a replay. False when there is none.
    fn replay(&mut self, replaying: Replaying) -> bool {
        let Some(message) = self.replayed.pop_front() else { return false };
        let first = !replaying.begun;
        self.phase = Phase::Replaying(Replaying { begun: true, ..replaying });
        let next = self.next.unwrap_or(0);
        if first && replaying.overlap {
            let same = message.number + 1 == next && self.trail.get(message.number) == Some(message.print());
            if !same {
                let reason = if message.number < next { Reason::Restarted } else { Reason::Gap };
                self.repair(reason);
            }
            return true;
        }
        if first && replaying.purpose == Purpose::Begin {
            let begin = message.number;
            (self.next, self.floor, self.complete) = (Some(begin), begin, begin == 0);
            self.apply(message, begin);
        } else if message.number == next {
            self.apply(message, next);
        } else if message.number > next {
            self.repair(Reason::Gap);
        }
        true
    }
}
