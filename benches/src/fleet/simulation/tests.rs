//! Small traces through the whole model.

use super::*;
use crate::traces::Request;

const BLOCK: u32 = 512;

fn request(at_ms: u64, session: u32, blocks: std::ops::Range<u64>) -> Request {
    let input_tokens = blocks.clone().count() as u32 * BLOCK;
    Request { at_ms, blocks: blocks.collect(), block_tokens: BLOCK, input_tokens, output_tokens: 2, session }
}

fn trace(requests: Vec<Request>) -> Trace {
    Trace { name: "small".into(), requests }
}

fn fleet(mode: Mode, workers: usize) -> Fleet {
    let settings = RouteSettings { mode, ..RouteSettings::default() };
    Fleet { machine: Machine::small(), workers, settings, stretch: 1.0, most_waiting_tokens: 0 }
}

/// Four documents, each asked about again and again.
fn documents() -> Trace {
    trace((0..40).map(|turn| request(turn * 2_000, turn as u32, (turn % 4) * 100..(turn % 4) * 100 + 30)).collect())
}

#[test]
fn a_lone_request_takes_what_the_machine_says() {
    let trace = trace(vec![request(0, 0, 0..10)]);
    let outcome = simulate(&trace, &fleet(Mode::Kv, 1));
    let expected = Machine::small().prefill_ms(kvd_router::route::Work::of(5_120, 0), 0) * Machine::noise(0);
    assert!((outcome.ttft_ms[0] - expected).abs() < 1e-9);
    assert_eq!((outcome.reuse(), outcome.imbalance()), (0.0, 1.0));
}

#[test]
fn the_router_finds_on_the_device_what_round_robin_scatters() {
    let bare = |mode| Fleet { machine: Machine::small().bare(), ..fleet(mode, 8) };
    let (kv, round) = (simulate(&documents(), &bare(Mode::Kv)), simulate(&documents(), &bare(Mode::RoundRobin)));
    assert_eq!(kv.found_tokens, [36 * 30 * u64::from(BLOCK), 0, 0]);
    assert!(kv.reuse() > round.reuse() && kv.ttft().mean < round.ttft().mean);
}

#[test]
fn a_node_gives_what_another_of_its_engines_computed() {
    let trace = trace(vec![request(0, 0, 0..30), request(5_000, 1, 0..30)]);
    let outcome = simulate(&trace, &fleet(Mode::RoundRobin, 2));
    assert_eq!(outcome.found_tokens, [0, 30 * u64::from(BLOCK), 0]);
}

#[test]
fn a_burst_of_equal_prompts_is_computed_once() {
    let burst = trace((0..6).map(|at| request(at, at as u32, 0..40)).collect());
    let outcome = simulate(&burst, &fleet(Mode::Kv, 8));
    assert_eq!(outcome.found_tokens[0], 5 * 40 * u64::from(BLOCK));
}

#[test]
fn a_session_goes_on_only_after_its_answer() {
    let trace = trace(vec![request(0, 7, 0..30), request(1, 7, 0..31)]);
    let outcome = simulate(&trace, &fleet(Mode::RoundRobin, 1));
    assert_eq!(outcome.found_tokens[0], 30 * u64::from(BLOCK));
}

#[test]
fn a_run_repeats_to_the_last_bit() {
    let (a, b) = (simulate(&documents(), &fleet(Mode::Kv, 4)), simulate(&documents(), &fleet(Mode::Kv, 4)));
    assert_eq!(a, b);
}

#[test]
fn requests_held_back_are_all_served() {
    let busy = Fleet { most_waiting_tokens: 16_000, stretch: 0.001, ..fleet(Mode::Kv, 2) };
    let outcome = simulate(&documents(), &busy);
    assert!(outcome.ttft_ms.iter().all(|ttft| *ttft > 0.0));
    assert_eq!(outcome.refused, 0);
}
