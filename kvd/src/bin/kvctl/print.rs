//! Tables and numbers for people.

use kvd::settings::about;

/// A table with a heading, columns as wide as they must be; numbers to the right.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let heading: Vec<String> = heading.iter().map(|name| name.to_uppercase()).collect();
    std::iter::once(&heading).chain(rows).map(|row| line(row, &widths)).collect()
}

fn line(row: &[String], widths: &[usize]) -> String {
    let cell = |(text, width): (&String, &usize)| {
        let is_number = text.starts_with(|first: char| first.is_ascii_digit());
        if is_number { format!("{text:>width$}") } else { format!("{text:<width$}") }
    };
    let cells: Vec<String> = row.iter().zip(widths).map(cell).collect();
    format!("{}\n", cells.join("  ").trim_end())
}

/// `3.2 GiB of 8.0 GiB (40 %)`.
pub fn share(used: u64, capacity: u64) -> String {
    let percent = used.saturating_mul(100).checked_div(capacity).unwrap_or(0);
    format!("{} of {} ({percent} %)", about(used), about(capacity))
}

/// `2d 3h`, `5m 7s`.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, ..) => format!("{days}d {hours}h"),
    }
}

/// Hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
