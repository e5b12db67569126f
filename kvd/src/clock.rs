//! The only clock: milliseconds since the daemon started, and wall time for what people read.

use kvd_block::Tick;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Ticks of this process. Copies agree.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now, at tick zero.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Now.
    pub fn now(&self) -> Tick {
        Tick(self.0.elapsed().as_millis() as u64)
    }

    /// When `tick` is reached, rounded up: a sleeper never wakes too early.
    pub fn instant(&self, tick: Tick) -> Instant {
        self.0 + Duration::from_millis(tick.0)
    }
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
