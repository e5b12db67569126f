//! The daemon under test: the same program, the same configuration file, a process of its own.
//!
//! It listens on free ports and on a socket in a folder of ours, so it meets no other daemon of the machine. It ends with us: by
//! SIGTERM when we are done, and by the kernel's hand when we are killed.

use super::error::BenchError;
use super::place::Place;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Reserving a large file takes a while on some filesystems.
const START_WITHIN: Duration = Duration::from_secs(120);
const STOP_WITHIN: Duration = Duration::from_secs(30);
const SCRAPE_WITHIN: Duration = Duration::from_secs(5);
/// How much of its journal is worth showing.
const JOURNAL_LINES: usize = 12;

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// Where engines connect.
    pub socket: PathBuf,
    /// How it reaches the medium, in its own words.
    pub storage: String,
    metrics: String,
    journal: PathBuf,
}

impl Daemon {
    /// Starts `program serve` and waits until it is ready. `folder` is ours.
    pub fn start(program: &Path, place: &Place, arena_bytes: u64, folder: &Path) -> Result<Daemon, BenchError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| BenchError::Io { path, source }
        };
        let (config, journal, socket) = (folder.join("kvd.toml"), folder.join("kvd.log"), folder.join("kvd.sock"));
        std::fs::write(&config, configuration(place, arena_bytes, &socket)).map_err(io(&config))?;
        let log = File::create(&journal).map_err(io(&journal))?;
        let child = Command::new(program)
            .args(["serve", "--die-with-parent", "--config"])
            .arg(&config)
            // Ctrl-C is for us; the daemon must answer until we are done with it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(io(program))?;
        let mut daemon = Daemon { child, socket, storage: String::new(), metrics: String::new(), journal };
        daemon.wait_ready()?;
        Ok(daemon)
    }

    fn wait_ready(&mut self) -> Result<(), BenchError> {
        let lines = spoken(&mut self.child);
        let until = Instant::now() + START_WITHIN;
        loop {
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => match line.trim().split_once("  ") {
                    Some(("storage", detail)) => self.storage = detail.trim().to_owned(),
                    Some(("metrics", url)) => {
                        self.metrics = url.trim().trim_start_matches("http://").trim_end_matches("/metrics").to_owned()
                    }
                    Some(("events", _)) => return Ok(()),
                    _ => {}
                },
                Err(RecvTimeoutError::Timeout) => return Err(self.failure(format!("was not ready within {START_WITHIN:?}"))),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                    return Err(self.failure(format!("did not start ({status})")));
                }
            }
        }
    }

    /// Its counters and gauges, by name; labelled ones by name and labels as they are written.
    pub fn counters(&self) -> Result<HashMap<String, f64>, BenchError> {
        let text = scrape(&self.metrics).map_err(|error| self.failure(format!("does not give its metrics ({error})")))?;
        let values = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Ok(values.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// CPU time it has used; zero when the kernel does not say.
    pub fn cpu(&self) -> Duration {
        cpu_of(&self.child.id().to_string())
    }

    /// True while the process runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it did, with the end of its journal.
    pub fn failure(&self, what: String) -> BenchError {
        let journal = std::fs::read_to_string(&self.journal).unwrap_or_default();
        let lines: Vec<&str> = journal.lines().collect();
        BenchError::Daemon { what, journal: lines[lines.len().saturating_sub(JOURNAL_LINES)..].join("\n") }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let signal = |signal| Pid::from_raw(self.child.id() as i32).map(|pid| kill_process(pid, signal));
        signal(Signal::TERM);
        let until = Instant::now() + STOP_WITHIN;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(place: &Place, arena_bytes: u64, socket: &Path) -> String {
    let text = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    let device = place.device.as_deref().map_or_else(String::new, |device| format!("device = {}\n", text(device)));
    let bytes = place.bytes.map_or_else(String::new, |bytes| format!("bytes = {bytes}\n"));
    format!(
        "[arena]\nbytes = {arena_bytes}\nprefault = true\n[nvme]\npath = {}\nmedium = \"{}\"\n{device}{bytes}[engine]\nsocket = {}\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n[events]\nenabled = false\n",
        text(&place.data),
        place.medium,
        text(socket),
    )
}

/// The lines of its standard output. Read until it ends, so that it never waits for us.
fn spoken(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(output) = child.stdout.take() {
        std::thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    }
    receiver
}

fn scrape(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SCRAPE_WITHIN))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// CPU time of this process.
pub fn own_cpu() -> Duration {
    cpu_of("self")
}

fn cpu_of(process: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name of the program may hold spaces; it ends with the last parenthesis.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_grows_with_work() {
        let before = own_cpu();
        let until = Instant::now() + Duration::from_secs(20);
        let mut sum = 0u64;
        while own_cpu() == before && Instant::now() < until {
            sum = (0..1_000_000u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        assert!(own_cpu() > before);
    }

    #[test]
    fn a_program_that_ends_at_once_is_an_error_with_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::prepare(&crate::Target::Null, None, false, false, folder.path()).unwrap();
        let error = Daemon::start(Path::new("/bin/false"), &place, 1 << 26, folder.path()).unwrap_err().to_string();
        assert!(error.contains("did not start (exit status: 1)"), "{error}");
    }
}
