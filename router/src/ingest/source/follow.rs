//! The loop around one stream: sockets and time become inputs of the machine, its actions become questions and changes of the
//! index. Decides nothing.

use super::live::{self, Arrival, Arrivals, Endpoint, Losses};
use super::view::{StreamStatus, StreamView};
use super::{replay, snapshot};
use crate::ingest::apply::{Applied, Applier, Refusal};
use crate::ingest::saved::{SavedProgress, SavedStream};
use crate::ingest::stream::{Action, Input, Limits, Means, Reason, State, Stream, Verdict};
use crate::ingest::wire::WireError;
use kvd_proto::admin::{Layout, SnapshotPart};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// Answers that wait for the follower; beyond them the publisher waits.
const MOST_ANSWERS: usize = 256;
/// Without anything to do, the status is still brought up to date this often.
const IDLE: Duration = Duration::from_secs(1);
/// While messages come, it is brought up to date this often.
const BUSY: Duration = Duration::from_millis(50);

/// What a question brought.
#[derive(Debug)]
pub(super) enum Answer {
    Input(Input<SnapshotPart>),
    Layouts(Vec<Layout>),
    Failed { ask: u32, why: String },
}

/// Where one stream and its repairs come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    pub live: Endpoint,
    pub replay: Option<String>,
    pub admin: Option<String>,
}

/// Aborts a task when it is dropped.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows one stream.
#[derive(Debug)]
pub(super) struct Follower {
    /// Of the source, and its rank: for the log.
    name: String,
    /// Of this stream among those of its source.
    at: usize,
    places: Places,
    stream: Stream<SnapshotPart>,
    saves: mpsc::Receiver<Save>,
    applier: Applier,
    began: Instant,
    question: Option<Task>,
    answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    losses: Arc<Losses>,
    views: Arc<watch::Sender<Vec<StreamView>>>,
    status: Arc<Mutex<StreamStatus>>,
    said: Said,
    last_message: Option<Instant>,
    /// When the status is brought up to date next.
    refresh: Instant,
    rate: Rate,
    failure: Option<String>,
}

/// What was logged already.
#[derive(Debug, Default)]
struct Said {
    state: Option<State>,
    version: u64,
    errors: [bool; WireError::KINDS.len()],
    flooded: bool,
    misframed: bool,
    refused: Option<Refusal>,
}

/// Events a second, over the last whole second or so.
#[derive(Debug)]
struct Rate {
    since: Instant,
    events: u64,
    per_second: f64,
}

impl Rate {
    fn note(&mut self, now: Instant, events: u64) {
        let passed = now.duration_since(self.since);
        if passed >= IDLE {
            self.per_second = (events - self.events) as f64 / passed.as_secs_f64();
            (self.since, self.events) = (now, events);
        }
    }
}

/// What a follower is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub name: String,
    pub at: usize,
    pub places: Places,
    pub limits: Limits,
    pub applier: Applier,
    pub views: Arc<watch::Sender<Vec<StreamView>>>,
    pub status: Arc<Mutex<StreamStatus>>,
    pub saves: mpsc::Receiver<Save>,
    /// Where a former life was.
    pub resumed: Option<SavedProgress>,
}

/// Asks a follower what the next life needs to know, and to wait until that is written.
#[derive(Debug)]
pub(super) struct Save {
    pub source: String,
    pub declared: String,
    pub saved: oneshot::Sender<Option<SavedStream>>,
    /// The other end is dropped when the follower may go on.
    pub written: watch::Receiver<()>,
}

/// However the task ends, nobody goes on using what it no longer follows.
impl Drop for Follower {
    fn drop(&mut self) {
        let (at, state) = (self.at, State::Unknown(Reason::Stopped));
        self.views.send_modify(|views| views[at].state = state);
        self.status.lock().unwrap_or_else(|broken| broken.into_inner()).state = state;
    }
}

impl Follower {
    pub(super) fn new(parts: Parts) -> Follower {
        let Parts { name, at, places, limits, applier, views, status, saves, resumed } = parts;
        let means = Means { replay: places.replay.is_some(), snapshot: places.admin.is_some() };
        let now = Instant::now();
        Follower {
            name,
            at,
            places,
            stream: resumed.map_or_else(|| Stream::new(means, limits), |saved| Stream::resume(means, limits, &saved)),
            saves,
            applier,
            began: now,
            question: None,
            answers: mpsc::channel(MOST_ANSWERS),
            losses: Arc::default(),
            views,
            status,
            said: Said::default(),
            last_message: None,
            refresh: now,
            rate: Rate { since: now, events: 0, per_second: 0.0 },
            failure: None,
        }
    }

    /// Follows until the task is aborted.
    pub(super) async fn run(mut self) {
        let (mut arrivals, reader) = live::read(self.places.live.clone(), self.losses.clone());
        let _reader = Task(reader);
        self.report();
        while let Some(input) = self.input(&mut arrivals).await {
            self.stream.step(self.now_ms(), input);
            while let Some(action) = self.stream.next_action() {
                self.perform(action).await;
            }
            self.report();
        }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// The next thing that happens. `None` when nothing ever will.
    async fn input(&mut self, arrivals: &mut Arrivals) -> Option<Input<SnapshotPart>> {
        let due = self.stream.deadline().map_or(self.refresh, |due| self.refresh.min(self.began + Duration::from_millis(due)));
        tokio::select! {
            biased;
            Some(save) = self.saves.recv() => Some(self.save(save).await),
            answer = self.answers.1.recv() => Some(self.answered(answer?)),
            arrival = arrivals.next() => Some(match arrival? {
                Arrival::Connected => Input::Connected,
                Arrival::Disconnected => Input::Disconnected,
                Arrival::Message(message) => {
                    self.last_message = Some(Instant::now());
                    Input::Live(message)
                }
            }),
            () = sleep_until(due) => Some(Input::Tick),
        }
    }

    /// Nothing is applied between this stream's place and the indexes being written.
    async fn save(&mut self, save: Save) -> Input<SnapshotPart> {
        let Save { source, declared, saved, mut written } = save;
        let progress = self.stream.saved();
        if saved.send(progress.map(|progress| self.applier.saved(&source, &declared, progress))).is_ok() {
            let _ = written.changed().await;
        }
        Input::Tick
    }

    fn answered(&mut self, answer: Answer) -> Input<SnapshotPart> {
        match answer {
            Answer::Input(input) => input,
            Answer::Layouts(layouts) => {
                if let Err(refusal) = self.applier.learn(&layouts) {
                    self.refuse(refusal);
                }
                Input::Tick
            }
            Answer::Failed { ask, why } => {
                if self.failure.as_ref() != Some(&why) {
                    warn!(source = self.name, why, "a view cannot be repaired yet");
                }
                self.failure = Some(why);
                Input::Failed { ask }
            }
        }
    }

    async fn perform(&mut self, action: Action<SnapshotPart>) {
        match action {
            Action::Clear => self.applier.clear(),
            Action::Apply { message, compare } => {
                let verdict = self.apply(&message.payload, compare).await;
                self.stream.done(verdict);
            }
            Action::Place(part) => {
                if let Err(refusal) = self.applier.place(&part) {
                    self.refuse(refusal);
                }
            }
            Action::Compare(digest) => {
                let verdict = self.applier.compare(digest);
                self.stream.done(verdict);
            }
            Action::AskReplay { ask, from } => {
                let address = self.places.replay.clone().expect("replays are asked for where there is a place for it");
                self.ask(replay::ask(address, ask, from, self.answers.0.clone()));
            }
            Action::AskSnapshot { ask } => {
                let address = self.places.admin.clone().expect("snapshots are asked for where there is a place for it");
                self.ask(snapshot::ask(address, ask, self.answers.0.clone()));
            }
        }
    }

    /// Asks, and no longer wants the answer to the question before.
    fn ask(&mut self, question: impl Future<Output = ()> + Send + 'static) {
        self.question = Some(Task(tokio::spawn(question)));
    }

    async fn apply(&mut self, payload: &[u8], compare: bool) -> Verdict {
        if let Applied::Judged(verdict) = self.applier.apply(payload, compare) {
            return verdict;
        }
        let layouts = match &self.places.admin {
            Some(address) => snapshot::layouts(address).await,
            None => Ok(Vec::new()),
        };
        let learned = layouts.map(|layouts| self.applier.learn(&layouts));
        match (learned, self.applier.apply(payload, compare)) {
            (Ok(Ok(())), Applied::Judged(verdict)) => verdict,
            (Ok(Err(refusal)), _) => {
                self.applier.refuse(refusal);
                Verdict::Refused
            }
            // The layout may be listed by the time of the snapshot.
            _ => {
                self.applier.clear();
                Verdict::Diverged
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.applier.refuse(refusal);
        self.stream.refuse();
    }

    /// Tells others what is known now, and the log what is new.
    fn report(&mut self) {
        let (state, version) = (self.stream.state(), self.applier.version());
        let changed = self.said.state != Some(state) || self.said.version != version;
        let now = Instant::now();
        if !changed && now < self.refresh {
            // A look at the status is due soon after something came.
            self.refresh = self.refresh.min(now + BUSY);
            return;
        }
        if self.said.state != Some(state) {
            self.log_state(state);
        }
        (self.said.state, self.said.version) = (Some(state), version);
        self.log_errors();
        self.rate.note(now, self.applier.tally().events);
        self.refresh = now + IDLE;
        if changed {
            let (at, why) = (self.at, self.applier.refusal().map(ToString::to_string));
            let view = StreamView { state, why, holders: self.applier.views() };
            self.views.send_modify(|views| views[at] = view);
        }
        *self.status.lock().unwrap_or_else(|broken| broken.into_inner()) = self.current_status(now);
    }

    fn current_status(&self, now: Instant) -> StreamStatus {
        StreamStatus {
            name: self.name.clone(),
            state: self.stream.state(),
            why: self.applier.refusal().map(ToString::to_string).or_else(|| self.failure.clone()),
            last_error: self.applier.error().map(ToString::to_string),
            last_number: self.stream.last_number(),
            silent_for: self.last_message.map(|at| now.duration_since(at)),
            events_per_second: self.rate.per_second,
            blocks: self.applier.blocks(),
            tally: *self.applier.tally(),
            counts: self.stream.counts(),
            flooded: self.losses.flooded.load(Ordering::Relaxed),
            misframed: self.losses.misframed.load(Ordering::Relaxed),
        }
    }

    fn log_state(&mut self, state: State) {
        match state {
            State::Known { complete } => {
                self.failure = None;
                info!(source = self.name, complete, number = self.stream.last_number(), "the view of a source is proven");
            }
            State::Unknown(reason) => info!(source = self.name, %reason, "the view of a source is not proven, and not used"),
        }
    }

    /// Each kind of trouble once.
    fn log_errors(&mut self) {
        let tally = self.applier.tally();
        for (kind, said) in self.said.errors.iter_mut().enumerate() {
            if tally.errors[kind] > 0 && !*said {
                *said = true;
                let error = self.applier.error().map(ToString::to_string).unwrap_or_default();
                warn!(
                    source = self.name,
                    kind = WireError::KINDS[kind],
                    error,
                    "a message cannot be read; more of the kind are only counted"
                );
            }
        }
        if !self.said.flooded && self.losses.flooded.load(Ordering::Relaxed) > 0 {
            self.said.flooded = true;
            warn!(source = self.name, "messages come faster than they can be applied: some are dropped, counted, and asked for again");
        }
        if !self.said.misframed && self.losses.misframed.load(Ordering::Relaxed) > 0 {
            self.said.misframed = true;
            warn!(source = self.name, "a message has no number: is this an event stream? More are only counted");
        }
        if self.said.refused.as_ref() != self.applier.refusal() {
            self.said.refused = self.applier.refusal().cloned();
            if let Some(refusal) = &self.said.refused {
                warn!(source = self.name, %refusal, "a source cannot be used");
            }
        }
    }
}
