//! The report as text for a terminal, and how numbers are written for people.

use super::report::{Percentiles, Report};
use std::fmt::Write;

const UNITS: [(&str, u64); 6] =
    [("EiB", 1 << 60), ("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// A size for people: `1.5 GiB`.
pub fn bytes(bytes: u64) -> String {
    match UNITS.into_iter().find(|(_, scale)| bytes >= *scale) {
        Some((name, scale)) => format!("{:.1} {name}", bytes as f64 / scale as f64),
        None => format!("{bytes} B"),
    }
}

/// Milliseconds for people.
pub fn ms(value: f64) -> String {
    match value {
        value if value >= 10_000.0 => format!("{:.1} s", value / 1000.0),
        value if value >= 100.0 => format!("{value:.0} ms"),
        value if value >= 1.0 => format!("{value:.1} ms"),
        value => format!("{:.0} µs", value * 1000.0),
    }
}

/// Tokens, requests and blocks for people: `12,031`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The rows of the latency table, in the order of the report.
pub fn latency_rows(report: &Report) -> Vec<(&'static str, Percentiles)> {
    let latency = &report.latency_ms;
    vec![
        ("load of a request's prefix", latency.load),
        ("  the same, uncorrected", latency.load_uncorrected),
        ("first token", latency.first_token),
        ("block from storage", latency.storage_block),
        ("block from memory", latency.arena_block),
        ("store of a window", latency.store),
    ]
}

/// Name and value of everything that is one number, by heading.
pub fn figures(report: &Report) -> Vec<(&'static str, Vec<(String, String)>)> {
    let row = |name: &str, value: String| (name.to_owned(), value);
    let gb_per_s = |value: f64| format!("{value:.2} GB/s");
    let percent = |value: f64| format!("{:.1} %", value * 100.0);
    let (load, store, hits, cpu) = (&report.load, &report.store, &report.hits, &report.cpu);
    let mut speed = vec![
        row("loaded from storage", gb_per_s(load.storage_gb_per_s)),
        row("loaded from memory", gb_per_s(load.arena_gb_per_s)),
        row("stored into memory", gb_per_s(store.accepted_gb_per_s)),
        row("written to storage", gb_per_s(store.written_gb_per_s)),
    ];
    if let Some(ceiling) = &report.ceiling {
        let text = format!("{}; this run reached {} of it", gb_per_s(ceiling.moved_gb_per_s), percent(ceiling.share));
        speed.push(row("ceiling of this tool", text));
    }
    let cache = vec![
        row("tokens asked for", count(hits.asked_tokens)),
        row("hit", percent(hits.hit_rate)),
        row("hit on storage", percent(hits.storage_hit_rate)),
        row("blocks not taken, no slot", count(store.busy_blocks)),
        row("blocks lost before storage", count(store.lost_blocks)),
    ];
    let mut cost = vec![
        row("CPU of kvd", format!("{:.3} s/GiB", cpu.daemon_s_per_gib)),
        row("CPU of this tool", format!("{:.3} s/GiB", cpu.client_s_per_gib)),
    ];
    match &report.disk {
        Some(disk) => {
            let amplification = disk.write_amplification.map_or_else(|| "unknown".into(), |factor| format!("{factor:.2}"));
            cost.push(row("write amplification at the disk", amplification));
            cost.push(row("drive writes per day at this rate", format!("{:.2}", disk.drive_writes_per_day)));
        }
        None => cost.push(row("write amplification, drive writes", "unknown: no single disk under the target".into())),
    }
    let integrity = &report.integrity;
    let sound = vec![
        row("blocks compared byte for byte", count(integrity.verified_blocks)),
        row("wrong bytes delivered", count(integrity.wrong_bytes)),
        row("blocks refused by checksum", count(integrity.refused_blocks + integrity.corrupt_images)),
        row("found, but gone when loaded", count(integrity.missed_blocks)),
    ];
    vec![("Speed", speed), ("Cache", cache), ("Worth", worth(report)), ("Cost", cost), ("Integrity", sound)]
}

fn worth(report: &Report) -> Vec<(String, String)> {
    let row = |name: &str, value: String| (name.to_owned(), value);
    let mut worth = Vec::new();
    match &report.load_cost {
        Some(cost) => {
            worth.push(row("a load costs", format!("{} + {:.1} µs a token", ms(cost.fixed_ms), cost.us_per_token)));
            let below = count(cost.beats_prefill_below_tokens_per_s as u64);
            worth.push(row("beats computing below", format!("{below} tokens/s")));
        }
        None => worth.push(row("a load costs", "unknown: too few loads of different lengths".into())),
    }
    if let Some(speed) = report.run.simulated_prefill_tokens_per_s {
        let value = report.break_even_tokens.map_or_else(|| "never".into(), |tokens| format!("from {} tokens on", count(tokens as u64)));
        worth.push(row(&format!("beats computing at {} tokens/s", count(speed as u64)), value));
    }
    if let Some(sessions) = &report.sessions {
        let more = if sessions.reached_most { " or more" } else { "" };
        let name = format!("sessions with first token in {} (95 %)", ms(sessions.ttft_objective_ms));
        worth.push((name, format!("{}{more}", sessions.sustained)));
    }
    worth
}

/// The whole report.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    let (model, run) = (&report.model, &report.run);
    let _ = writeln!(out, "{} through kvd {}: {}", report.target.url, report.kvd_version, report.target.detail);
    let _ = writeln!(
        out,
        "{}: {} a token, blocks of {} tokens ({}); {} trace, {} loop, {} at once, {:.1} s, {} requests",
        model.name,
        bytes(model.bytes_per_token),
        model.block_tokens,
        bytes(model.block_payload_bytes),
        report.trace.format,
        run.pace,
        run.concurrency,
        run.measured_s,
        count(run.requests),
    );
    for (heading, rows) in figures(report) {
        let _ = writeln!(out, "\n{heading}");
        for (name, value) in rows {
            let _ = writeln!(out, "  {name:<44} {value}");
        }
    }
    let _ = writeln!(out, "\n{:<28}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}", "Latency", "p50", "p90", "p99", "p99.9", "p99.99", "max");
    for (name, row) in latency_rows(report).into_iter().filter(|(_, row)| row.count > 0) {
        let cells: String = [row.p50, row.p90, row.p99, row.p99_9, row.p99_99, row.max].map(|value| format!("{:>9}", ms(value))).concat();
        let _ = writeln!(out, "{name:<28}{cells}");
    }
    if !report.warnings.is_empty() {
        let _ = writeln!(out, "\nBefore quoting this");
    }
    for warning in &report.warnings {
        let _ = writeln!(out, "  * {warning}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!((bytes(1 << 60), bytes(3 << 29), bytes(12)), ("1.0 EiB".into(), "1.5 GiB".into(), "12 B".into()));
        assert_eq!((ms(0.25), ms(2.55), ms(120.4), ms(12_000.0)), ("250 µs".into(), "2.5 ms".into(), "120 ms".into(), "12.0 s".into()));
        assert_eq!((count(12_031), count(7), count(1_000_000)), ("12,031".into(), "7".into(), "1,000,000".into()));
    }
}
