//! One shape of traffic through both indexes.

use crate::allocator::allocated_bytes;
use crate::inputs::{Message, Shape, Traffic, traffic};
use crate::measure::{Interleaved, percentile};
use crate::ours::Ours;
use crate::peer::Peer;
use crate::report::{Better, Report, Row};
use dynamo_kv_router::protocols::{LocalBlockHash, RouterEvent};
use kvd_index::Walk;
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Look-ups of one run.
const LOOKUPS: usize = 20_000;

/// What one side did in one run.
#[derive(Debug, Default, Clone, Copy)]
struct Run {
    store_ns: f64,
    remove_ns: f64,
    bytes: f64,
    lookups_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    busy_p99_us: f64,
    store_2_ns: f64,
}

/// Adds the rows of one shape.
pub fn compare(shape: Shape, memberships: usize, runs: usize, report: &mut Report) {
    let mut all: Vec<(Run, Run)> = Vec::new();
    for run in 0..runs {
        let traffic = traffic(shape, memberships, run as u64 + 1);
        agree(shape, &traffic);
        let (ours, peer) = if run % 2 == 0 {
            let ours = run_ours(shape, &traffic);
            (ours, run_peer(shape, &traffic))
        } else {
            let peer = run_peer(shape, &traffic);
            (run_ours(shape, &traffic), peer)
        };
        all.push((ours, peer));
    }
    let both = |value: fn(&Run) -> f64| Interleaved {
        ours: all.iter().map(|(ours, _)| value(ours)).collect(),
        reference: all.iter().map(|(_, peer)| value(peer)).collect(),
    };
    let mut row = |what: &str, unit: &str, better, value: fn(&Run) -> f64| {
        report.push(Row::compare(format!("{shape}: {what}"), unit, better, &both(value)))
    };
    row("store a block, CPU", "ns", Better::Lower, |run| run.store_ns);
    row("store a block, CPU, 2 threads", "ns", Better::Lower, |run| run.store_2_ns);
    row("remove a block, CPU", "ns", Better::Lower, |run| run.remove_ns);
    row("look-ups a core", "1/s", Better::Higher, |run| run.lookups_per_s);
    row("look-up p50", "µs", Better::Lower, |run| run.p50_us);
    row("look-up p99", "µs", Better::Lower, |run| run.p99_us);
    row("look-up p99 while events come", "µs", Better::Lower, |run| run.busy_p99_us);
    row("memory a membership", "B", Better::Lower, |run| run.bytes);
}

fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// CPU nanoseconds of `work` for each of `blocks`.
fn cpu_each(blocks: usize, work: impl FnOnce()) -> f64 {
    let before = cpu_ns();
    work();
    (cpu_ns() - before) / blocks as f64
}

fn blocks(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.names.len()).sum()
}

/// Both give the same answers on this traffic, which has neither holes nor losses.
fn agree(shape: Shape, traffic: &Traffic) {
    let (ours, peer) = (Ours::new(shape.workers), Peer::new(1, shape.block_tokens));
    traffic.stores.iter().for_each(|message| ours.apply(message));
    peer.apply(traffic.stores.iter().map(Peer::event).collect());
    assert_eq!(ours.memberships() as usize, traffic.memberships);
    let mut walk = Walk::default();
    for prompt in traffic.prompts.iter().take(200) {
        assert_eq!(ours.scores(prompt, &mut walk), peer.scores(&for_peer(prompt)), "the indexes disagree");
    }
}

fn for_peer(prompt: &[kvd_block::LocalHash]) -> Vec<LocalBlockHash> {
    prompt.iter().map(|local| LocalBlockHash(local.0)).collect()
}

fn run_ours(shape: Shape, traffic: &Traffic) -> Run {
    let mut run = Run::default();
    {
        let ours = Ours::new(shape.workers);
        let (one, two): (Vec<&Message>, Vec<&Message>) = traffic.stores.iter().partition(|message| message.worker % 2 == 0);
        run.store_2_ns = cpu_each(blocks(&traffic.stores), || {
            std::thread::scope(|scope| {
                scope.spawn(|| one.iter().for_each(|message| ours.apply(message)));
                scope.spawn(|| two.iter().for_each(|message| ours.apply(message)));
            });
        });
    }
    let before = allocated_bytes();
    let ours = Ours::new(shape.workers);
    run.store_ns = cpu_each(blocks(&traffic.stores), || traffic.stores.iter().for_each(|message| ours.apply(message)));
    run.bytes = (allocated_bytes() - before) as f64 / traffic.memberships as f64;
    let mut walk = Walk::default();
    let prompts = &traffic.prompts;
    lookups(&mut run, |at| ours.find(&prompts[at % prompts.len()], &mut walk));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| churn(&stop, traffic, |messages| messages.iter().for_each(|message| ours.apply(message))));
        run.busy_p99_us = busy(|at| ours.find(&prompts[at % prompts.len()], &mut walk));
        stop.store(true, Ordering::Relaxed);
    });
    run.remove_ns = cpu_each(blocks(&traffic.removes), || traffic.removes.iter().for_each(|message| ours.apply(message)));
    run
}

fn run_peer(shape: Shape, traffic: &Traffic) -> Run {
    let mut run = Run::default();
    let events = |messages: &[Message]| -> Vec<RouterEvent> { messages.iter().map(Peer::event).collect() };
    {
        let peer = Peer::new(2, shape.block_tokens);
        let stores = events(&traffic.stores);
        run.store_2_ns = cpu_each(blocks(&traffic.stores), || peer.apply(stores));
    }
    let prompts: Vec<Vec<LocalBlockHash>> = traffic.prompts.iter().map(|prompt| for_peer(prompt)).collect();
    let before = allocated_bytes();
    let peer = Peer::new(1, shape.block_tokens);
    let stores = events(&traffic.stores);
    run.store_ns = cpu_each(blocks(&traffic.stores), || peer.apply(stores));
    run.bytes = (allocated_bytes() - before) as f64 / traffic.memberships as f64;
    lookups(&mut run, |at| peer.find(&prompts[at % prompts.len()]));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| churn(&stop, traffic, |messages| peer.apply(messages.iter().map(Peer::event).collect())));
        run.busy_p99_us = busy(|at| peer.find(&prompts[at % prompts.len()]));
        stop.store(true, Ordering::Relaxed);
    });
    let removes = events(&traffic.removes);
    run.remove_ns = cpu_each(blocks(&traffic.removes), || peer.apply(removes));
    run
}

/// Sequences come again and again, at about 200,000 blocks a second, so that both sides bear the same.
fn churn(stop: &AtomicBool, traffic: &Traffic, mut apply: impl FnMut(&[Message])) {
    let started = Instant::now();
    let mut done = 0;
    for chunk in traffic.stores.chunks(8).cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        apply(chunk);
        done += blocks(chunk);
        while done as f64 > started.elapsed().as_secs_f64() * 200_000.0 && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
}

fn lookups(run: &mut Run, mut find: impl FnMut(usize) -> usize) {
    let before = cpu_ns();
    (0..LOOKUPS).for_each(|at| {
        black_box(find(at));
    });
    run.lookups_per_s = LOOKUPS as f64 / (cpu_ns() - before) * 1e9;
    let times = each(find);
    (run.p50_us, run.p99_us) = (percentile(&times, 0.5), percentile(&times, 0.99));
}

fn busy(find: impl FnMut(usize) -> usize) -> f64 {
    percentile(&each(find), 0.99)
}

fn each(mut find: impl FnMut(usize) -> usize) -> Vec<f64> {
    let timed = |at| {
        let start = Instant::now();
        black_box(find(at));
        start.elapsed().as_secs_f64() * 1e6
    };
    (0..LOOKUPS).map(timed).collect()
}
