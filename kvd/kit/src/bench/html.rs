//! The report as a page with charts.

use super::report::Report;
use super::table::{bytes, count, figures, latency_rows, ms};
use crate::page::plot::{self, Axes, Series};
use crate::page::{Cell, Mood, Page, Part, Table};

/// The page.
pub fn page(report: &Report) -> Page {
    let mut page = Page::new(format!("KV cache on {}", report.target.url));
    page.lead = lead(report);
    facts(report, &mut page);
    if !report.warnings.is_empty() {
        page.section("Before quoting this", report.warnings.iter().map(|warning| Part::from(warning.as_str())).collect());
    }
    for (heading, rows) in figures(report) {
        let mut table = Table::new(["measured", "value"]);
        rows.into_iter().for_each(|(name, value)| table.row(vec![Cell::Text(name), Cell::Number(value)]));
        let mut parts = vec![table.into()];
        if heading == "Integrity" {
            parts.insert(0, verdict(report));
        }
        page.section(heading, parts);
        if heading == "Speed" {
            page.section("Latency", vec![latencies(report), distribution(report)]);
            page.section("Over time", vec![throughput(report), hit_rate(report)]);
        }
    }
    if let Some(sessions) = &report.sessions {
        let mut table = Table::new(["sessions", "requests", "first token, 95 %", "loaded", "sustained"]);
        for trial in &sessions.tried {
            let mood = if trial.sustained { Mood::Passed } else { Mood::Failed };
            table.row(vec![
                Cell::Number(count(trial.sessions as u64)),
                Cell::Number(count(trial.requests)),
                Cell::Number(ms(trial.ttft_p95_ms)),
                Cell::Number(format!("{:.2} GB/s", trial.load_gb_per_s)),
                Cell::Badge(mood, if trial.sustained { "yes" } else { "no" }.into()),
            ]);
        }
        page.section("Sessions tried", vec![table.into()]);
    }
    page
}

fn lead(report: &Report) -> String {
    let whole = if report.interrupted { "Ended early. " } else { "" };
    format!(
        "{whole}{:.2} GB/s loaded from storage, {:.2} GB/s written; half of all prefixes loaded within {}, 99 % within {}; {} wrong bytes in {} blocks compared.",
        report.load.storage_gb_per_s,
        report.store.written_gb_per_s,
        ms(report.latency_ms.load.p50),
        ms(report.latency_ms.load.p99),
        count(report.integrity.wrong_bytes),
        count(report.integrity.verified_blocks),
    )
}

fn facts(report: &Report, page: &mut Page) {
    let (target, model, run) = (&report.target, &report.model, &report.run);
    page.fact("target", &target.url);
    page.fact("reached by", &target.detail);
    if let (Some(disk), Some(capacity)) = (&target.disk, target.disk_capacity_bytes) {
        let name = target.disk_model.as_deref().unwrap_or_default();
        page.fact("disk", format!("{disk} {name} {}", bytes(capacity)));
    }
    page.fact("model", format!("{}, {} a token, {} rank(s)", model.name, bytes(model.bytes_per_token), model.ranks));
    page.fact("block", format!("{} tokens, {}", model.block_tokens, bytes(model.block_payload_bytes)));
    page.fact("trace", format!("{} ({})", report.trace.file, report.trace.format));
    page.fact("load", format!("{} loop, {} at once, speed {}", run.pace, run.concurrency, run.speed));
    page.fact("measured", format!("{:.1} s after {:.1} s of warm-up, {} requests", run.measured_s, run.warm_up_s, count(run.requests)));
    page.fact("memory between", bytes(run.arena_bytes));
    page.fact("kvd", report.kvd_version);
}

fn verdict(report: &Report) -> Part {
    let mut table = Table::new(["promise", "verdict"]);
    let (mood, word) = if report.is_sound() { (Mood::Passed, "kept") } else { (Mood::Failed, "broken") };
    table.row(vec![Cell::Text("never a wrong byte".into()), Cell::Badge(mood, word.into())]);
    table.into()
}

fn latencies(report: &Report) -> Part {
    let mut table = Table::new(["latency", "count", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"]);
    for (name, row) in latency_rows(report).into_iter().filter(|(_, row)| row.count > 0) {
        let mut cells = vec![Cell::Text(name.trim().into()), Cell::Number(count(row.count))];
        cells.extend([row.mean, row.p50, row.p90, row.p99, row.p99_9, row.p99_99, row.max].map(|value| Cell::Number(ms(value))));
        table.row(cells);
    }
    table.into()
}

fn distribution(report: &Report) -> Part {
    let axes = Axes::new("Latency: share of loads that took no longer", "latency (ms)", "loads (%)").log_x();
    let series: Vec<Series> = report.distributions.iter().map(|(name, points)| Series::new(name.clone(), points.clone())).collect();
    plot::cdf(&axes, &series).into()
}

fn throughput(report: &Report) -> Part {
    let line = |name: &str, value: fn(&super::report::TimelinePoint) -> f64| {
        Series::new(name, report.timeline.iter().map(|point| (point.at_s, value(point))).collect())
    };
    let series = [
        line("loaded from storage", |point| point.storage_load_gb_per_s),
        line("loaded from memory", |point| point.arena_load_gb_per_s),
        line("stored", |point| point.store_gb_per_s),
    ];
    plot::lines(&Axes::new("Throughput", "time (s)", "GB/s"), &series).into()
}

fn hit_rate(report: &Report) -> Part {
    let points = report.timeline.iter().filter_map(|point| Some((point.at_s, point.hit_rate? * 100.0))).collect();
    plot::lines(&Axes::new("Tokens found in the cache", "time (s)", "tokens (%)"), &[Series::new("hit rate", points)]).into()
}
