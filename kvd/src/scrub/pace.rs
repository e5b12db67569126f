//! How fast to scrub: a debt of bytes that time pays off.

use crate::settings::ScrubSettings;
use std::time::{Duration, Instant};

/// Time that may be saved up, so that short sleeps which take longer than asked do not slow the pass.
const MOST_CREDIT: Duration = Duration::from_millis(100);

/// Bytes per second that spread a pass over its days, at most what is allowed, never nothing.
pub fn rate(settings: &ScrubSettings, used_bytes: u64) -> u64 {
    let most = settings.bytes_per_second.0;
    let spread = used_bytes.checked_div(u64::from(settings.pass_days) * 86_400).unwrap_or(most);
    spread.min(most).max(1)
}

/// What has been read and not yet been paid for.
#[derive(Debug)]
pub struct Pace {
    debt_bytes: f64,
    paid: Instant,
}

impl Pace {
    /// Nothing owed at `now`.
    pub fn new(now: Instant) -> Pace {
        Pace { debt_bytes: 0.0, paid: now }
    }

    /// `bytes` were read.
    pub fn spent(&mut self, bytes: u64) {
        self.debt_bytes += bytes as f64;
    }

    /// How long to wait from `now` on at `rate` bytes per second; zero when the next image is due.
    pub fn wait(&mut self, now: Instant, rate: u64) -> Duration {
        let rate = rate as f64;
        let paid = now.duration_since(self.paid).as_secs_f64() * rate;
        self.paid = now;
        self.debt_bytes = (self.debt_bytes - paid).max(-rate * MOST_CREDIT.as_secs_f64());
        Duration::try_from_secs_f64((self.debt_bytes / rate).max(0.0)).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ByteSize;

    fn settings(pass_days: u32) -> ScrubSettings {
        ScrubSettings { bytes_per_second: ByteSize(32 << 20), pass_days, ..ScrubSettings::default() }
    }

    #[test]
    fn a_pass_is_spread_over_its_days_and_never_faster_than_allowed() {
        assert_eq!(rate(&settings(1), 86_400 * 1000), 1000);
        assert_eq!(rate(&settings(7), 7 * 86_400 * 1000), 1000);
        assert_eq!(rate(&settings(1), 1 << 50), 32 << 20);
        assert_eq!(rate(&settings(0), 5), 32 << 20, "zero days: as fast as allowed");
        assert_eq!(rate(&settings(1), 0), 1);
    }

    #[test]
    fn what_was_read_is_waited_for_and_idle_time_is_not_saved_up() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = Pace::new(start);
        assert_eq!(pace.wait(at(0), 1000), Duration::ZERO);
        assert_eq!(pace.wait(at(3_600_000), 1000), Duration::ZERO);
        pace.spent(2000);
        assert_eq!(pace.wait(at(3_600_000), 1000).as_millis(), 1900, "a tenth of a second was saved up");
        assert_eq!(pace.wait(at(3_601_900), 1000).as_millis(), 0);
    }
}
