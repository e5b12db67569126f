//! The live table on a terminal or in a log.

use super::findings::{Finding, Verdict};
use super::suite::Moment;
use kvd_tiers::conformance::Check;
use std::io::{self, Write};

/// Prints verdicts as they come.
#[derive(Debug)]
pub struct LiveTable<W> {
    out: W,
    /// On a terminal the check that runs is shown, and verdicts are coloured.
    terminal: bool,
}

impl<W: Write> LiveTable<W> {
    /// A table without lines.
    pub fn new(out: W, terminal: bool) -> LiveTable<W> {
        LiveTable { out, terminal }
    }

    /// Shows what happens.
    pub fn tell(&mut self, moment: &Moment<'_>) -> io::Result<()> {
        match moment {
            Moment::Begins(check) => self.begins(check),
            Moment::Over(finding) => self.over(finding),
        }
    }

    fn begins(&mut self, check: &Check) -> io::Result<()> {
        if self.terminal {
            write!(self.out, "…        {}", check.name)?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn over(&mut self, finding: &Finding) -> io::Result<()> {
        let (start, end) = match (self.terminal, finding.verdict) {
            (false, _) => ("", ""),
            (true, Verdict::Passed) => ("\r\x1b[K\x1b[32m", "\x1b[0m"),
            (true, Verdict::Failed | Verdict::Hung) => ("\r\x1b[K\x1b[1;31m", "\x1b[0m"),
            (true, Verdict::Skipped) => ("\r\x1b[K\x1b[2m", "\x1b[0m"),
        };
        let took = format!("{:.1} ms", finding.took.as_secs_f64() * 1e3);
        writeln!(self.out, "{start}{:8}{end} {:20} {took:>11}  {}", finding.verdict.word(), finding.name, finding.promise)?;
        if !finding.detail.is_empty() {
            writeln!(self.out, "{:43}{}", "", finding.detail)?;
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_failure_is_shown_with_what_was_found() {
        let finding = Finding {
            name: "same-bytes",
            group: "basics",
            promise: "The promise.",
            verdict: Verdict::Failed,
            detail: "byte 7 is another".into(),
            took: Duration::from_millis(12),
        };
        let mut out = Vec::new();
        LiveTable::new(&mut out, false).tell(&Moment::Over(&finding)).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("FAILED   same-bytes"), "{text}");
        assert!(text.contains("12.0 ms  The promise.\n") && text.ends_with("  byte 7 is another\n"), "{text}");
    }
}
