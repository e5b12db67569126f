//! The result of a bench: printed for a person, written for a program.
//!
//! The JSON is `{"machine", "commit", "rows": [{"metric", "unit", "ours", "reference", "ratio", "runs"}]}`, in
//! `$KVD_BENCH_DIR/NAME.json`, by default `target/bench/NAME.json` below the directory the bench runs in.
//! `cargo xtask bench NAME` runs benches in the repository's root.

use std::path::PathBuf;
use std::{env, fmt, fs, io};

use serde::Serialize;

use crate::{Interleaved, commit, machine, median};

/// Which direction of a metric is the good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Throughput, hit rate.
    Higher,
    /// Time, memory.
    Lower,
}

/// One metric: the medians of both sides, and how they compare.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was measured, with its parameters.
    pub metric: String,
    /// The unit of `ours` and `reference`.
    pub unit: String,
    /// Median of our runs.
    pub ours: f64,
    /// Median of the reference's runs; none where a metric has nothing to be compared with.
    pub reference: Option<f64>,
    /// How many times better ours is: above 1.0 is better, whatever the unit.
    pub ratio: Option<f64>,
    /// Runs on each side.
    pub runs: usize,
}

impl Row {
    /// Ours against the reference.
    pub fn compare(metric: impl Into<String>, unit: &str, better: Better, measured: &Interleaved) -> Self {
        let (ours, reference) = (median(&measured.ours), median(&measured.reference));
        let ratio = match better {
            Better::Higher => ours / reference,
            Better::Lower => reference / ours,
        };
        Self {
            metric: metric.into(),
            unit: unit.into(),
            ours,
            reference: Some(reference),
            ratio: ratio.is_finite().then_some(ratio),
            runs: measured.ours.len(),
        }
    }

    /// A metric with no reference.
    pub fn alone(metric: impl Into<String>, unit: &str, values: &[f64]) -> Self {
        Self { metric: metric.into(), unit: unit.into(), ours: median(values), reference: None, ratio: None, runs: values.len() }
    }
}

/// All rows of one bench, with where and of what they were measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    #[serde(skip)]
    name: String,
    machine: String,
    commit: String,
    rows: Vec<Row>,
}

impl Report {
    /// An empty report of the bench `name`, about this machine and this commit.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), machine: machine(), commit: commit(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// The same report with one more row.
    pub fn with(mut self, row: Row) -> Self {
        self.push(row);
        self
    }

    /// Prints the table and writes the JSON.
    pub fn publish(&self) -> io::Result<()> {
        println!("{self}");
        let path = self.path();
        fs::create_dir_all(path.parent().expect("a file has a folder"))?;
        fs::write(&path, serde_json::to_string_pretty(self)? + "\n")?;
        println!("written to {}", path.display());
        Ok(())
    }

    fn path(&self) -> PathBuf {
        let folder = env::var_os("KVD_BENCH_DIR").map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
        folder.join(format!("{}.json", self.name))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} at {} on {}", self.name, self.commit, self.machine)?;
        let width = self.rows.iter().map(|row| row.metric.chars().count()).max().unwrap_or(0).max(6);
        writeln!(f, "{:width$}  {:>12}  {:>12}  {:8}  {:>6}  {:>4}", "metric", "ours", "reference", "unit", "ratio", "runs")?;
        for row in &self.rows {
            let reference = row.reference.map_or_else(|| "-".into(), number);
            let ratio = row.ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}"));
            writeln!(f, "{:width$}  {:>12}  {reference:>12}  {:8}  {ratio:>6}  {:>4}", row.metric, number(row.ours), row.unit, row.runs)?;
        }
        Ok(())
    }
}

/// Four significant digits, with thousands separated.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".into();
    }
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    let text = format!("{value:.*}", (3 - magnitude).clamp(0, 9) as usize);
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let grouped =
        digits.as_bytes().rchunks(3).rev().map(|chunk| std::str::from_utf8(chunk).expect("digits are ASCII")).collect::<Vec<_>>().join(",");
    fraction.map_or_else(|| format!("{sign}{grouped}"), |fraction| format!("{sign}{grouped}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(ours: f64, reference: f64) -> Interleaved {
        Interleaved { ours: vec![ours], reference: vec![reference] }
    }

    #[test]
    fn a_ratio_above_one_is_better_for_times_and_for_rates() {
        assert_eq!(Row::compare("t", "s", Better::Lower, &measured(1.0, 2.0)).ratio, Some(2.0));
        assert_eq!(Row::compare("r", "GiB/s", Better::Higher, &measured(1.0, 2.0)).ratio, Some(0.5));
    }

    #[test]
    fn a_ratio_to_nothing_is_no_ratio() {
        assert_eq!(Row::compare("r", "1/s", Better::Higher, &measured(1.0, 0.0)).ratio, None);
    }

    #[test]
    fn numbers_keep_four_digits_and_group_thousands() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(-1234.0), "-1,234");
        assert_eq!(number(12.345), "12.35");
        assert_eq!(number(0.012_341), "0.01234");
        assert_eq!(number(0.0), "0.000");
    }

    #[test]
    fn the_json_has_exactly_the_promised_fields() {
        let report = Report::new("x").with(Row::compare("m", "s", Better::Lower, &measured(1.0, 2.0)));
        let json: serde_json::Value = serde_json::to_value(&report).expect("plain values");
        let keys = |value: &serde_json::Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
        let mut top = keys(&json);
        top.sort();
        assert_eq!(top, ["commit", "machine", "rows"]);
        let mut row = keys(&json["rows"][0]);
        row.sort();
        assert_eq!(row, ["metric", "ours", "ratio", "reference", "runs", "unit"]);
    }
}
