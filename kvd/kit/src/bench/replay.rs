//! Replays a trace against one daemon, and measures from the end of the warm-up to the end.
//!
//! Threads serve requests; this one looks at the sums twice a second, and decides when the warm-up and the measurement end. What is
//! under way at the end is cut off and not counted.

use super::daemon::{Daemon, own_cpu};
use super::device::{Disk, Traffic};
use super::engine::{Engine, sleep_until};
use super::error::BenchError;
use super::feed::Feed;
use super::plan::Pace;
use super::progress::Progress;
use super::tally::{Latencies, Snapshot, Tally, add};
use crate::trace::{Clock, Request};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, MutexGuard};
use std::thread::Scope;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(50);
const POINT_EVERY: Duration = Duration::from_millis(500);

/// How a replay goes.
#[derive(Debug, Clone, Copy)]
pub struct Course {
    /// When requests are made.
    pub pace: Pace,
    /// Factor on the trace's clock and on pauses.
    pub speed: f64,
    /// Threads: sessions at once, or requests under way.
    pub concurrency: usize,
    /// Pause instead of the trace's.
    pub think_ms: Option<u64>,
    /// Before anything counts.
    pub warm_up: Duration,
    /// The longest that counts.
    pub duration: Option<Duration>,
}

/// What a replay goes through.
#[derive(Debug)]
pub struct Stage<'a, 'p> {
    /// The engine.
    pub engine: &'a Engine<'a>,
    /// Where it counts.
    pub tally: &'a Tally,
    /// The requests.
    pub feed: &'a Mutex<Feed<'p>>,
    /// Ends the replay's threads.
    pub stop: &'a AtomicBool,
    /// A person wants the end.
    pub interrupted: &'a AtomicBool,
    /// The disk under the medium.
    pub disk: Option<&'a Disk>,
}

/// What happened between two moments.
#[derive(Debug, Default)]
pub struct Measured {
    /// How long they were apart.
    pub elapsed: Duration,
    /// What was counted.
    pub sums: Snapshot,
    /// Latencies.
    pub latencies: Latencies,
    /// Sums over time.
    pub timeline: Vec<Point>,
    /// CPU time of the daemon.
    pub daemon_cpu: Duration,
    /// CPU time of this process.
    pub client_cpu: Duration,
    /// The daemon's counters, as differences.
    pub counters: HashMap<String, f64>,
    /// What went to and from the disk, by everybody.
    pub traffic: Option<Traffic>,
}

/// Sums between two moments of the timeline.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// The later of the two, in seconds from the start of the measurement.
    pub at_s: f64,
    /// How long they were apart, in seconds.
    pub span_s: f64,
    /// What was counted.
    pub sums: Snapshot,
}

/// Everything that is looked at twice, at one moment.
struct Moment {
    at: Instant,
    sums: Snapshot,
    daemon_cpu: Duration,
    client_cpu: Duration,
    counters: HashMap<String, f64>,
    traffic: Option<Traffic>,
}

impl Moment {
    fn now(stage: &Stage, daemon: &Daemon) -> Result<Moment, BenchError> {
        Ok(Moment {
            counters: daemon.counters()?,
            traffic: stage.disk.and_then(Disk::traffic),
            daemon_cpu: daemon.cpu(),
            client_cpu: own_cpu(),
            sums: stage.tally.sums.now(),
            at: Instant::now(),
        })
    }

    fn until(&self, end: &Moment) -> Measured {
        let difference = |name: &String, end: &f64| end - self.counters.get(name).copied().unwrap_or(0.0);
        let traffic = |(end, start): (Traffic, Traffic)| Traffic {
            read_bytes: end.read_bytes - start.read_bytes,
            written_bytes: end.written_bytes - start.written_bytes,
        };
        Measured {
            elapsed: end.at - self.at,
            sums: end.sums.since(&self.sums),
            daemon_cpu: end.daemon_cpu.saturating_sub(self.daemon_cpu),
            client_cpu: end.client_cpu.saturating_sub(self.client_cpu),
            counters: end.counters.iter().map(|(name, value)| (name.clone(), difference(name, value))).collect(),
            traffic: end.traffic.zip(self.traffic).map(traffic),
            ..Measured::default()
        }
    }
}

/// Replays. Ends with the trace, with the time, or with `stage.interrupted`; then what was measured so far is the answer.
///
/// # Errors
/// When the daemon ended, or the trace is broken.
pub fn replay(stage: &Stage, daemon: &mut Daemon, course: &Course, progress: &Progress) -> Result<Measured, BenchError> {
    stage.stop.store(false, Ordering::Relaxed);
    let working = AtomicUsize::new(course.concurrency);
    std::thread::scope(|scope| {
        start(stage, course, &working, scope);
        let measured = watch(stage, daemon, course, &working, progress);
        stage.stop.store(true, Ordering::Relaxed);
        measured
    })
    .and_then(|measured| match feed(stage).error() {
        Some(error) => Err(error),
        None => Ok(measured),
    })
}

fn feed<'a, 'p>(stage: &Stage<'a, 'p>) -> MutexGuard<'a, Feed<'p>> {
    stage.feed.lock().expect("no panic while held")
}

fn watch(stage: &Stage, daemon: &mut Daemon, course: &Course, working: &AtomicUsize, progress: &Progress) -> Result<Measured, BenchError> {
    let over = || working.load(Ordering::Acquire) == 0 || stage.interrupted.load(Ordering::Relaxed);
    let warm = Instant::now() + course.warm_up;
    while Instant::now() < warm && !over() {
        progress.show("warming up", &stage.tally.sums.now(), course.warm_up);
        std::thread::sleep(LOOK_EVERY);
    }
    let start = Moment::now(stage, daemon)?;
    stage.tally.begin(start.at);
    let (mut timeline, mut last) = (Vec::new(), (start.at, start.sums));
    let until = course.duration.map(|duration| start.at + duration);
    loop {
        let now = Instant::now();
        let ended = over() || until.is_some_and(|until| now >= until);
        if ended || now - last.0 >= POINT_EVERY {
            let sums = stage.tally.sums.now();
            let (at_s, span_s) = ((now - start.at).as_secs_f64(), (now - last.0).as_secs_f64());
            timeline.push(Point { at_s, span_s, sums: sums.since(&last.1) });
            progress.show("measuring", &sums.since(&start.sums), now - start.at);
            last = (now, sums);
        }
        if ended {
            break;
        }
        if !daemon.is_alive() {
            return Err(daemon.failure("ended during the measurement".into()));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let latencies = stage.tally.end();
    let end = Moment::now(stage, daemon)?;
    Ok(Measured { latencies, timeline, ..start.until(&end) })
}

fn start<'s>(stage: &'s Stage, course: &'s Course, working: &'s AtomicUsize, scope: &'s Scope<'s, '_>) {
    match course.pace {
        Pace::Closed => (0..course.concurrency).for_each(|_| {
            scope.spawn(move || {
                closed(stage, course);
                working.fetch_sub(1, Ordering::Release);
            });
        }),
        Pace::Open => {
            let (sender, receiver) = sync_channel(course.concurrency * 4);
            let receiver = std::sync::Arc::new(Mutex::new(receiver));
            scope.spawn(move || {
                let clock = feed(stage).format().1;
                dispatch(stage, course, clock, |intended, request| sender.send((intended, request)).is_ok());
            });
            for _ in 0..course.concurrency {
                let receiver = receiver.clone();
                scope.spawn(move || {
                    open(stage, &receiver);
                    working.fetch_sub(1, Ordering::Release);
                });
            }
        }
    }
}

/// One session after the other: request, answer, pause.
fn closed(stage: &Stage, course: &Course) {
    let mut hands = stage.engine.hands();
    while !stage.stop.load(Ordering::Relaxed) {
        let Some(session) = feed(stage).session() else { return };
        let mut free_at = Instant::now();
        for (turn, request) in session.iter().enumerate() {
            let think_ms = course.think_ms.unwrap_or(request.think_ms);
            let pause = if turn == 0 { Duration::ZERO } else { Duration::from_secs_f64(think_ms as f64 / 1000.0 / course.speed) };
            let intended = free_at + pause;
            sleep_until(intended, stage.stop);
            if stage.stop.load(Ordering::Relaxed) {
                return;
            }
            serve(stage, request, intended, &mut hands);
            free_at = Instant::now();
        }
    }
}

/// Hands out requests when they are due, and late when all threads are busy: from when they were due their latency counts.
fn dispatch(stage: &Stage, course: &Course, clock: Clock, give: impl Fn(Instant, Request) -> bool) {
    let start = Instant::now();
    let mut first_ms = None;
    while !stage.stop.load(Ordering::Relaxed) {
        let Some((at_ms, request)) = feed(stage).due(clock) else { return };
        let since_ms = at_ms.saturating_sub(*first_ms.get_or_insert(at_ms));
        let intended = start + Duration::from_secs_f64(since_ms as f64 / 1000.0 / course.speed);
        sleep_until(intended, stage.stop);
        if stage.stop.load(Ordering::Relaxed) || !give(intended, request) {
            return;
        }
    }
}

fn open(stage: &Stage, due: &Mutex<Receiver<(Instant, Request)>>) {
    let mut hands = stage.engine.hands();
    loop {
        let next = due.lock().expect("no panic while held").recv();
        let Ok((intended, request)) = next else { return };
        // After the end the queue is emptied, so that nobody waits for room in it.
        if !stage.stop.load(Ordering::Relaxed) {
            serve(stage, &request, intended, &mut hands);
        }
    }
}

fn serve(stage: &Stage, request: &Request, intended: Instant, hands: &mut super::engine::Hands) {
    match stage.engine.serve(request, intended, hands) {
        Ok(()) => add(&stage.tally.sums.output_tokens, request.output_tokens),
        Err(why) => {
            feed(stage).fail(BenchError::Choice(why));
            stage.stop.store(true, Ordering::Relaxed);
        }
    }
}
