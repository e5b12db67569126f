//! `kvd conformance`: a table of verdicts about one target.
//!
//! Ends with 0 when no promise was broken, 1 when one was, 2 when the target or the command line is bad, 130 when it was stopped.

use clap::Args;
use kvd::settings::ByteSize;
use kvd_kit::conformance::{self, ConformanceError, Findings, LiveTable, Place, Plan};
use kvd_kit::{Target, TargetError};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};

const BAD_USAGE: u8 = 2;
const STOPPED: u8 = 130;
/// How long the removal of our own files may take at the end.
const CLEANING: Duration = Duration::from_secs(20);

/// What `kvd conformance` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The target: a directory (file:///mnt/x, or a path), a block device (block:///dev/nvme1n1, or a path), or mem://.
    #[arg(long, value_name = "URL", required_unless_present = "list")]
    tier: Option<String>,
    /// How much of the target is used [default: 1GiB, or what fits].
    #[arg(long, value_name = "SIZE")]
    bytes: Option<ByteSize>,
    /// Use a block device although it holds something. All of that is lost.
    #[arg(long)]
    overwrite: bool,
    /// Free space of a filesystem that may be taken for a moment, to see what a full disk does.
    #[arg(long, value_name = "SIZE", default_value = "0")]
    scratch_bytes: ByteSize,
    /// Make only this check, or this group of checks; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Name all checks and their promises, and do nothing.
    #[arg(long)]
    list: bool,
    /// Seconds after which a check that has not ended is called hung.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = clap::value_parser!(u64).range(1..))]
    patience: u64,
    /// Write the findings to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a report to this file as HTML.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("{0}")]
    Conformance(#[from] ConformanceError),
    #[error("cannot write {}: {source}", path.display())]
    Report { path: PathBuf, source: std::io::Error },
    #[error("cannot find this program to start it again: {0}")]
    Program(std::io::Error),
}

/// Makes the checks and says what was found.
pub fn run(arguments: &Arguments) -> ExitCode {
    let result = match &arguments.tier {
        Some(tier) if !arguments.list => examine(arguments, tier),
        _ => list(arguments),
    };
    result.unwrap_or_else(|refusal| {
        eprintln!("kvd: {refusal}");
        ExitCode::from(BAD_USAGE)
    })
}

fn list(arguments: &Arguments) -> Result<ExitCode, Refusal> {
    for check in conformance::chosen(&arguments.only)? {
        println!("{:20} {:12} {}", check.name, check.group.name(), check.promise);
    }
    Ok(ExitCode::SUCCESS)
}

fn examine(arguments: &Arguments, tier: &str) -> Result<ExitCode, Refusal> {
    let target = Target::parse(tier)?;
    let stop = Arc::new(AtomicBool::new(false));
    let plan =
        Plan { checks: conformance::chosen(&arguments.only)?, patience: Duration::from_secs(arguments.patience), stop: stop.clone() };
    let create = |path: &PathBuf| File::create(path).map_err(|source| Refusal::Report { path: path.clone(), source });
    // Before the checks: a report that cannot be written must not cost a run.
    let (json, html) = (arguments.json.as_ref().map(create).transpose()?, arguments.html.as_ref().map(create).transpose()?);
    let (place, facts) = prepared(arguments, &target, plan.patience)?;
    listen(stop.clone());
    facts.iter().for_each(|(name, value)| println!("{name:24} {value}"));
    println!();
    let (started, now) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let mut table = LiveTable::new(std::io::stdout(), std::io::stdout().is_terminal());
    // A reader that went away does not end the checks.
    let checks = conformance::run(&place, place.arena(), &plan, |moment| drop(table.tell(&moment)));
    let findings = Findings {
        schema: conformance::SCHEMA,
        kvd: env!("CARGO_PKG_VERSION"),
        target: target.to_string(),
        started_unix_ms: now.as_millis() as u64,
        took_ms: started.elapsed().as_millis() as u64,
        bytes: place.bytes(),
        facts,
        counts: Findings::count(&checks),
        interrupted: stop.load(Ordering::Relaxed),
        checks,
    };
    println!("\n{}", findings.summary());
    // Before the cleaning, which a target that hangs may hold up.
    let text = serde_json::to_string_pretty(&findings).expect("findings are plain values");
    let written = write(json, arguments.json.as_ref(), &format!("{text}\n"))
        .and_then(|()| write(html, arguments.html.as_ref(), &conformance::html(&findings)));
    clean(place);
    written?;
    Ok(match (findings.is_conformant(), findings.interrupted) {
        (false, _) => ExitCode::FAILURE,
        (true, true) => ExitCode::from(STOPPED),
        (true, false) => ExitCode::SUCCESS,
    })
}

fn write(file: Option<File>, path: Option<&PathBuf>, text: &str) -> Result<(), Refusal> {
    let (Some(mut file), Some(path)) = (file, path) else { return Ok(()) };
    file.write_all(text.as_bytes()).map_err(|source| Refusal::Report { path: path.clone(), source })?;
    println!("wrote {}", path.display());
    Ok(())
}

type Prepared = (Arc<Place>, Vec<(String, String)>);

/// Looks at the target and makes it ready, on a thread: a dead network filesystem never answers the first question either.
fn prepared(arguments: &Arguments, target: &Target, patience: Duration) -> Result<Prepared, Refusal> {
    let program = std::env::current_exe().map_err(Refusal::Program)?;
    let (bytes, scratch_bytes, overwrite) = (arguments.bytes.map(|size| size.0), arguments.scratch_bytes.0, arguments.overwrite);
    let (sender, ready) = channel();
    let asked = target.clone();
    std::thread::spawn(move || {
        let place = conformance::prepare(&asked, bytes, scratch_bytes, overwrite, program);
        let _ = sender.send(place.map(|place| {
            let facts = conformance::facts(&asked, &place);
            (Arc::new(place), facts)
        }));
    });
    let silent = |_| ConformanceError::Hung { target: target.to_string(), seconds: patience.as_secs() };
    Ok(ready.recv_timeout(patience).map_err(silent)??)
}

/// The first signal lets the checks end and the findings be printed; the second ends everything. Signals count from the return on.
fn listen(stop: Arc<AtomicBool>) {
    let (sender, ready) = channel();
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
            let [Ok(mut interrupt), Ok(mut terminate)] = signals else { return };
            let _ = sender.send(());
            for time in 0..2 {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if time == 1 {
                    std::process::exit(i32::from(STOPPED));
                }
                stop.store(true, Ordering::Relaxed);
            }
        });
    });
    // Without signals the checks can still be made.
    let _ = ready.recv();
}

/// Removes what was written, but does not wait for ever for a target that hangs.
fn clean(place: Arc<Place>) {
    let (sender, cleaned) = channel();
    std::thread::spawn(move || sender.send(place.clean()));
    match cleaned.recv_timeout(CLEANING) {
        Ok(Ok(())) => {}
        Ok(Err(why)) => eprintln!("kvd: what the checks wrote could not be removed: {why}"),
        Err(_) => eprintln!("kvd: what the checks wrote was not removed: the target does not answer"),
    }
}
