//! Policies by the names they have in a configuration file.

use kvd_ledger::{Admission, Eviction};
use serde::{Deserialize, Serialize};

/// Which block leaves a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvictionChoice {
    /// [`Eviction::Density`].
    #[default]
    Density,
    /// [`Eviction::Lineage`].
    Lineage,
    /// [`Eviction::Cost`].
    Cost,
    /// [`Eviction::Sieve`].
    Sieve,
    /// [`Eviction::Lru`].
    Lru,
}

impl From<EvictionChoice> for Eviction {
    fn from(choice: EvictionChoice) -> Eviction {
        match choice {
            EvictionChoice::Density => Eviction::Density,
            EvictionChoice::Lineage => Eviction::Lineage,
            EvictionChoice::Cost => Eviction::Cost,
            EvictionChoice::Sieve => Eviction::Sieve,
            EvictionChoice::Lru => Eviction::Lru,
        }
    }
}

/// Which blocks are written to storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdmissionChoice {
    /// [`Admission::Always`].
    #[default]
    Always,
    /// [`Admission::SecondTouch`].
    SecondTouch,
    /// [`Admission::TinyLfu`].
    TinyLfu,
}

impl From<AdmissionChoice> for Admission {
    fn from(choice: AdmissionChoice) -> Admission {
        match choice {
            AdmissionChoice::Always => Admission::Always,
            AdmissionChoice::SecondTouch => Admission::SecondTouch,
            AdmissionChoice::TinyLfu => Admission::TinyLfu,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Settings, parse};

    #[test]
    fn policies_are_named_in_the_file() {
        let text = "[arena]\neviction = \"lineage\"\n[nvme]\nadmission = \"tiny-lfu\"\nwrites_per_day = 1.5\n";
        let settings = parse(text, "here").expect("valid");
        assert_eq!((settings.arena.eviction, settings.nvme.eviction), (EvictionChoice::Lineage, EvictionChoice::Density));
        assert_eq!((settings.nvme.admission, settings.nvme.writes_per_day), (AdmissionChoice::TinyLfu, Some(1.5)));
    }

    #[test]
    fn an_unknown_policy_is_refused_with_the_names_there_are() {
        let error = parse("[arena]\neviction = \"arc\"\n", "here").expect_err("unknown").to_string();
        assert!(error.contains("lineage"), "{error}");
    }

    #[test]
    fn what_is_written_by_default_is_what_the_ledger_does_by_default() {
        let settings = Settings::default();
        assert_eq!(Eviction::from(settings.arena.eviction), Eviction::default());
        assert_eq!(Admission::from(settings.nvme.admission), Admission::default());
    }
}
