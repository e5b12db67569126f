//! From which length on loading a prefix beats computing it again.
//!
//! Loads of different lengths give a line: so much for any load, so much for each token. Computing has no fixed part, so loading
//! wins from the length where the lines cross, if it costs less for each token.

use serde::Serialize;

/// A load costs `fixed_ms + us_per_token × tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LoadCost {
    /// What a load costs whatever its length, in milliseconds.
    pub fixed_ms: f64,
    /// What each token adds, in microseconds.
    pub us_per_token: f64,
    /// Loads that the line was drawn through.
    pub loads: usize,
    /// An engine that computes fewer tokens a second than this gains by loading, from some length on.
    pub beats_prefill_below_tokens_per_s: f64,
}

/// The line through `samples` of (tokens, seconds) with the least squares. `None` when they do not give one: too few, all of one
/// length, or falling.
pub fn load_cost(samples: &[(f64, f64)]) -> Option<LoadCost> {
    let count = samples.len() as f64;
    if samples.len() < 3 {
        return None;
    }
    let mean = |value: fn(&(f64, f64)) -> f64| samples.iter().map(value).sum::<f64>() / count;
    let (mean_tokens, mean_seconds) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let spread: f64 = samples.iter().map(|(tokens, _)| (tokens - mean_tokens).powi(2)).sum();
    let together: f64 = samples.iter().map(|(tokens, seconds)| (tokens - mean_tokens) * (seconds - mean_seconds)).sum();
    let slope = together / spread;
    let fixed = mean_seconds - slope * mean_tokens;
    // A load of nothing costs nothing at least: where the best line says less, the best one through zero is taken.
    let through_zero =
        || samples.iter().map(|(tokens, seconds)| tokens * seconds).sum::<f64>() / samples.iter().map(|(x, _)| x * x).sum::<f64>();
    let (fixed, per_token) = if fixed < 0.0 { (0.0, through_zero()) } else { (fixed, slope) };
    (slope.is_finite() && per_token > 0.0).then(|| LoadCost {
        fixed_ms: fixed * 1e3,
        us_per_token: per_token * 1e6,
        loads: samples.len(),
        beats_prefill_below_tokens_per_s: 1.0 / per_token,
    })
}

impl LoadCost {
    /// The length in tokens from which loading beats computing at `tokens_per_second`; `None` when it never does.
    pub fn break_even_tokens(&self, tokens_per_second: f64) -> Option<f64> {
        let saved_us = 1e6 / tokens_per_second - self.us_per_token;
        (saved_us > 0.0).then(|| (self.fixed_ms * 1e3 / saved_us).ceil())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_through_exact_samples_is_found() {
        let samples: Vec<_> = (1..50).map(|n| (n as f64 * 100.0, 0.002 + n as f64 * 100.0 * 20e-6)).collect();
        let cost = load_cost(&samples).unwrap();
        assert!((cost.fixed_ms - 2.0).abs() < 1e-6 && (cost.us_per_token - 20.0).abs() < 1e-6, "{cost:?}");
        assert!((cost.beats_prefill_below_tokens_per_s - 50_000.0).abs() < 0.1);
        // 10,000 tokens/s are 100 µs a token, of which loading saves 80: 2 ms are worth 25 tokens.
        assert!((cost.break_even_tokens(10_000.0).unwrap() - 25.0).abs() <= 1.0);
        assert_eq!(cost.break_even_tokens(60_000.0), None);
    }

    #[test]
    fn a_load_of_nothing_never_costs_less_than_nothing() {
        let cost = load_cost(&[(1000.0, 0.001), (2000.0, 0.004), (3000.0, 0.006)]).unwrap();
        assert_eq!(cost.fixed_ms, 0.0);
        assert!((cost.us_per_token - 27.0 / 14.0).abs() < 1e-9, "{cost:?}");
    }

    #[test]
    fn samples_without_a_line_give_none() {
        assert_eq!(load_cost(&[(1.0, 1.0), (2.0, 2.0)]), None);
        assert_eq!(load_cost(&[(5.0, 1.0), (5.0, 2.0), (5.0, 3.0)]), None);
        assert_eq!(load_cost(&[(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]), None);
    }
}
