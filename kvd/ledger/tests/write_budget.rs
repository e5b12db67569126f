//! The write budget is kept over any window of a day or longer, however writes are asked for.

use kvd_block::Tick;
use kvd_ledger::admission::budget::WriteBudget;
use proptest::prelude::*;

const DAY_MS: u64 = 86_400_000;
const HOUR_MS: u64 = DAY_MS / 24;

/// Asks in the order given; `(when, bytes)` of what was written.
fn written(capacity: u64, writes_per_day: f64, asked: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut budget = WriteBudget::new(capacity, writes_per_day);
    let mut now = 0;
    let mut written = Vec::new();
    for (pause_ms, bytes) in asked {
        now += pause_ms;
        while budget.allows(Tick(now), *bytes) {
            budget.take(*bytes);
            written.push((now, *bytes));
        }
    }
    written
}

proptest! {
    #[test]
    fn no_window_of_a_day_or_longer_exceeds_the_budget(
        capacity in 1_000_000u64..1_000_000_000_000,
        writes_per_day in 0.01f64..20.0,
        parts in prop::collection::vec((0u64..4 * HOUR_MS, 30u64..10_000), 1..60),
    ) {
        let a_day = capacity as f64 * writes_per_day;
        let asked: Vec<(u64, u64)> = parts.iter().map(|(pause_ms, part)| (*pause_ms, (a_day / 24.0 / 100.0 * *part as f64 / 30.0) as u64 + 1)).collect();
        let written = written(capacity, writes_per_day, &asked);
        for (first, (from, _)) in written.iter().enumerate() {
            let mut bytes = 0.0;
            for (until, more) in &written[first..] {
                bytes += *more as f64;
                let window_ms = (until - from) as f64;
                let day_or_longer = window_ms.max(DAY_MS as f64);
                prop_assert!(bytes <= a_day * day_or_longer / DAY_MS as f64, "{bytes} bytes in {window_ms} ms of {a_day} a day");
                let with_burst = a_day / 24.0 + a_day * window_ms / DAY_MS as f64;
                prop_assert!(bytes <= with_burst, "{bytes} bytes in {window_ms} ms, a burst included");
            }
        }
    }
}

#[test]
fn whoever_asks_all_day_gets_nearly_all_of_it() {
    let asked: Vec<(u64, u64)> = (0..10 * 24 * 60).map(|_| (60_000, 1_000)).collect();
    let bytes: u64 = written(1_000_000_000, 3.0, &asked).iter().map(|(_, bytes)| bytes).sum();
    let share = bytes as f64 / 30e9;
    assert!((0.95..1.0).contains(&share), "{share} of ten days' budget");
}

#[test]
fn a_budget_of_nothing_allows_nothing() {
    assert!(!WriteBudget::new(1 << 40, 0.0).allows(Tick(DAY_MS), 1));
}
