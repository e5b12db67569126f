//! The knobs of routing, each with its unit and default.

use super::learn::StartSpeeds;
use super::queue::QueueSettings;
use super::split::SplitSettings;
use crate::settings::section::section;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a worker is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The least time by the index, which events keep exact.
    #[default]
    Kv,
    /// The least time by what this router sent where lately: no events needed, no truth claimed.
    Approximate,
    /// The least work outstanding.
    LeastLoaded,
    /// Two at random, of which the one with less work outstanding.
    PowerOfTwo,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// The worker that the request names.
    Direct,
}

impl Mode {
    /// All of them, as settings and tables call them.
    pub const ALL: [(&'static str, Mode); 7] = [
        ("kv", Mode::Kv),
        ("approximate", Mode::Approximate),
        ("least_loaded", Mode::LeastLoaded),
        ("power_of_two", Mode::PowerOfTwo),
        ("round_robin", Mode::RoundRobin),
        ("random", Mode::Random),
        ("direct", Mode::Direct),
    ];

    /// The mode called `name`.
    pub fn named(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, mode)| mode)
    }

    /// True when the price of a candidate decides, reuse included.
    pub fn by_price(self) -> bool {
        matches!(self, Mode::Kv | Mode::Approximate)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Mode::ALL.into_iter().find(|(_, mode)| mode == self).map_or("", |(name, _)| name))
    }
}

section! {
    /// How requests find their workers: `docs/router.md` explains the prices.
    RouteSettings in "route" {
        /// How a worker is chosen: `kv`, `approximate`, `least_loaded`, `power_of_two`, `round_robin`, `random` or `direct`.
        mode: Mode = Mode::Kv, "\"kv\"";
        /// Weight of a millisecond of own work (prefill and onboarding) beside one of waiting. Above 1 prefers reuse.
        overlap_weight: f64 = 1.0, "1.0";
        /// How much more own work weighs when all workers are busy: work made now is waited for by whoever comes next. 0 turns it
        /// off.
        scarcity: f64 = 1.0, "1.0";
        /// Softmax temperature over prices, in milliseconds; 0 takes the cheapest.
        temperature_ms: f64 = 0.0, "0.0";
        /// Part of the waiting time behind which onboarding hides, 0 to 1: engines that load while others compute have 1.
        onboard_overlap: f64 = 1.0, "1.0";
        /// Bonus for the worker that served the session last, in milliseconds.
        affinity_ms: f64 = 5.0, "5.0";
        /// How long a session is remembered after its last request, in milliseconds.
        affinity_ttl_ms: f64 = 600_000.0, "600000.0";
        /// Sessions remembered at most.
        affinity_sessions: usize = 100_000, "100000";
        /// Bonus for each preferred label that a worker has, in milliseconds.
        preferred_label_ms: f64 = 10.0, "10.0";
        /// How long `approximate`, and a worker that became unknown, are believed to keep what was sent there, in milliseconds.
        sent_ttl_ms: f64 = 120_000.0, "120000.0";
        /// Marks that the memory of own decisions holds at most, about 60 bytes each.
        sent_marks: usize = 1 << 20, "1048576";
        /// Blocks between two marks of a prompt; the first 16 are marked one by one.
        sent_stride_blocks: u32 = 32, "32";
        /// How long events may take to tell of blocks that were just computed, in milliseconds.
        confirm_ms: f64 = 1_000.0, "1000.0";
        /// A request that nobody finished is forgotten after so many milliseconds without a sign of it.
        lease_ms: f64 = 600_000.0, "600000.0";
        /// Requests that may be reserved at a time.
        active_requests: usize = 1_000_000, "1000000";
        /// Tokens that an engine computes in one step. Decodes in progress slow a prefill once a step.
        prefill_chunk_tokens: u32 = 8_192, "8192";
        /// Memory of past decisions, for `explain`, in bytes.
        history_bytes: usize = 8 << 20, "8388608";
        /// Breaks ties and draws what is random.
        seed: u64 = 0, "0";
        + /// What a worker is thought to be capable of before it has shown it.
        start: StartSpeeds;
        + /// Requests that wait for a worker.
        queue: QueueSettings;
        + /// When the prefill goes to another worker.
        split: SplitSettings;
    }
}

/// A number that cannot be meant.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("[route] {name} = {value}: it must be {must}")]
pub struct WrongSetting {
    name: &'static str,
    value: f64,
    must: &'static str,
}

impl RouteSettings {
    /// Refuses numbers that would make prices meaningless.
    pub fn check(&self) -> Result<(), WrongSetting> {
        let at_least_0 = [
            ("overlap_weight", self.overlap_weight),
            ("scarcity", self.scarcity),
            ("temperature_ms", self.temperature_ms),
            ("affinity_ms", self.affinity_ms),
            ("affinity_ttl_ms", self.affinity_ttl_ms),
            ("preferred_label_ms", self.preferred_label_ms),
            ("sent_ttl_ms", self.sent_ttl_ms),
            ("confirm_ms", self.confirm_ms),
        ];
        let wrong = at_least_0.into_iter().find(|(_, value)| !value.is_finite() || *value < 0.0);
        if let Some((name, value)) = wrong {
            return Err(WrongSetting { name, value, must: "0 or more" });
        }
        if !(0.0..=1.0).contains(&self.onboard_overlap) {
            return Err(WrongSetting { name: "onboard_overlap", value: self.onboard_overlap, must: "between 0 and 1" });
        }
        let above_0 = [
            ("lease_ms", self.lease_ms),
            ("sent_stride_blocks", f64::from(self.sent_stride_blocks)),
            ("prefill_chunk_tokens", f64::from(self.prefill_chunk_tokens)),
        ];
        let wrong = above_0.into_iter().find(|(_, value)| !value.is_finite() || *value <= 0.0);
        wrong.map_or(Ok(()), |(name, value)| Err(WrongSetting { name, value, must: "above 0" }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_by_name_and_unknown_keys_are_refused() {
        let settings: RouteSettings = toml::from_str("mode = \"power_of_two\"\noverlap_weight = 2.0").expect("known keys");
        assert_eq!((settings.mode, settings.overlap_weight), (Mode::PowerOfTwo, 2.0));
        assert!(toml::from_str::<RouteSettings>("overlap_wieght = 2.0").is_err());
    }

    #[test]
    fn a_setting_without_meaning_is_refused_by_name() {
        let settings = RouteSettings { temperature_ms: f64::NAN, ..RouteSettings::default() };
        assert_eq!(settings.check().expect_err("not a number").to_string(), "[route] temperature_ms = NaN: it must be 0 or more");
        assert_eq!(RouteSettings::default().check(), Ok(()));
    }
}
