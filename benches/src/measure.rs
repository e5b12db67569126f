//! Running two things alternately, and the middle of what came out.

use std::hint::black_box;
use std::time::Instant;

/// What interleaved runs measured, in the order they ran; both sides are equally long.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Interleaved {
    /// One value per run of ours.
    pub ours: Vec<f64>,
    /// One value per run of the reference.
    pub reference: Vec<f64>,
}

impl Interleaved {
    /// Each value through `convert`, on both sides: seconds to GiB/s, say.
    pub fn map(&self, convert: impl Fn(f64) -> f64) -> Self {
        let side = |values: &[f64]| values.iter().copied().map(&convert).collect();
        Self { ours: side(&self.ours), reference: side(&self.reference) }
    }
}

/// Calls `ours` and `reference` `runs` times each, alternately; who goes first changes with every run.
///
/// Warming up is the caller's business: only it knows what a warm start means for its claim.
pub fn interleave(runs: usize, mut ours: impl FnMut() -> f64, mut reference: impl FnMut() -> f64) -> Interleaved {
    let mut measured = Interleaved::default();
    for run in 0..runs {
        if run % 2 == 0 {
            measured.ours.push(ours());
            measured.reference.push(reference());
        } else {
            measured.reference.push(reference());
            measured.ours.push(ours());
        }
    }
    measured
}

/// Seconds that `work` took. Its result is kept from the optimiser.
pub fn seconds<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_secs_f64()
}

/// The middle value; the mean of the two middle ones when their number is even; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The smallest value that at least `share` (0.0 to 1.0) of all values do not exceed; NaN of none.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let sorted = sorted(values);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_percentile_is_a_measured_value() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 50.0);
        assert_eq!(percentile(&values, 0.99), 99.0);
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert_eq!(percentile(&values, 1.0), 100.0);
    }

    #[test]
    fn the_two_sides_take_turns_in_going_first() {
        let order = std::cell::RefCell::new(String::new());
        let note = |who: char| {
            order.borrow_mut().push(who);
            0.0
        };
        interleave(3, || note('o'), || note('r'));
        assert_eq!(*order.borrow(), "orroor");
    }
}
