//! The knobs of routing, each with its unit and default.

use super::learn::StartSpeeds;
use super::queue::QueueSettings;
use super::split::SplitSettings;
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

/// Section `[route]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteSettings {
    /// How a worker is chosen. Default `kv`.
    pub mode: Mode,
    /// Weight of a millisecond of own work (prefill and onboarding) beside one of waiting. Above 1 prefers reuse. Default 1.
    pub overlap_weight: f64,
    /// How much more own work weighs when all workers are busy: work made now is waited for by whoever comes next. 0 turns it off.
    /// Default 1.
    pub scarcity: f64,
    /// Softmax temperature over prices, in milliseconds; 0 takes the cheapest. Default 0.
    pub temperature_ms: f64,
    /// Part of the waiting time behind which onboarding hides, 0 to 1: engines that load while others compute have 1. Default 1.
    pub onboard_overlap: f64,
    /// Bonus for the worker that served the session last, in milliseconds. Default 5.
    pub affinity_ms: f64,
    /// How long a session is remembered after its last request, in milliseconds. Default 600,000.
    pub affinity_ttl_ms: f64,
    /// Sessions remembered at most. Default 100,000.
    pub affinity_sessions: usize,
    /// Bonus for each preferred label that a worker has, in milliseconds. Default 10.
    pub preferred_label_ms: f64,
    /// How long `approximate`, and a worker that became unknown, are believed to keep what was sent there, in milliseconds.
    /// Default 120,000.
    pub sent_ttl_ms: f64,
    /// Marks that the memory of own decisions holds at most, about 60 bytes each. Default 1,048,576.
    pub sent_marks: usize,
    /// Blocks between two marks of a prompt; the first 16 are marked one by one. Default 32.
    pub sent_stride_blocks: u32,
    /// How long events may take to tell of blocks that were just computed, in milliseconds. Default 1,000.
    pub confirm_ms: f64,
    /// A request that nobody finished is forgotten after so many milliseconds without a sign of it. Default 600,000.
    pub lease_ms: f64,
    /// Requests that may be reserved at a time. Default 1,000,000.
    pub active_requests: usize,
    /// Tokens that an engine computes in one step. Decodes in progress slow a prefill once a step. Default 8,192.
    pub prefill_chunk_tokens: u32,
    /// Memory of past decisions, for `explain`, in bytes. Default 8 MiB.
    pub history_bytes: usize,
    /// Breaks ties and draws what is random. Default 0.
    pub seed: u64,
    /// What a worker is thought to be capable of before it has shown it.
    pub start: StartSpeeds,
    /// Requests that wait for a worker.
    pub queue: QueueSettings,
    /// When the prefill goes to another worker.
    pub split: SplitSettings,
}

impl Default for RouteSettings {
    fn default() -> RouteSettings {
        RouteSettings {
            mode: Mode::Kv,
            overlap_weight: 1.0,
            scarcity: 1.0,
            temperature_ms: 0.0,
            onboard_overlap: 1.0,
            affinity_ms: 5.0,
            affinity_ttl_ms: 600_000.0,
            affinity_sessions: 100_000,
            preferred_label_ms: 10.0,
            sent_ttl_ms: 120_000.0,
            sent_marks: 1 << 20,
            sent_stride_blocks: 32,
            confirm_ms: 1_000.0,
            lease_ms: 600_000.0,
            active_requests: 1_000_000,
            prefill_chunk_tokens: 8_192,
            history_bytes: 8 << 20,
            seed: 0,
            start: StartSpeeds::default(),
            queue: QueueSettings::default(),
            split: SplitSettings::default(),
        }
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
