//! The only clock: milliseconds since the router started, and wall time for what people read.

use kvd_block::Tick;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Time of this process. Copies agree.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now, at zero.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Now, in whole milliseconds.
    pub fn now(&self) -> Tick {
        Tick(self.0.elapsed().as_millis() as u64)
    }

    /// Now, in milliseconds and their fractions.
    pub fn now_ms(&self) -> f64 {
        self.0.elapsed().as_secs_f64() * 1e3
    }
}

/// Nanoseconds since 1970.
pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
