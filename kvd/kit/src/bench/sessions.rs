//! How many sessions a medium sustains with first tokens in time: tried twice as many each time, then between.

use super::error::BenchError;
use super::plan::FindSessions;
use serde::Serialize;
use std::time::Duration;

/// Percentage of first tokens that must come in time.
pub const IN_TIME_PERCENT: f64 = 95.0;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sessions {
    /// The objective: 95 % of first tokens within this.
    pub ttft_objective_ms: f64,
    /// The greatest number tried that met it; zero when one session did not.
    pub sustained: usize,
    /// True when the search ended because no more may be tried.
    pub reached_most: bool,
    /// Everything tried, in order.
    pub tried: Vec<Trial>,
}

/// One number of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trial {
    /// Sessions at once.
    pub sessions: usize,
    /// Requests done.
    pub requests: u64,
    /// 95 % of first tokens came within this, in milliseconds.
    pub ttft_p95_ms: f64,
    /// Loads in this time.
    pub load_gb_per_s: f64,
    /// Whether that meets the objective.
    pub sustained: bool,
}

/// Searches. `attempt(sessions)`: requests done, 95th percentile of first tokens, GB/s; `None` when a person wants the end.
pub fn find(
    search: &FindSessions,
    mut attempt: impl FnMut(usize) -> Result<Option<(u64, Duration, f64)>, BenchError>,
) -> Result<Sessions, BenchError> {
    let mut tried: Vec<Trial> = Vec::new();
    let (mut good, mut bad) = (0, None);
    while let Some(sessions) = next(good, bad, search.most) {
        let Some((requests, p95, load_gb_per_s)) = attempt(sessions)? else { break };
        let sustained = requests > 0 && p95 <= search.ttft;
        tried.push(Trial { sessions, requests, ttft_p95_ms: p95.as_secs_f64() * 1e3, load_gb_per_s, sustained });
        if sustained { good = sessions } else { bad = Some(sessions) }
    }
    let reached_most = good == search.most;
    Ok(Sessions { ttft_objective_ms: search.ttft.as_secs_f64() * 1e3, sustained: good, reached_most, tried })
}

/// The number to try when `good` is known to be sustained and `bad` not to be. Near enough is an eighth.
fn next(good: usize, bad: Option<usize>, most: usize) -> Option<usize> {
    match bad {
        None if good == most => None,
        None => Some((good * 2).clamp(1, most)),
        Some(bad) if bad - good <= (good / 8).max(1) => None,
        Some(bad) => Some(good + (bad - good) / 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(most: usize, limit: usize) -> Sessions {
        let search = FindSessions { ttft: Duration::from_millis(100), step: Duration::from_secs(1), most };
        let attempt = |sessions| Ok(Some((10, Duration::from_millis(if sessions <= limit { 100 } else { 101 }), 1.0)));
        find(&search, attempt).unwrap()
    }

    #[test]
    fn the_limit_is_found_within_an_eighth() {
        let found = search(1024, 5);
        assert_eq!(found.sustained, 5);
        assert_eq!(found.tried.iter().map(|trial| trial.sessions).collect::<Vec<_>>(), [1, 2, 4, 8, 6, 5]);
        let found = search(1024, 100);
        assert!((88..=100).contains(&found.sustained), "{}", found.sustained);
    }

    #[test]
    fn a_medium_that_sustains_none_and_one_that_sustains_all_are_told_apart() {
        assert_eq!((search(64, 0).sustained, search(64, 0).reached_most), (0, false));
        assert_eq!((search(64, 900).sustained, search(64, 900).reached_most), (64, true));
    }

    #[test]
    fn no_request_done_is_not_sustained() {
        let most = FindSessions { ttft: Duration::from_secs(1), step: Duration::from_secs(1), most: 4 };
        assert_eq!(find(&most, |_| Ok(Some((0, Duration::ZERO, 0.0)))).unwrap().sustained, 0);
    }
}
