//! The findings as a page for people.

use super::findings::{Finding, Findings, Verdict};
use crate::page::{Cell, Mood, Page, Part, Table};

/// The whole HTML file.
pub fn html(findings: &Findings) -> String {
    let mut page = Page::new(format!("Conformance of {}", findings.target));
    page.lead = findings.summary();
    page.facts = findings.facts.clone();
    page.fact("Space used", format!("{:.1} MiB", findings.bytes as f64 / f64::from(1 << 20)));
    page.fact("Begun", format!("{} (seconds since 1970)", findings.started_unix_ms / 1000));
    let bad: Vec<&Finding> = findings.checks.iter().filter(|check| matches!(check.verdict, Verdict::Failed | Verdict::Hung)).collect();
    if !bad.is_empty() {
        let mut parts =
            vec![Part::from("These promises were broken. kvd turns what it finds damaged into misses; wrong bytes it cannot find.")];
        let mut table = Table::new(["check", "promise", "what was found"]);
        for check in bad {
            table.row(vec![Cell::Code(check.name.into()), Cell::Text(check.promise.into()), Cell::Text(check.detail.clone())]);
        }
        parts.push(table.into());
        page.section("What is wrong", parts);
    }
    let mut groups: Vec<&str> = findings.checks.iter().map(|check| check.group).collect();
    groups.dedup();
    for group in groups {
        let mut table = Table::new(["check", "promise", "verdict", "time", "remark"]);
        findings.checks.iter().filter(|check| check.group == group).for_each(|check| table.row(row(check)));
        page.section(heading(group), vec![table.into()]);
    }
    page.section(
        "How to read this",
        vec![
            "A check tries one promise. Passed: it was kept in this run. Failed: it was broken, and the remark says how. Hung: a request was \
             never answered. Skipped: it could not be tried here, and the remark says what is missing; a skipped check says nothing."
                .into(),
            "A loss of power is not among the checks: start kvd on the device, store under load, pull its plug, start kvd again and run `kvctl verify`.".into(),
        ],
    );
    page.render()
}

fn heading(group: &str) -> &'static str {
    match group {
        "basics" => "The contract",
        "limits" => "More than fits",
        "concurrency" => "Many at once",
        "data" => "What is in the blocks",
        "durability" => "Closed and opened again",
        "crash" => "Killed in the middle",
        _ => "A medium that fails",
    }
}

fn row(check: &Finding) -> Vec<Cell> {
    let mood = match check.verdict {
        Verdict::Passed => Mood::Passed,
        Verdict::Failed | Verdict::Hung => Mood::Failed,
        Verdict::Skipped => Mood::Skipped,
    };
    vec![
        Cell::Code(check.name.into()),
        Cell::Text(check.promise.into()),
        Cell::Badge(mood, check.verdict.word().into()),
        Cell::Number(format!("{:.1} ms", check.took.as_secs_f64() * 1e3)),
        Cell::Text(check.detail.clone()),
    ]
}
