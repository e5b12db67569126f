//! Makes the checks one after another, each with a clock.
//!
//! A check runs on a thread of its own. When it does not end in time its verdict is `hung`, its thread is left to itself, and
//! nothing more is tried: a target that does not answer cannot be opened again.

use super::findings::{Finding, Verdict};
use super::prepare::ConformanceError;
use kvd_shm::Arena;
use kvd_tiers::conformance::{self, Check, Medium, Outcome, Stage};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How often the clock and a wish to stop are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is made, and how long each check may take.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The checks, in order.
    pub checks: Vec<Check>,
    /// Longer than this is hung.
    pub patience: Duration,
    /// Becomes true when somebody wants it to end.
    pub stop: Arc<AtomicBool>,
}

/// What happens, for a live table.
#[derive(Debug)]
pub enum Moment<'a> {
    /// A check begins.
    Begins(&'a Check),
    /// A check is over.
    Over(&'a Finding),
}

/// The checks that `only` names, by name or by group; all of them when it names none.
pub fn chosen(only: &[String]) -> Result<Vec<Check>, ConformanceError> {
    let all = conformance::checks();
    for name in only {
        if !all.iter().any(|check| check.name == name || check.group.name() == name) {
            let names = all.iter().flat_map(|check| [check.name, check.group.name()]);
            let likely = names.map(|known| (strsim::jaro_winkler(name, known), known)).filter(|(likeness, _)| *likeness > 0.7);
            let nearest = likely.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known);
            return Err(ConformanceError::NoSuchCheck { name: name.clone(), nearest });
        }
    }
    let wanted = |check: &Check| only.is_empty() || only.iter().any(|name| check.name == name || check.group.name() == name);
    Ok(all.into_iter().filter(wanted).collect())
}

/// Makes the checks on `medium`, telling of each. Every check of the plan gets a finding.
pub fn run<M: Medium + 'static>(medium: &Arc<M>, arena: &Arc<Arena>, plan: &Plan, mut tell: impl FnMut(Moment<'_>)) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::with_capacity(plan.checks.len());
    for check in &plan.checks {
        let finding = match findings.iter().find(|finding| finding.verdict == Verdict::Hung) {
            _ if plan.stop.load(Ordering::Relaxed) => skipped(check, "stopped before it was tried".into()),
            Some(hung) => skipped(check, format!("not tried: the target never answered in `{}`", hung.name)),
            None => {
                tell(Moment::Begins(check));
                watched(medium, arena, plan, check)
            }
        };
        tell(Moment::Over(&finding));
        findings.push(finding);
    }
    findings
}

fn skipped(check: &Check, detail: String) -> Finding {
    finding(check, Verdict::Skipped, detail, Duration::ZERO)
}

fn finding(check: &Check, verdict: Verdict, detail: String, took: Duration) -> Finding {
    Finding { name: check.name, group: check.group.name(), promise: check.promise, verdict, detail, took }
}

fn watched<M: Medium + 'static>(medium: &Arc<M>, arena: &Arc<Arena>, plan: &Plan, check: &Check) -> Finding {
    let (sender, results) = channel();
    let (medium, arena, made) = (medium.clone(), arena.clone(), *check);
    let started = Instant::now();
    let thread = std::thread::Builder::new().name("kvd-check".into()).spawn(move || make(&*medium, arena, &made, &sender));
    if let Err(error) = thread {
        return skipped(check, format!("no thread could be started: {error}"));
    }
    loop {
        match results.recv_timeout(LOOK_EVERY) {
            Ok(found) => return judged(check, found),
            Err(RecvTimeoutError::Disconnected) => {
                return finding(check, Verdict::Failed, "the check ended in a panic: see the text above".into(), started.elapsed());
            }
            Err(RecvTimeoutError::Timeout) if plan.stop.load(Ordering::Relaxed) => {
                return finding(check, Verdict::Skipped, "stopped in the middle of it".into(), started.elapsed());
            }
            Err(RecvTimeoutError::Timeout) if started.elapsed() > plan.patience => {
                let why = format!("no end after {:.0} s: a request was never answered, or far too slowly", plan.patience.as_secs_f64());
                return finding(check, Verdict::Hung, why, started.elapsed());
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn make(medium: &dyn Medium, arena: Arc<Arena>, check: &Check, sender: &Sender<conformance::Finding>) {
    let found = check.run(&Stage::new(medium, arena));
    // Nobody listens to a check that was given up.
    let _ = sender.send(found);
}

fn judged(check: &Check, found: conformance::Finding) -> Finding {
    let (verdict, detail) = match found.outcome {
        Outcome::Passed { note } => (Verdict::Passed, note),
        Outcome::Failed { why } => (Verdict::Failed, why),
        Outcome::Skipped { why } => (Verdict::Skipped, why),
    };
    finding(check, verdict, detail, found.took)
}
