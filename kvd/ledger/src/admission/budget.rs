//! How much may be written to the drive.
//!
//! Makers of drives say how often a day the whole drive may be written for its years of warranty. The budget is a bucket of bytes that
//! fills evenly and holds at most what an hour allows. What an hour allows is kept back once from every day's filling, so in any
//! window of a day or longer no more is written than the drive writes per day times its days, bursts included; in any shorter one
//! at most an hour's worth more than its part.

use kvd_block::Tick;

const DAY_MS: u128 = 86_400_000;
const HOURS_A_DAY: u128 = 24;

/// A bucket of bytes.
#[derive(Debug, Clone)]
pub struct WriteBudget {
    /// Bytes a day, of which the last hour's worth is kept back.
    bytes_a_day: u128,
    /// Bytes × milliseconds of a day, so that nothing is rounded.
    credit: u128,
    filled_at: Tick,
}

impl WriteBudget {
    /// A full bucket for a medium of this size, to be written `writes_per_day` times a day.
    pub fn new(capacity_bytes: u64, writes_per_day: f64) -> WriteBudget {
        let bytes_a_day = (capacity_bytes as f64 * writes_per_day.max(0.0)) as u128;
        WriteBudget { bytes_a_day, credit: burst(bytes_a_day), filled_at: Tick(0) }
    }

    /// Whether so much may be written now.
    pub fn allows(&mut self, now: Tick, bytes: u64) -> bool {
        self.fill(now);
        self.credit >= cost(bytes)
    }

    /// Takes what is written. Only after [`WriteBudget::allows`].
    pub fn take(&mut self, bytes: u64) {
        self.credit = self.credit.checked_sub(cost(bytes)).expect("allowed before it is taken");
    }

    fn fill(&mut self, now: Tick) {
        let elapsed = u128::from(now.since_ms(self.filled_at));
        self.filled_at = self.filled_at.max(now);
        let filling = self.bytes_a_day * (HOURS_A_DAY - 1) / HOURS_A_DAY * elapsed;
        self.credit = (self.credit + filling).min(burst(self.bytes_a_day));
    }
}

fn burst(bytes_a_day: u128) -> u128 {
    bytes_a_day * DAY_MS / HOURS_A_DAY
}

fn cost(bytes: u64) -> u128 {
    u128::from(bytes) * DAY_MS
}
