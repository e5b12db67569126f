//! From priced candidates to one of them. Pure: what is random is drawn from the request's own lot, so that the order in which
//! candidates are given never matters and a decision can be repeated.

use super::decision::Priced;
use super::request::{RequestId, WorkerId};
use super::settings::Mode;

/// Prices closer than this are equal, in milliseconds.
const TIE_MS: f64 = 1e-6;

/// A source of chance for one request.
#[derive(Debug, Clone, Copy)]
pub struct Lot(u64);

impl Lot {
    /// The lot of `request` at a router with `seed`.
    pub fn of(seed: u64, request: RequestId) -> Lot {
        Lot(mix(seed ^ mix(request.0)))
    }

    /// What `worker` draws: uniform, and different for each.
    fn draw(self, worker: WorkerId) -> u64 {
        mix(self.0 ^ mix(u64::from(worker.0) + 1))
    }

    /// The same between 0 and 1, neither included.
    fn uniform(self, worker: WorkerId) -> f64 {
        ((self.draw(worker) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// The winner among those that are not excluded, as an index; `None` when all are. `last` is round robin's memory.
pub fn pick(mode: Mode, priced: &[Priced], lot: Lot, temperature_ms: f64, last: &mut Option<WorkerId>) -> Option<usize> {
    match mode {
        Mode::Kv | Mode::Approximate if temperature_ms > 0.0 => softmax(priced, lot, temperature_ms),
        Mode::Kv | Mode::Approximate => least(priced, lot, |priced| priced.terms.total_ms),
        Mode::LeastLoaded => least_loaded(priced, lot),
        Mode::PowerOfTwo => power_of_two(priced, lot),
        Mode::Random => by(priced, |priced| lot.draw(priced.worker)),
        Mode::RoundRobin => {
            let next = round_robin(priced, *last)?;
            *last = Some(priced[next].worker);
            Some(next)
        }
        // Whoever is not the one named is excluded.
        Mode::Direct => by(priced, |priced| priced.worker),
    }
}

/// The candidates that can be chosen.
fn open(priced: &[Priced]) -> impl Iterator<Item = (usize, &Priced)> {
    priced.iter().enumerate().filter(|(_, priced)| priced.excluded.is_none())
}

fn by<K: Ord>(priced: &[Priced], key: impl Fn(&Priced) -> K) -> Option<usize> {
    open(priced).min_by_key(|(_, priced)| key(priced)).map(|(at, _)| at)
}

/// The least of `cost`, ties by lot.
fn least(priced: &[Priced], lot: Lot, cost: impl Fn(&Priced) -> f64) -> Option<usize> {
    let lowest = open(priced).map(|(_, priced)| cost(priced)).min_by(f64::total_cmp)?;
    let ties = open(priced).filter(|(_, priced)| cost(priced) <= lowest + TIE_MS);
    ties.min_by_key(|(_, priced)| lot.draw(priced.worker)).map(|(at, _)| at)
}

fn less_loaded(a: &Priced, b: &Priced) -> std::cmp::Ordering {
    let ms = if (a.terms.queue_ms - b.terms.queue_ms).abs() <= TIE_MS { 0.0 } else { a.terms.queue_ms - b.terms.queue_ms };
    ms.total_cmp(&0.0).then(a.requests.cmp(&b.requests))
}

fn least_loaded(priced: &[Priced], lot: Lot) -> Option<usize> {
    let order = |a: &Priced, b: &Priced| less_loaded(a, b).then_with(|| lot.draw(a.worker).cmp(&lot.draw(b.worker)));
    open(priced).min_by(|(_, a), (_, b)| order(a, b)).map(|(at, _)| at)
}

fn power_of_two(priced: &[Priced], lot: Lot) -> Option<usize> {
    let first = by(priced, |priced| lot.draw(priced.worker))?;
    let others = open(priced).filter(|(at, _)| *at != first);
    let Some((second, _)) = others.min_by_key(|(_, priced)| lot.draw(priced.worker)) else { return Some(first) };
    Some(if less_loaded(&priced[second], &priced[first]).is_lt() { second } else { first })
}

fn round_robin(priced: &[Priced], last: Option<WorkerId>) -> Option<usize> {
    let is_before = |priced: &Priced| last.is_some_and(|last| priced.worker <= last);
    by(priced, |priced| (is_before(priced), priced.worker))
}

/// Chooses with a probability proportional to `exp(-total / temperature)`: the least of `total + temperature · Gumbel noise`.
fn softmax(priced: &[Priced], lot: Lot, temperature_ms: f64) -> Option<usize> {
    let noisy = |priced: &Priced| priced.terms.total_ms + temperature_ms * (-lot.uniform(priced.worker).ln()).ln();
    open(priced).min_by(|(_, a), (_, b)| noisy(a).total_cmp(&noisy(b))).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::price::Terms;
    use crate::route::request::Excluded;
    use proptest::prelude::*;

    fn priced(worker: u32, total_ms: f64, queue_ms: f64) -> Priced {
        let terms = Terms { total_ms, queue_ms, ..Terms::default() };
        Priced { worker: WorkerId(worker), terms, ..Priced::default() }
    }

    fn chosen(mode: Mode, all: &[Priced], request: u64) -> u32 {
        let at = pick(mode, all, Lot::of(1, RequestId(request)), 0.0, &mut None).expect("somebody");
        all[at].worker.0
    }

    #[test]
    fn kv_takes_the_cheapest_and_least_loaded_the_idlest() {
        let all = [priced(0, 10.0, 1.0), priced(1, 5.0, 3.0), priced(2, 7.0, 0.0)];
        assert_eq!(chosen(Mode::Kv, &all, 1), 1);
        assert_eq!(chosen(Mode::LeastLoaded, &all, 1), 2);
    }

    #[test]
    fn ties_are_spread_over_requests() {
        let all: Vec<Priced> = (0..4).map(|worker| priced(worker, 5.0, 0.0)).collect();
        let mut counts = [0; 4];
        (0..4_000).for_each(|request| counts[chosen(Mode::Kv, &all, request) as usize] += 1);
        assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
    }

    #[test]
    fn round_robin_goes_round_by_worker_and_skips_who_is_excluded() {
        let mut all: Vec<Priced> = [2, 0, 1].map(|worker| priced(worker, 0.0, 0.0)).into();
        all[2].excluded = Some(Excluded::Full);
        let mut last = None;
        let turns = [(); 4].map(|()| all[pick(Mode::RoundRobin, &all, Lot(0), 0.0, &mut last).expect("somebody")].worker.0);
        assert_eq!(turns, [0, 2, 0, 2]);
    }

    #[test]
    fn of_two_drawn_the_busier_is_never_taken() {
        let all: Vec<Priced> = (0..3).map(|worker| priced(worker, 0.0, f64::from(worker))).collect();
        assert!((0..100).all(|request| chosen(Mode::PowerOfTwo, &all, request) != 2));
        assert_eq!(chosen(Mode::PowerOfTwo, &all[2..], 1), 2, "alone it is");
    }

    #[test]
    fn temperature_spreads_by_price() {
        let all = [priced(0, 0.0, 0.0), priced(1, 10.0, 0.0)];
        let first = |request| pick(Mode::Kv, &all, Lot::of(1, RequestId(request)), 10.0, &mut None) == Some(0);
        let share = (0..10_000).filter(|request| first(*request)).count() as f64 / 10_000.0;
        let expected = 1.0 / (1.0 + (-1.0f64).exp());
        assert!((share - expected).abs() < 0.02, "{share} {expected}");
    }

    #[test]
    fn nobody_is_chosen_when_all_are_excluded() {
        let all = [Priced { excluded: Some(Excluded::Full), ..Priced::default() }];
        assert!(Mode::ALL.iter().all(|(_, mode)| pick(*mode, &all, Lot(0), 0.0, &mut None).is_none()));
    }

    proptest! {
        #[test]
        fn the_order_of_candidates_never_matters(costs in proptest::collection::vec((0u8..4, 0u8..3), 1..12), by in 0usize..12, request: u64) {
            let all: Vec<Priced> =
                (0u32..).zip(&costs).map(|(worker, (total, queue))| priced(worker, f64::from(*total), f64::from(*queue))).collect();
            let mut turned = all.clone();
            turned.rotate_left(by % all.len());
            for (_, mode) in Mode::ALL {
                prop_assert_eq!(chosen(mode, &all, request), chosen(mode, &turned, request));
            }
        }
    }
}
