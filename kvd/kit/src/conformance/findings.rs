//! What was found: one verdict a check, for people and for programs.

use serde::Serialize;
use std::time::Duration;

/// What became of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The promise was kept.
    Passed,
    /// The promise was broken.
    Failed,
    /// The target did not answer in time; nothing after it was tried.
    Hung,
    /// Not tried.
    Skipped,
}

impl Verdict {
    /// As tables say it.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "FAILED",
            Verdict::Hung => "HUNG",
            Verdict::Skipped => "skipped",
        }
    }
}

/// One check that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub name: &'static str,
    /// What it belongs to.
    pub group: &'static str,
    /// What is promised.
    pub promise: &'static str,
    /// What became of it.
    pub verdict: Verdict,
    /// What was found, what was measured, or why it was not tried; may be empty.
    pub detail: String,
    /// How long it took.
    #[serde(rename = "took_ms", serialize_with = "milliseconds")]
    pub took: Duration,
}

fn milliseconds<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((took.as_secs_f64() * 1e6).round() / 1e3)
}

/// How many checks ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Promises kept.
    pub passed: usize,
    /// Promises broken.
    pub failed: usize,
    /// Without an answer.
    pub hung: usize,
    /// Not tried.
    pub skipped: usize,
}

/// Name and version of the form of the JSON file.
pub const SCHEMA: &str = "kvd-conformance/1";

/// A whole run. As JSON it is the file that `--json` writes; `docs/conformance.md` describes it.
#[derive(Debug, Clone, Serialize)]
pub struct Findings {
    /// Name and version of the form of this file.
    pub schema: &'static str,
    /// The program.
    pub kvd: &'static str,
    /// What was examined.
    pub target: String,
    /// When, milliseconds since 1970.
    pub started_unix_ms: u64,
    /// How long it took.
    pub took_ms: u64,
    /// Bytes of the target that were used.
    pub bytes: u64,
    /// What the machine says of the target: name and value.
    pub facts: Vec<(String, String)>,
    /// How many checks ended how.
    pub counts: Counts,
    /// Somebody stopped it.
    pub interrupted: bool,
    /// The checks, in order.
    pub checks: Vec<Finding>,
}

impl Findings {
    /// Counts what `checks` says.
    pub fn count(checks: &[Finding]) -> Counts {
        let ended = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
        Counts {
            passed: ended(Verdict::Passed),
            failed: ended(Verdict::Failed),
            hung: ended(Verdict::Hung),
            skipped: ended(Verdict::Skipped),
        }
    }

    /// Whether no promise was broken and the target always answered.
    pub fn is_conformant(&self) -> bool {
        self.counts.failed == 0 && self.counts.hung == 0
    }

    /// One sentence.
    pub fn summary(&self) -> String {
        let Counts { passed, failed, hung, skipped } = self.counts;
        let verdict = match (self.is_conformant(), self.interrupted) {
            (false, _) => "NOT CONFORMANT",
            (true, true) => "stopped before its end",
            (true, false) => "conformant",
        };
        let seconds = self.took_ms as f64 / 1e3;
        format!("{verdict}: {passed} passed, {failed} failed, {hung} hung, {skipped} skipped in {seconds:.1} s")
    }
}
