//! The router as its callers use it.

use super::*;
use crate::route::request::{Hints, Session};

fn router(change: impl FnOnce(&mut RouteSettings), workers: usize) -> Router {
    let mut settings = RouteSettings::default();
    change(&mut settings);
    let mut router = Router::new(settings).expect("sound settings");
    for worker in 0..workers {
        let name = format!("gpu-{worker}");
        router.add_worker(WorkerProfile { name, block_bytes: 2 << 20, ..WorkerProfile::default() });
    }
    router
}

fn request(id: u64, tokens: u32) -> RouteRequest {
    RouteRequest { id: RequestId(id), prompt_tokens: tokens, block_tokens: 16, ..RouteRequest::default() }
}

fn blocks(tokens: u32) -> Vec<LocalHash> {
    (0..u64::from(tokens / 16)).map(LocalHash).collect()
}

fn exact(worker: u32, blocks: u32) -> Candidate {
    Candidate { worker: WorkerId(worker), known: Known::Exact(Reach { blocks, by_medium: [blocks, 0, 0, 0] }) }
}

fn unknown(worker: u32) -> Candidate {
    Candidate { worker: WorkerId(worker), known: Known::Unknown }
}

#[test]
fn the_worker_that_has_the_prefix_wins() {
    let mut router = router(|_| {}, 3);
    let choice = router.select(0.0, &request(1, 1_600), &blocks(1_600), &[exact(0, 0), exact(1, 80), exact(2, 20)]).expect("room");
    assert_eq!((choice.worker, choice.terms.uncached_tokens), (WorkerId(1), 320));
}

#[test]
fn a_long_queue_outweighs_a_prefix() {
    let mut router = router(|_| {}, 2);
    for id in 10..14 {
        router.reserve(0.0, &request(id, 64_000), &[], WorkerId(1), &Terms { uncached_tokens: 64_000, ..Terms::default() }).expect("free");
    }
    let choice = router.select(0.0, &request(1, 1_600), &blocks(1_600), &[exact(0, 0), exact(1, 80)]).expect("room");
    assert_eq!(choice.worker, WorkerId(0));
}

#[test]
fn a_burst_of_equal_prompts_follows_the_first_before_any_event() {
    let mut router = router(|_| {}, 8);
    let all: Vec<Candidate> = (0..8).map(|worker| exact(worker, 0)).collect();
    let first = router.route(0.0, &request(1, 16_000), &blocks(16_000), &all).expect("room");
    for id in 2..5 {
        let next = router.route(id as f64, &request(id, 16_000), &blocks(16_000), &all).expect("room");
        assert_eq!((next.worker, next.evidence, next.terms.uncached_tokens), (first.worker, Evidence::Coming, 1));
    }
}

#[test]
fn what_was_coming_is_believed_only_until_events_must_have_told() {
    let mut router = router(|_| {}, 2);
    let all = [exact(0, 0), exact(1, 0)];
    let first = router.route(0.0, &request(1, 16_000), &blocks(16_000), &all).expect("room");
    router.prefill_complete(700.0, RequestId(1), &Measured::default());
    let soon = router.select(1_699.0, &request(2, 16_000), &blocks(16_000), &all).expect("room");
    assert_eq!((soon.worker, soon.evidence), (first.worker, Evidence::Coming));
    let later = router.select(1_701.0, &request(3, 16_000), &blocks(16_000), &all).expect("room");
    assert_eq!((later.evidence, later.terms.uncached_tokens), (Evidence::Index, 16_000));
}

#[test]
fn a_request_that_was_aborted_is_not_coming() {
    let mut router = router(|_| {}, 2);
    let all = [exact(0, 0), exact(1, 0)];
    router.route(0.0, &request(1, 16_000), &blocks(16_000), &all).expect("room");
    assert!(router.abort(1.0, RequestId(1)));
    assert_eq!(router.select(2.0, &request(2, 16_000), &blocks(16_000), &all).expect("room").evidence, Evidence::Index);
}

#[test]
fn an_unknown_worker_is_believed_to_have_only_what_was_sent_there() {
    let mut router = router(|_| {}, 2);
    let to_1 = RouteRequest { pinned: Some(WorkerId(1)), ..request(1, 1_600) };
    router.route(0.0, &to_1, &blocks(1_600), &[exact(0, 0), exact(1, 0)]).expect("room");
    router.prefill_complete(60.0, RequestId(1), &Measured::default());
    router.finish(100.0, RequestId(1), Some(10));
    let choice = router.select(50_000.0, &request(2, 1_600), &blocks(1_600), &[exact(0, 20), unknown(1)]).expect("room");
    assert_eq!((choice.worker, choice.evidence, choice.fallback), (WorkerId(1), Evidence::Sent, Some(Fallback::SomeUnknown)));
    assert_eq!(router.counters().some_unknown, 1);
}

#[test]
fn when_all_are_unknown_the_least_loaded_wins_and_it_is_said() {
    let mut router = router(|_| {}, 2);
    router
        .reserve(0.0, &request(9, 1_600), &blocks(1_600), WorkerId(0), &Terms { uncached_tokens: 1_600, ..Terms::default() })
        .expect("free");
    let choice = router.select(1.0, &request(1, 1_600), &blocks(1_600), &[unknown(0), unknown(1)]).expect("room");
    assert_eq!((choice.worker, choice.fallback), (WorkerId(1), Some(Fallback::AllUnknown)));
    assert_eq!(router.counters().all_unknown, 1);
    assert!(router.explain(RequestId(1)).expect("kept").contains("complete for no candidate"));
}

#[test]
fn approximate_needs_no_index() {
    let mut router = router(|settings| settings.mode = Mode::Approximate, 4);
    let all: Vec<Candidate> = (0..4).map(unknown).collect();
    let first = router.route(0.0, &request(1, 1_600), &blocks(1_600), &all).expect("room");
    router.prefill_complete(60.0, RequestId(1), &Measured::default());
    router.finish(100.0, RequestId(1), None);
    let second = router.select(60_000.0, &request(2, 1_600), &blocks(1_600), &all).expect("room");
    assert_eq!((second.worker, second.fallback), (first.worker, None));
    let late = router.select(121_000.0, &request(3, 1_600), &blocks(1_600), &all).expect("room");
    assert_eq!(late.terms.used_blocks, 0);
}

#[test]
fn an_answer_that_ends_without_word_of_its_first_token_was_computed() {
    let mut router = router(|settings| settings.mode = Mode::Approximate, 2);
    let all = [unknown(0), unknown(1)];
    let first = router.route(0.0, &request(1, 1_600), &blocks(1_600), &all).expect("room");
    assert!(router.finish(100.0, RequestId(1), None));
    let second = router.select(200.0, &request(2, 1_600), &blocks(1_600), &all).expect("room");
    assert_eq!((second.worker, second.terms.used_blocks), (first.worker, 100));
}

#[test]
fn affinity_breaks_a_tie_and_never_beats_real_reuse() {
    let mut router = router(|_| {}, 2);
    let in_session = |id| RouteRequest { session: Session(5), ..request(id, 1_600) };
    let first = router.route(0.0, &in_session(1), &[], &[exact(0, 0), exact(1, 0)]).expect("room").worker;
    router.prefill_complete(60.0, RequestId(1), &Measured::default());
    router.finish(100.0, RequestId(1), None);
    let again = router.select(1_000.0, &in_session(2), &[], &[exact(0, 0), exact(1, 0)]).expect("room").worker;
    assert_eq!(again, first);
    let other = WorkerId(1 - first.0);
    let moved = router.select(1_000.0, &in_session(3), &[], &[exact(first.0, 0), exact(other.0, 50)]).expect("room").worker;
    assert_eq!(moved, other);
}

#[test]
fn a_slow_worker_is_priced_as_it_is() {
    let mut router = router(|_| {}, 2);
    for id in 0..300 {
        let worker = WorkerId((id % 2) as u32);
        let pinned = RouteRequest { pinned: Some(worker), ..request(id, 4_000) };
        let now_ms = id as f64 * 10_000.0;
        router.route(now_ms, &pinned, &[], &[exact(0, 0), exact(1, 0)]).expect("room");
        let took_ms = if worker.0 == 0 { 800.0 } else { 160.0 };
        router.prefill_complete(now_ms + took_ms, RequestId(id), &Measured::default());
        router.finish(now_ms + took_ms + 100.0, RequestId(id), None);
    }
    let choice = router.select(1e7, &request(999, 4_000), &[], &[exact(0, 0), exact(1, 0)]).expect("room");
    assert_eq!(choice.worker, WorkerId(1));
    let slow = router.history().latest().expect("just made").candidates[0].terms.prefill_ms;
    assert!((slow - 800.0).abs() < 40.0, "{slow}");
}

#[test]
fn a_full_worker_is_passed_over_and_a_full_fleet_says_wait() {
    let mut router = router(|_| {}, 0);
    for _ in 0..2 {
        router.add_worker(WorkerProfile { most_requests: 1, ..WorkerProfile::default() });
    }
    let all = [exact(0, 50), exact(1, 0)];
    assert_eq!(router.route(0.0, &request(1, 1_600), &blocks(1_600), &all).expect("room").worker, WorkerId(0));
    assert_eq!(router.route(0.0, &request(2, 1_600), &blocks(1_600), &all).expect("room").worker, WorkerId(1));
    assert_eq!(router.route(0.0, &request(3, 1_600), &blocks(1_600), &all), Err(RouteError::Refused(Refusal::Full(2))));
}

#[test]
fn a_request_nobody_can_take_says_why() {
    let mut router = router(|_| {}, 1);
    let picky = RouteRequest { required: vec![("zone".into(), "moon".into())], ..request(1, 160) };
    let refusal = router.select(0.0, &picky, &[], &[exact(0, 0)]).expect_err("no moon");
    assert_eq!(refusal.to_string(), "none of 1 workers can take the request: required label missing");
    assert_eq!(router.select(0.0, &request(2, 160), &[], &[]), Err(Refusal::NoCandidates));
}

#[test]
fn direct_goes_where_it_is_told() {
    let mut router = router(|settings| settings.mode = Mode::Direct, 2);
    let all = [exact(0, 99), exact(1, 0)];
    let told = RouteRequest { pinned: Some(WorkerId(1)), ..request(1, 1_600) };
    assert_eq!(router.select(0.0, &told, &[], &all).expect("there").worker, WorkerId(1));
    assert_eq!(router.select(0.0, &request(2, 1_600), &[], &all), Err(Refusal::NotPinned));
}

#[test]
fn a_busy_fleet_weighs_own_work_more() {
    let mut router = router(|_| {}, 2);
    let all = [exact(0, 0), exact(1, 0)];
    router.select(0.0, &request(1, 16_000), &[], &all).expect("room");
    assert_eq!(router.history().latest().expect("made").weight, 1.0);
    for id in 2..20 {
        router.route(0.0, &request(id, 16_000), &[], &all).expect("room");
    }
    let weight = router.history().latest().expect("made").weight;
    assert!(weight > 1.5 && weight < 2.0, "{weight}");
}

#[test]
fn a_worker_that_leaves_gives_back_its_requests_and_its_id() {
    let mut router = router(|_| {}, 2);
    let pinned = RouteRequest { pinned: Some(WorkerId(0)), ..request(1, 1_600) };
    router.route(0.0, &pinned, &blocks(1_600), &[exact(0, 0)]).expect("room");
    assert_eq!(router.remove_worker(1.0, WorkerId(0)), [RequestId(1)]);
    assert_eq!(
        router.select(2.0, &request(2, 160), &[], &[exact(0, 0)]).map(|choice| choice.worker),
        Err(Refusal::Excluded { candidates: 1, first: Excluded::NotRegistered })
    );
    assert_eq!(router.add_worker(WorkerProfile::default()), WorkerId(0));
    assert_eq!(router.load(WorkerId(0)), Load::default());
}

#[test]
fn a_lost_request_stops_counting_when_its_lease_ends() {
    let mut router = router(|settings| settings.lease_ms = 100.0, 1);
    router.route(0.0, &request(1, 1_600), &blocks(1_600), &[exact(0, 0)]).expect("room");
    assert_eq!(router.expire(100.0), [RequestId(1)]);
    assert_eq!((router.load(WorkerId(0)), router.counters().lost), (Load::default(), 1));
}

#[test]
fn coming_blocks_are_on_the_device_whatever_medium_they_come_from() {
    let reach = Reach { blocks: 10, by_medium: [2, 3, 5, 0] };
    assert_eq!(with_coming(reach, 4), Reach { blocks: 10, by_medium: [4, 1, 5, 0] });
    assert_eq!(with_coming(reach, 12), Reach { blocks: 12, by_medium: [12, 0, 0, 0] });
}

#[test]
fn a_long_prompt_is_prefilled_elsewhere_when_that_is_quicker() {
    let mut router = router(|_| {}, 0);
    let profile = |role, node: &str| WorkerProfile { role, node: node.into(), block_bytes: 2 << 20, ..WorkerProfile::default() };
    let decode = router.add_worker(profile(Role::Decode, "a"));
    let prefill = router.add_worker(profile(Role::Prefill, "a"));
    router.route(0.0, &request(1, 32_000), &blocks(32_000), &[exact(0, 0), exact(1, 0)]).expect("room");
    let all = [exact(0, 0), exact(1, 0)];
    let other: Vec<LocalHash> = (9_000..11_000).map(LocalHash).collect();
    let split = router.select_split(1.0, &request(2, 32_000), &other, &all).expect("a decoder");
    assert_eq!((split.decode.worker, split.prefill.map(|choice| choice.worker)), (decode, Some(prefill)));
    assert_eq!(split.reason, crate::route::SplitReason::ElsewhereIsQuicker);
    assert!(split.home_ms > split.elsewhere_ms.expect("asked") && split.transfer_ms > 0.0);
    let short = router.select_split(1.0, &request(3, 800), &[], &all).expect("a decoder");
    assert_eq!((short.prefill, short.reason), (None, crate::route::SplitReason::Short));
    let there = router.select_split(1.0, &request(4, 32_000), &other, &[exact(0, 1_900), exact(1, 0)]).expect("a decoder");
    assert_eq!((there.prefill, there.reason), (None, crate::route::SplitReason::HighHitRate));
}

#[test]
fn hints_count_the_blocks_of_the_answer() {
    let hints = Hints { output_tokens: 32, ..Hints::default() };
    assert_eq!(RouteRequest { hints, ..request(1, 33) }.total_blocks(), 5);
}

/// Three workers as in docs/routing.md: one idle and empty, one busy with half of the prompt, one that would have to load most of it.
fn worked_example() -> Router {
    let mut router = router(|_| {}, 3);
    let before = RouteRequest { pinned: Some(WorkerId(1)), ..request(1, 4_000) };
    router.route(0.0, &before, &[], &[exact(1, 0)]).expect("room");
    let loads = Known::Exact(Reach { blocks: 450, by_medium: [50, 300, 100, 0] });
    let all = [exact(0, 0), exact(1, 400), Candidate { worker: WorkerId(2), known: loads }];
    router.route(40.0, &request(2, 8_000), &blocks(8_000), &all).expect("room");
    router
}

#[test]
fn the_page_shows_what_explain_prints() {
    let page = include_str!("../../../../docs/routing.md");
    let text = worked_example().explain(RequestId(2)).expect("kept");
    for line in text.lines() {
        assert!(page.contains(line.trim_end()), "docs/routing.md lacks this line:\n{line}\nof\n{text}");
    }
}
