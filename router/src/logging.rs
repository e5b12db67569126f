//! The journal: what to write is chosen by `KVD_LOG`, how by `--log-format`.

use std::env;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Environment variable with the filter, such as `debug` or `kvd_router=debug,warn`.
pub const FILTER_VARIABLE: &str = "KVD_LOG";

/// Shape of the journal's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Writes the journal to stderr from now on. An unreadable filter is said and replaced by `info`.
pub fn start(format: LogFormat) {
    let wanted = env::var(FILTER_VARIABLE).unwrap_or_else(|_| "info".into());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
        eprintln!("kvd-router: {FILTER_VARIABLE}={wanted} is no filter ({error}): using info");
        EnvFilter::new("info")
    });
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => lines.with_target(false).init(),
        LogFormat::Json => lines.json().init(),
    }
}
