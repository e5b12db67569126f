//! Follows a publisher as the loop around the machine does, and checks after each step that nothing false is known.

use crate::publisher::{self, CHAINS, Kind, LENGTH, Moment, Publisher, Resident, chain_locals};
use kvd_proto::admin::SnapshotPart;
use kvd_router::index::{Medium, Walk};
use kvd_router::ingest::apply::{Applied, Applier, Publisher as Source};
use kvd_router::ingest::namespaces::{NamespaceKey, Namespaces};
use kvd_router::ingest::stream::{Action, Input, Limits, State, Stream, Verdict};
use std::sync::Arc;

pub const LIMITS: Limits =
    Limits { held_messages: 8, held_bytes: 1 << 20, answer_ms: 300, audit_ms: 400, rest_ms: 20, most_rest_ms: 200, mute_ms: 1000 };

/// A question to the publisher.
#[derive(Debug, Clone, Copy)]
pub enum Question {
    Replay { ask: u32, from: u64 },
    Snapshot { ask: u32 },
}

pub struct Follower {
    kind: Kind,
    pub stream: Stream<SnapshotPart>,
    pub applier: Applier,
    namespaces: Arc<Namespaces>,
    /// Whose state the view is, once it is known. `None`: nothing was applied.
    view: Option<Moment>,
    /// Of the snapshot under way: life and first event that is not in it.
    snapshot: Option<Moment>,
}

impl Follower {
    pub fn new(kind: Kind) -> Follower {
        let namespaces = Arc::new(Namespaces::default());
        let source = match kind {
            Kind::Kvd => Source::Kvd,
            _ => Source::Engine { model: "m".into(), block_tokens: Some(2), rank: 0 },
        };
        let applier = Applier::new(source, namespaces.clone());
        Follower { kind, stream: Stream::new(kind.means(), LIMITS), applier, namespaces, view: None, snapshot: None }
    }

    /// Does all that `input` asks for; what must be asked of the publisher goes to `questions`.
    pub fn step(&mut self, now_ms: u64, input: Input<SnapshotPart>, publisher: &Publisher, questions: &mut Vec<Question>) {
        if let Input::SnapshotEnd { as_of, .. } = &input {
            self.snapshot = self.snapshot.map(|(life, _)| (life, *as_of));
        }
        self.stream.step(now_ms, input);
        while let Some(action) = self.stream.next_action() {
            self.perform(action, publisher, questions);
        }
        self.check(publisher);
    }

    fn perform(&mut self, action: Action<SnapshotPart>, publisher: &Publisher, questions: &mut Vec<Question>) {
        match action {
            Action::Clear => {
                self.applier.clear();
                self.view = None;
            }
            Action::Apply { message, compare } => {
                let mut applied = self.applier.apply(&message.payload, compare);
                if applied == Applied::NeedsLayouts {
                    self.applier.learn(&publisher::layouts()).expect("a sound layout");
                    applied = self.applier.apply(&message.payload, compare);
                }
                let Applied::Judged(verdict) = applied else { panic!("the layout was learned") };
                self.view = if verdict == Verdict::Sound { Some(publisher.moments[&message.payload]) } else { None };
                self.stream.done(verdict);
            }
            Action::Place(part) => {
                self.applier.place(&part).expect("a sound part");
                self.snapshot = Some((part.incarnation, part.next_event));
            }
            Action::Compare(digest) => {
                let verdict = self.applier.compare(digest);
                self.view = self.snapshot.filter(|_| verdict == Verdict::Sound).map(|(life, as_of)| (life, as_of - 1));
                self.stream.done(verdict);
            }
            Action::AskReplay { ask, from } => questions.push(Question::Replay { ask, from }),
            Action::AskSnapshot { ask } => questions.push(Question::Snapshot { ask }),
        }
    }

    /// What the index says of this publisher.
    pub fn resident(&self) -> Resident {
        let mut found = Resident::new();
        let Some(namespace) = self.namespaces.get(&NamespaceKey { model: "m".into(), block_tokens: 2 }) else { return found };
        let index = namespace.read();
        let mut walk = Walk::default();
        for holder in self.applier.views() {
            for chain in 0..CHAINS {
                index.find_spans(&chain_locals(chain), &mut walk);
                for span in walk.covered(holder.holder) {
                    for medium in Medium::ALL.into_iter().filter(|medium| span.media.contains(*medium)) {
                        found.extend((span.from..span.to.min(LENGTH)).map(|position| (chain, position, medium as u8)));
                    }
                }
            }
        }
        found
    }

    /// What is known is what the publisher had after the last message applied, or, when incomplete, some of it.
    fn check(&mut self, publisher: &Publisher) {
        let State::Known { complete } = self.stream.state() else { return };
        let nothing = Resident::new();
        let truth = self.view.map_or(&nothing, |moment| &publisher.history[&moment]);
        let said = self.resident();
        let false_claims: Vec<_> = said.difference(truth).collect();
        assert!(false_claims.is_empty(), "claims what was not so after {:?}: {false_claims:?}", self.view);
        if complete {
            assert_eq!(self.applier.digest(), publisher::digest(self.kind, truth), "is not whole after {:?}", self.view);
        }
    }

    /// The message after which the view is the publisher's.
    pub fn view(&self) -> Option<Moment> {
        self.view
    }
}
