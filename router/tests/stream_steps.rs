//! The machine of one stream, step by step.

mod support;

use bytes::Bytes;
use kvd_block::digest::Digest;
use kvd_router::ingest::stream::{Action, Input, Limits, Means, Message, Reason, State, Stream, Verdict};
use serde_json::json;

const REPLAYS: Means = Means { replay: true, snapshot: false };
const KVD: Means = Means { replay: true, snapshot: true };
const NEITHER: Means = Means { replay: false, snapshot: false };
const KNOWN: State = State::Known { complete: true };
const IN_PART: State = State::Known { complete: false };

/// Message `number` of a life.
fn message(life: u64, number: u64) -> Message {
    let published = (life * 1000 + number) as f64;
    Message { number, payload: Bytes::from(support::payload(published, &json!([]))) }
}

/// A machine whose messages are all sound.
struct Machine {
    stream: Stream<u32>,
    now_ms: u64,
}

impl Machine {
    fn new(means: Means) -> Machine {
        Machine { stream: Stream::new(means, Limits { held_messages: 4, ..Limits::default() }), now_ms: 0 }
    }

    /// What it does about `input`: numbers of messages applied, and everything else.
    fn step(&mut self, input: Input<u32>) -> (Vec<u64>, Vec<Action<u32>>) {
        self.judged(input, Verdict::Sound)
    }

    fn judged(&mut self, input: Input<u32>, verdict: Verdict) -> (Vec<u64>, Vec<Action<u32>>) {
        self.stream.step(self.now_ms, input);
        let (mut applied, mut others) = (Vec::new(), Vec::new());
        while let Some(action) = self.stream.next_action() {
            match action {
                Action::Apply { message, .. } => {
                    applied.push(message.number);
                    self.stream.done(verdict);
                }
                Action::Compare(_) => self.stream.done(verdict),
                other => others.push(other),
            }
        }
        (applied, others)
    }

    fn live(&mut self, life: u64, number: u64) -> (Vec<u64>, Vec<Action<u32>>) {
        self.step(Input::Live(message(life, number)))
    }

    fn replay(&mut self, ask: u32, life: u64, numbers: std::ops::Range<u64>) -> (Vec<u64>, Vec<Action<u32>>) {
        let mut all = (Vec::new(), Vec::new());
        for number in numbers {
            let (applied, others) = self.step(Input::Replayed { ask, message: message(life, number) });
            all.0.extend(applied);
            all.1.extend(others);
        }
        let (applied, others) = self.step(Input::ReplayEnd { ask });
        all.0.extend(applied);
        all.1.extend(others);
        all
    }

    /// Connects to an engine that has said `0..numbers`.
    fn following(numbers: u64) -> Machine {
        let mut machine = Machine::new(REPLAYS);
        machine.step(Input::Connected);
        machine.replay(1, 1, 0..numbers);
        assert_eq!(machine.stream.state(), KNOWN);
        machine
    }
}

#[test]
fn an_engine_is_asked_for_all_it_has_when_it_connects() {
    let mut machine = Machine::new(REPLAYS);
    assert_eq!(machine.stream.state(), State::Unknown(Reason::Starting));
    assert_eq!(machine.step(Input::Connected).1, [Action::Clear, Action::AskReplay { ask: 1, from: 0 }]);
    assert_eq!(machine.replay(1, 1, 0..3).0, [0, 1, 2]);
    assert_eq!(machine.stream.state(), KNOWN);
}

#[test]
fn an_engine_whose_first_messages_are_gone_is_known_in_part() {
    let mut machine = Machine::new(REPLAYS);
    machine.step(Input::Connected);
    assert_eq!(machine.replay(1, 1, 7..9).0, [7, 8]);
    assert_eq!(machine.stream.state(), IN_PART);
    assert_eq!(machine.live(1, 9).0, [9]);
}

#[test]
fn a_gap_is_filled_by_a_replay_that_repeats_the_last_message() {
    let mut machine = Machine::following(3);
    assert_eq!(machine.live(1, 5), (vec![], vec![Action::AskReplay { ask: 2, from: 2 }]));
    assert_eq!(machine.stream.state(), State::Unknown(Reason::Gap));
    assert_eq!(machine.replay(2, 1, 2..6).0, [3, 4, 5]);
    assert_eq!(machine.stream.state(), KNOWN);
}

#[test]
fn a_replay_of_another_life_continues_nothing() {
    let mut machine = Machine::following(3);
    machine.live(1, 5);
    let (applied, others) = machine.step(Input::Replayed { ask: 2, message: message(2, 2) });
    assert_eq!((applied, others), (vec![], vec![Action::Clear, Action::AskReplay { ask: 3, from: 0 }]));
    assert_eq!(machine.replay(3, 2, 0..6).0, [0, 1, 2, 3, 4, 5]);
    assert_eq!(machine.stream.state(), KNOWN);
}

#[test]
fn a_message_that_comes_again_changes_nothing() {
    let mut machine = Machine::following(3);
    assert_eq!(machine.live(1, 1), (vec![], vec![]));
    assert_eq!((machine.stream.counts().duplicates, machine.stream.state()), (1, KNOWN));
}

#[test]
fn a_first_message_that_differs_is_a_new_life() {
    let mut machine = Machine::following(3);
    assert_eq!(machine.live(2, 0), (vec![0], vec![Action::Clear]));
    assert_eq!((machine.stream.counts().restarts, machine.stream.state()), (1, KNOWN));
}

#[test]
fn a_later_message_of_a_new_life_leads_to_its_beginning() {
    let mut machine = Machine::following(3);
    assert_eq!(machine.live(2, 1).1, [Action::Clear, Action::AskReplay { ask: 2, from: 0 }]);
    assert_eq!(machine.stream.state(), State::Unknown(Reason::Restarted));
}

#[test]
fn a_message_of_the_past_is_not_applied_though_its_number_fits() {
    let mut machine = Machine::new(REPLAYS);
    machine.step(Input::Connected);
    machine.replay(1, 2, 0..3);
    let (applied, others) = machine.live(1, 3);
    assert_eq!((applied, others), (vec![], vec![Action::AskReplay { ask: 2, from: 2 }]));
    assert_eq!(machine.stream.state(), KNOWN, "the view itself is not in doubt");
}

#[test]
fn silence_is_broken_by_a_question() {
    let mut machine = Machine::following(3);
    machine.now_ms = machine.stream.deadline().unwrap();
    assert_eq!(machine.step(Input::Tick).1, [Action::AskReplay { ask: 2, from: 2 }]);
    assert_eq!(machine.stream.state(), KNOWN);
    assert_eq!(machine.step(Input::ReplayEnd { ask: 2 }).1, [Action::Clear, Action::AskReplay { ask: 3, from: 0 }], "it began anew");
    assert_eq!(machine.stream.state(), State::Unknown(Reason::Restarted));
}

#[test]
fn a_connection_that_comes_back_is_not_believed_unproven() {
    let mut machine = Machine::following(3);
    machine.step(Input::Disconnected);
    assert_eq!(machine.stream.state(), State::Unknown(Reason::Disconnected));
    assert_eq!(machine.step(Input::Connected).1, [Action::AskReplay { ask: 2, from: 2 }]);
    assert_eq!(machine.live(1, 3), (vec![], vec![]));
    assert_eq!(machine.replay(2, 1, 2..4).0, [3]);
    assert_eq!(machine.stream.state(), KNOWN);
}

#[test]
fn an_answer_to_a_question_that_was_given_up_is_ignored() {
    let mut machine = Machine::following(3);
    machine.live(1, 5);
    assert_eq!(machine.replay(1, 9, 0..3), (vec![], vec![]));
    assert_eq!(machine.stream.state(), State::Unknown(Reason::Gap));
}

#[test]
fn too_many_messages_that_wait_are_given_up_and_asked_for() {
    let mut machine = Machine::following(3);
    machine.live(1, 5);
    (6..20).for_each(|number| drop(machine.live(1, number)));
    assert!(machine.stream.counts().overflows > 0);
    let (applied, others) = machine.replay(2, 1, 2..7);
    assert_eq!(applied[..4], [3, 4, 5, 6]);
    assert!(matches!(others[..], [] | [Action::AskReplay { .. }]));
}

#[test]
fn an_engine_that_answers_nothing_is_followed_as_it_comes() {
    let mut machine = Machine::new(REPLAYS);
    machine.step(Input::Connected);
    for ask in 1..=3 {
        machine.step(Input::Failed { ask });
        machine.now_ms += 20_000;
        machine.step(Input::Tick);
    }
    assert_eq!(machine.live(1, 40).0, [40]);
    assert_eq!(machine.stream.state(), IN_PART);
}

#[test]
fn without_any_help_a_gap_costs_all_that_was_known() {
    let mut machine = Machine::new(NEITHER);
    machine.step(Input::Connected);
    assert_eq!(machine.live(1, 0).0, [0]);
    assert_eq!(machine.stream.state(), KNOWN, "its life began here");
    assert_eq!(machine.live(1, 2), (vec![2], vec![Action::Clear]));
    assert_eq!(machine.stream.state(), IN_PART);
}

#[test]
fn a_snapshot_of_several_moments_is_proven_by_the_messages_between() {
    let mut machine = Machine::new(KVD);
    assert_eq!(machine.step(Input::Connected).1, [Action::AskSnapshot { ask: 1 }]);
    assert_eq!(machine.step(Input::SnapshotBegin { ask: 1, next: 7 }).1, [Action::Clear]);
    assert_eq!(machine.step(Input::SnapshotPart { ask: 1, part: 0 }).1, [Action::Place(0)]);
    machine.live(1, 7);
    assert_eq!(machine.step(Input::SnapshotPart { ask: 1, part: 1 }).1, [Action::Place(1)]);
    let end = Input::SnapshotEnd { ask: 1, as_of: 9, digest: Some(Digest::default()) };
    assert_eq!(machine.step(end), (vec![7], vec![Action::AskReplay { ask: 2, from: 7 }]));
    assert_eq!(machine.stream.state(), State::Unknown(Reason::Gap));
    assert_eq!(machine.replay(2, 1, 7..9).0, [8]);
    assert_eq!(machine.stream.state(), KNOWN);
}

#[test]
fn messages_that_a_snapshot_contains_may_still_come() {
    let mut machine = Machine::new(KVD);
    machine.step(Input::Connected);
    machine.step(Input::SnapshotBegin { ask: 1, next: 7 });
    machine.step(Input::SnapshotEnd { ask: 1, as_of: 7, digest: None });
    assert_eq!(machine.live(1, 6), (vec![], vec![]));
    assert_eq!(machine.live(1, 7).0, [7]);
    assert_eq!(machine.stream.state(), KNOWN);
}

#[test]
fn a_digest_that_differs_leads_to_a_snapshot_and_then_to_patience() {
    let mut machine = Machine::new(KVD);
    machine.step(Input::Connected);
    machine.step(Input::SnapshotBegin { ask: 1, next: 7 });
    let end = Input::SnapshotEnd { ask: 1, as_of: 7, digest: Some(Digest::default()) };
    assert_eq!(machine.judged(end, Verdict::Diverged).1, [Action::AskSnapshot { ask: 2 }]);
    machine.step(Input::SnapshotBegin { ask: 2, next: 8 });
    let end = Input::SnapshotEnd { ask: 2, as_of: 8, digest: Some(Digest::default()) };
    assert_eq!(machine.judged(end, Verdict::Diverged).1, []);
    assert_eq!(machine.stream.state(), State::Unknown(Reason::Diverged));
    machine.now_ms = machine.stream.deadline().unwrap();
    assert_eq!(machine.step(Input::Tick).1, [Action::AskSnapshot { ask: 3 }]);
}

#[test]
fn a_message_that_cannot_be_read_costs_an_engines_view() {
    let mut machine = Machine::following(3);
    assert_eq!(machine.judged(Input::Live(message(1, 3)), Verdict::Malformed), (vec![3], vec![Action::Clear]));
    assert_eq!(machine.stream.state(), IN_PART);
    assert_eq!(machine.live(1, 4).0, [4]);
}

#[test]
fn a_publisher_that_is_refused_stays_so_until_it_connects_anew() {
    let mut machine = Machine::following(3);
    machine.judged(Input::Live(message(1, 3)), Verdict::Refused);
    assert_eq!(machine.stream.state(), State::Unknown(Reason::Refused));
    assert_eq!(machine.live(1, 4), (vec![], vec![]));
    machine.step(Input::Disconnected);
    assert_eq!(machine.step(Input::Connected).1, [Action::Clear, Action::AskReplay { ask: 2, from: 0 }]);
}

#[test]
fn a_kvd_without_replays_that_falls_silent_is_doubted() {
    let mut machine = Machine::new(Means { replay: false, snapshot: true });
    machine.step(Input::Connected);
    machine.step(Input::SnapshotBegin { ask: 1, next: 7 });
    machine.step(Input::SnapshotEnd { ask: 1, as_of: 7, digest: None });
    assert_eq!(machine.stream.state(), KNOWN);
    machine.now_ms = machine.stream.deadline().unwrap();
    assert_eq!(machine.step(Input::Tick).1, [Action::AskSnapshot { ask: 2 }]);
    assert_eq!(machine.stream.state(), State::Unknown(Reason::Silent));
}
