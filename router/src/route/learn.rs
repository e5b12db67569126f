//! How fast each worker is, learnt from what requests really took.
//!
//! A prefill takes `fixed + a · tokens + b · pairs` milliseconds: `tokens` are those to compute, `pairs` the (token, attended token)
//! pairs, which dominate beyond some ten thousand tokens. A decode step takes `c + d · batch`. Both are fitted by least squares over
//! relative errors, in which an observation loses half its weight after about 50 more. One observation moves the fit by a factor
//! of [`MOST_SURPRISE`] at most, so that a hiccup is forgotten, and a worker that is slow for real is believed after a few.
//! Nothing here is ever negative or not a number.

use crate::settings::section::section;
use serde::{Deserialize, Serialize};

/// Weight of all earlier observations when one more is made: `0.5 ^ (1 / 50)`.
const MEMORY: f64 = 0.986;
/// An observation counts as at most so many times the prediction, or one part in so many.
const MOST_SURPRISE: f64 = 2.0;
/// What is left of the weight of the first belief when one more observation is made, and what always is.
const BELIEF_MEMORY: f64 = 0.9;
const LEAST_BELIEF: f64 = 1e-4;
/// Errors of so few milliseconds are noise whatever is predicted.
const NOISE_MS: f64 = 1.0;
/// Nothing is predicted to take longer: a day.
const MOST_MS: f64 = 86_400_000.0;
/// Weight of the newest of bandwidth observations.
const BANDWIDTH_STEP: f64 = 0.1;
/// A transfer of fewer bytes says nothing about bandwidth.
const LEAST_BYTES: f64 = 1e6;

/// Prefill work: additive, so that a queue of it can be priced at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Work {
    /// Tokens to compute.
    pub tokens: u64,
    /// Pairs of a token to compute and one that it attends to.
    pub pairs: u64,
}

impl Work {
    /// What is left of a prompt of which `cached` tokens are there.
    pub fn of(prompt_tokens: u64, cached_tokens: u64) -> Work {
        let cached = cached_tokens.min(prompt_tokens);
        let tokens = prompt_tokens - cached;
        Work { tokens, pairs: tokens.saturating_mul(cached).saturating_add(tokens.saturating_mul(tokens) / 2) }
    }

    /// Both together.
    pub fn plus(self, other: Work) -> Work {
        Work { tokens: self.tokens.saturating_add(other.tokens), pairs: self.pairs.saturating_add(other.pairs) }
    }

    /// What is left without `other`.
    pub fn less(self, other: Work) -> Work {
        Work { tokens: self.tokens.saturating_sub(other.tokens), pairs: self.pairs.saturating_sub(other.pairs) }
    }
}

section! {
    #[derive(Copy)]
    /// What is believed of a worker before it served anything. The defaults are Llama-3.1-8B on an H100.
    StartSpeeds in "route.start" {
        /// Milliseconds that any prefill takes.
        prefill_fixed_ms: f64 = 10.0, "10.0";
        /// Tokens of a short prompt per second.
        prefill_tokens_per_s: f64 = 26_000.0, "26000.0";
        /// Tokens of context at which attending costs as much as all the rest.
        attention_tokens: f64 = 30_000.0, "30000.0";
        /// GB per second from device, host, disk and elsewhere; what is on the device needs no loading.
        onboard_gb_per_s: [f64; 4] = [0.0, 50.0, 7.0, 2.0], "[0.0, 50.0, 7.0, 2.0]";
        /// Milliseconds of a decode step of one request.
        decode_step_ms: f64 = 8.0, "8.0";
        /// Milliseconds that each further request adds to a step.
        decode_request_ms: f64 = 0.05, "0.05";
    }
}

/// A linear model with `N` coefficients, none of them negative.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Fit<const N: usize> {
    moments: [[f64; N]; N],
    targets: [f64; N],
    /// What the fit falls back to where nothing was observed: moments and targets of the belief.
    belief: ([[f64; N]; N], [f64; N]),
    belief_weight: f64,
    /// What was believed first: errors are relative to it, so that old and new observations weigh the same however speeds change.
    start: [f64; N],
    theta: [f64; N],
}

impl<const N: usize> Fit<N> {
    /// Believes `theta`, as if it had been seen at each of `points`.
    fn believing(theta: [f64; N], points: &[[f64; N]]) -> Fit<N> {
        let mut belief = ([[0.0; N]; N], [0.0; N]);
        for point in points {
            let expected = dot(&theta, point);
            accumulate(&mut belief.0, &mut belief.1, point, expected, (expected + NOISE_MS).powi(-2));
        }
        Fit { moments: [[0.0; N]; N], targets: [0.0; N], belief, belief_weight: 1.0, start: theta, theta }
    }

    /// Believes `theta` from now on instead of what was believed at the start.
    fn believe(&mut self, theta: [f64; N], points: &[[f64; N]]) {
        self.belief = ([[0.0; N]; N], [0.0; N]);
        for point in points {
            let weight = (dot(&self.start, point) + NOISE_MS).powi(-2);
            accumulate(&mut self.belief.0, &mut self.belief.1, point, dot(&theta, point), weight);
        }
        self.solve();
    }

    fn predict(&self, at: &[f64; N]) -> f64 {
        dot(&self.theta, at).clamp(0.0, MOST_MS)
    }

    fn observe(&mut self, at: &[f64; N], took_ms: f64) {
        if !took_ms.is_finite() || took_ms < 0.0 || at.iter().any(|value| !value.is_finite()) {
            return;
        }
        let expected = self.predict(at) + NOISE_MS;
        let took = (took_ms + NOISE_MS).clamp(expected / MOST_SURPRISE, expected * MOST_SURPRISE) - NOISE_MS;
        for row in 0..N {
            self.moments[row].iter_mut().for_each(|moment| *moment *= MEMORY);
            self.targets[row] *= MEMORY;
        }
        self.belief_weight = (self.belief_weight * BELIEF_MEMORY).max(LEAST_BELIEF);
        let weight = (dot(&self.start, at) + NOISE_MS).powi(-2);
        accumulate(&mut self.moments, &mut self.targets, at, took.max(0.0), weight);
        self.solve();
    }

    /// Least squares without negative coefficients: whatever comes out negative is set to zero and the rest solved again.
    fn solve(&mut self) {
        let mut used = [true; N];
        for _ in 0..N {
            let mut moments = self.moments;
            let mut targets = self.targets;
            for row in 0..N {
                for column in 0..N {
                    moments[row][column] += self.belief_weight * self.belief.0[row][column];
                    if !used[row] || !used[column] {
                        moments[row][column] = if row == column { 1.0 } else { 0.0 };
                    }
                }
                targets[row] = if used[row] { targets[row] + self.belief_weight * self.belief.1[row] } else { 0.0 };
            }
            let Some(theta) = eliminate(moments, targets) else { return };
            let worst = (0..N).filter(|row| theta[*row] < 0.0).min_by(|a, b| theta[*a].total_cmp(&theta[*b]));
            match worst {
                Some(row) => used[row] = false,
                None => {
                    self.theta = theta;
                    return;
                }
            }
        }
    }
}

fn dot<const N: usize>(a: &[f64; N], b: &[f64; N]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn accumulate<const N: usize>(moments: &mut [[f64; N]; N], targets: &mut [f64; N], at: &[f64; N], value: f64, weight: f64) {
    for row in 0..N {
        for column in 0..N {
            moments[row][column] += weight * at[row] * at[column];
        }
        targets[row] += weight * at[row] * value;
    }
}

/// Gauss with pivoting; `None` when there is no finite answer.
fn eliminate<const N: usize>(mut moments: [[f64; N]; N], mut targets: [f64; N]) -> Option<[f64; N]> {
    for pivot in 0..N {
        let best = (pivot..N).max_by(|a, b| moments[*a][pivot].abs().total_cmp(&moments[*b][pivot].abs()))?;
        moments.swap(pivot, best);
        targets.swap(pivot, best);
        if moments[pivot][pivot] == 0.0 {
            return None;
        }
        for row in pivot + 1..N {
            let factor = moments[row][pivot] / moments[pivot][pivot];
            let above = moments[pivot];
            moments[row].iter_mut().zip(above).skip(pivot).for_each(|(moment, above)| *moment -= factor * above);
            targets[row] -= factor * targets[pivot];
        }
    }
    let mut theta = [0.0; N];
    for row in (0..N).rev() {
        let known: f64 = (row + 1..N).map(|column| moments[row][column] * theta[column]).sum();
        theta[row] = (targets[row] - known) / moments[row][row];
    }
    theta.iter().all(|value| value.is_finite()).then_some(theta)
}

/// What one worker, or the fleet on average, is capable of.
#[derive(Debug, Clone, PartialEq)]
pub struct Speeds {
    prefill: Fit<3>,
    decode: Fit<2>,
    /// Milliseconds a byte, by medium.
    onboard_ms_per_byte: [f64; 4],
    /// How long a request holds its blocks on average.
    held_ms: f64,
    observed: u64,
}

/// Prompts at which a belief is held: short, long, and short behind a long prefix.
fn prefill_points() -> [[f64; 3]; 4] {
    [(200, 0), (4_000, 0), (32_000, 0), (34_000, 32_000)].map(|(prompt, cached)| prefill_point(1.0, Work::of(prompt, cached)))
}

/// Batches at which one is.
const DECODE_POINTS: [[f64; 2]; 2] = [[1.0, 1.0], [1.0, 64.0]];
/// A worker that computed fewer prompts is thought to be like the others.
const SOME_PREFILLS: u64 = 16;
/// How long a request is thought to hold its blocks before any ended.
const START_HELD_MS: f64 = 5_000.0;
/// Weight of the newest of those times.
const HELD_STEP: f64 = 0.05;

/// Scales that bring the features of usual requests near 1.
const TOKEN_SCALE: f64 = 1e-3;
const PAIR_SCALE: f64 = 1e-7;

fn prefill_point(requests: f64, work: Work) -> [f64; 3] {
    [requests, work.tokens as f64 * TOKEN_SCALE, work.pairs as f64 * PAIR_SCALE]
}

impl Speeds {
    /// What `start` says.
    pub fn new(start: &StartSpeeds) -> Speeds {
        let per_token = 1000.0 / start.prefill_tokens_per_s.max(1.0);
        let per_pair = per_token / start.attention_tokens.max(1.0);
        let rate = |gb_per_s: f64| if gb_per_s > 0.0 { 1.0 / (gb_per_s * 1e6) } else { 0.0 };
        Speeds::from_parts(
            [start.prefill_fixed_ms.max(0.0), per_token / TOKEN_SCALE, per_pair / PAIR_SCALE],
            [start.decode_step_ms.max(0.0), start.decode_request_ms.max(0.0)],
            start.onboard_gb_per_s.map(rate),
        )
    }

    fn from_parts(prefill: [f64; 3], decode: [f64; 2], onboard_ms_per_byte: [f64; 4]) -> Speeds {
        Speeds {
            prefill: Fit::believing(prefill, &prefill_points()),
            decode: Fit::believing(decode, &DECODE_POINTS),
            onboard_ms_per_byte,
            held_ms: START_HELD_MS,
            observed: 0,
        }
    }

    /// As long as little is known of a worker, what others learn is believed of it too.
    pub fn follow(&mut self, fleet: &Speeds) {
        if self.observed < SOME_PREFILLS {
            self.prefill.believe(fleet.prefill.theta, &prefill_points());
            self.decode.believe(fleet.decode.theta, &DECODE_POINTS);
            self.onboard_ms_per_byte = fleet.onboard_ms_per_byte;
            self.held_ms = fleet.held_ms;
        }
    }

    /// Whether it has shown enough to be judged by itself.
    pub fn is_known(&self) -> bool {
        self.observed >= SOME_PREFILLS
    }

    /// A worker that nothing is known about but that it is like these.
    pub fn like(&self) -> Speeds {
        Speeds::from_parts(self.prefill.theta, self.decode.theta, self.onboard_ms_per_byte)
    }

    /// How long `requests` prefills of `work` in total take, one after the other.
    pub fn prefill_ms(&self, requests: u64, work: Work) -> f64 {
        self.prefill.predict(&prefill_point(requests as f64, work))
    }

    /// How long a decode step with so many requests takes.
    pub fn decode_step_ms(&self, batch: u64) -> f64 {
        self.decode.predict(&[1.0, batch as f64])
    }

    /// What so many requests add to a step that happens anyway.
    pub fn decode_share_ms(&self, batch: u64) -> f64 {
        (self.decode.theta[1] * batch as f64).clamp(0.0, MOST_MS)
    }

    /// How long loading so many bytes takes; `medium` is a `Medium as usize`.
    pub fn onboard_ms(&self, medium: usize, bytes: u64) -> f64 {
        (self.onboard_ms_per_byte[medium] * bytes as f64).clamp(0.0, MOST_MS)
    }

    /// A prefill took so long. What is not a time, or no work, is ignored.
    pub fn prefill_took(&mut self, work: Work, took_ms: f64) {
        if work.tokens > 0 {
            self.prefill.observe(&prefill_point(1.0, work), took_ms);
            self.observed += 1;
        }
    }

    /// A token took so long on average while so many requests were decoding.
    pub fn decode_took(&mut self, batch: u64, ms_per_token: f64) {
        if batch > 0 {
            self.decode.observe(&[1.0, batch as f64], ms_per_token);
        }
    }

    /// A request held its blocks so long, from the beginning of its prefill to the end of its answer.
    pub fn was_held(&mut self, took_ms: f64) {
        if took_ms.is_finite() && took_ms >= 0.0 {
            self.held_ms += HELD_STEP * (took_ms.min(MOST_MS) - self.held_ms);
        }
    }

    /// How long requests hold their blocks on average.
    pub fn held_ms(&self) -> f64 {
        self.held_ms
    }

    /// Loading so many bytes took so long.
    pub fn onboard_took(&mut self, medium: usize, bytes: u64, took_ms: f64) {
        let bytes = bytes as f64;
        if !took_ms.is_finite() || took_ms < 0.0 || bytes < LEAST_BYTES || medium == 0 || medium > 3 {
            return;
        }
        let rate = &mut self.onboard_ms_per_byte[medium];
        let observed = took_ms / bytes;
        let believed = if *rate > 0.0 { *rate } else { observed };
        let observed = observed.clamp(believed / MOST_SURPRISE, believed * MOST_SURPRISE);
        *rate = believed + BANDWIDTH_STEP * (observed - believed);
    }

    /// Prefills it learnt from.
    pub fn observed(&self) -> u64 {
        self.observed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(work: Work) -> f64 {
        20.0 + work.tokens as f64 * 0.1 + work.pairs as f64 * 4e-6
    }

    fn some_work(index: u64) -> Work {
        Work::of(200 + index * 7_919 % 30_000, index * 104_729 % 9_000)
    }

    fn taught(from: u64, to: u64, speeds: &mut Speeds, slower: f64) {
        (from..to).map(some_work).for_each(|work| speeds.prefill_took(work, truth(work) * slower));
    }

    fn error(speeds: &Speeds, slower: f64) -> f64 {
        let relative = |work: Work| (speeds.prefill_ms(1, work) / (truth(work) * slower) - 1.0).abs();
        (500..600).map(some_work).filter(|work| work.tokens > 500).map(relative).fold(0.0, f64::max)
    }

    #[test]
    fn work_that_is_cached_still_attends_to_what_it_reuses() {
        assert_eq!(Work::of(1_000, 0), Work { tokens: 1_000, pairs: 500_000 });
        assert_eq!(Work::of(1_000, 900), Work { tokens: 100, pairs: 95_000 });
        assert_eq!(Work::of(10, 20), Work::default());
    }

    #[test]
    fn a_worker_is_believed_after_a_hundred_requests() {
        let mut speeds = Speeds::new(&StartSpeeds::default());
        taught(0, 100, &mut speeds, 1.0);
        assert!(error(&speeds, 1.0) < 0.05, "{}", error(&speeds, 1.0));
    }

    #[test]
    fn a_worker_that_became_ten_times_slower_is_priced_so() {
        let mut speeds = Speeds::new(&StartSpeeds::default());
        taught(0, 100, &mut speeds, 1.0);
        taught(100, 500, &mut speeds, 10.0);
        assert!(error(&speeds, 10.0) < 0.15, "{}", error(&speeds, 10.0));
    }

    #[test]
    fn one_hiccup_changes_little() {
        let mut speeds = Speeds::new(&StartSpeeds::default());
        taught(0, 200, &mut speeds, 1.0);
        speeds.prefill_took(Work::of(2_000, 0), 60_000.0);
        assert!(error(&speeds, 1.0) < 0.2, "{}", error(&speeds, 1.0));
    }

    #[test]
    fn what_is_no_time_is_ignored() {
        let mut speeds = Speeds::new(&StartSpeeds::default());
        let before = speeds.clone();
        for nonsense in [f64::NAN, f64::INFINITY, -1.0] {
            speeds.prefill_took(Work::of(100, 0), nonsense);
            speeds.decode_took(3, nonsense);
            speeds.onboard_took(1, 1 << 30, nonsense);
        }
        assert_eq!(
            (speeds.prefill, speeds.decode, speeds.onboard_ms_per_byte),
            (before.prefill, before.decode, before.onboard_ms_per_byte)
        );
    }

    #[test]
    fn bandwidth_follows_what_is_seen() {
        let mut speeds = Speeds::new(&StartSpeeds::default());
        (0..200).for_each(|_| speeds.onboard_took(2, 1_000_000_000, 500.0));
        assert!((speeds.onboard_ms(2, 1_000_000_000) - 500.0).abs() < 1.0);
    }

    #[test]
    fn a_new_worker_is_thought_to_be_like_the_others() {
        let mut fleet = Speeds::new(&StartSpeeds::default());
        taught(0, 200, &mut fleet, 1.0);
        assert!(error(&fleet.like(), 1.0) < 0.05);
        assert_eq!(fleet.like().observed(), 0);
    }

    proptest::proptest! {
        #[test]
        fn predictions_are_finite_and_never_negative(seen in proptest::collection::vec((0u64..200_000, 0u64..200_000, 0f64..1e7), 0..60)) {
            let mut speeds = Speeds::new(&StartSpeeds::default());
            for (prompt, cached, took) in seen {
                speeds.prefill_took(Work::of(prompt, cached), took);
                speeds.decode_took(prompt % 300, took);
                let guess = speeds.prefill_ms(1, Work::of(cached, prompt / 2));
                proptest::prop_assert!(guess.is_finite() && guess >= 0.0);
                proptest::prop_assert!(speeds.decode_step_ms(7).is_finite());
            }
        }
    }
}
