//! A directory on a real filesystem in which daemons run one after another, and what is left of such directories.

use super::launch::{self, Without};
use super::support::Kvd;
use kvd::Addresses;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest time anything may take before the test calls it a hang.
pub const HANG: Duration = Duration::from_secs(30);

/// Where runs keep their files. Beside the build, because /tmp may be memory.
fn root() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults")
}

fn run_dir(pid: u32) -> PathBuf {
    root().join(format!("run-{pid}"))
}

/// The directory of this run.
pub fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let base = run_dir(std::process::id());
        fs::create_dir_all(&base).unwrap();
        base
    })
}

/// Removes what runs left behind that were killed: their mounts, loop devices and files.
pub fn clean_up_after_others() {
    for entry in fs::read_dir(root()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix("run-").and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            remove(&entry.path());
        }
    }
}

/// Removes what this run left behind.
pub fn clean_up() {
    remove(&run_dir(std::process::id()));
}

fn remove(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| Path::new(at).starts_with(dir));
    below.for_each(|at| drop(Command::new("umount").arg("-l").arg(at).output()));
    let _ = fs::remove_dir_all(dir);
}

/// Daemons of one test.
pub struct Place {
    dir: TempDir,
    /// Where the daemon keeps its data.
    pub data: PathBuf,
    /// What the daemon has to do without.
    pub without: Without,
}

impl Place {
    /// Data beside everything else.
    pub fn new(more: &str) -> Place {
        let dir = tempfile::tempdir_in(base()).unwrap();
        let data = dir.path().join("data");
        Place::on(dir, data, more)
    }

    /// Data in `data`, which may be on a filesystem of its own.
    pub fn with_data(data: PathBuf, more: &str) -> Place {
        Place::on(tempfile::tempdir_in(base()).unwrap(), data, more)
    }

    fn on(dir: TempDir, data: PathBuf, more: &str) -> Place {
        let place = Place { dir, data, without: Without::default() };
        place.configure("arena.bytes = \"16MiB\"\nnvme.bytes = \"32MiB\"", more);
        place
    }

    /// Sizes, and more settings.
    pub fn configure(&self, sizes: &str, more: &str) {
        let [data, socket] = [self.data.clone(), self.socket()].map(|path| path.display().to_string());
        let text = format!(
            "{sizes}\nnvme.path = \"{data}\"\nengine.socket = \"{socket}\"\nadmin.listen = \"127.0.0.1:0\"\n\
             metrics.listen = \"127.0.0.1:0\"\nevents.endpoint = \"tcp://127.0.0.1:0\"\nevents.replay_endpoint = \"tcp://127.0.0.1:0\"\n{more}\n"
        );
        fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("kvd.toml")
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("kvd.sock")
    }

    pub fn slot_file(&self) -> PathBuf {
        self.data.join("blocks.kvd")
    }

    pub fn catalog(&self) -> PathBuf {
        self.data.join("catalog")
    }

    /// Everything the daemons said, in order.
    pub fn journal(&self) -> String {
        fs::read_to_string(self.dir.path().join("journal")).unwrap_or_default()
    }

    /// A daemon that may not be ready yet.
    pub fn spawn(&self) -> Child {
        let journal = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("journal")).unwrap();
        let config = self.config().display().to_string();
        let mut command = launch::daemon(self.without, &["--config", &config]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(journal).spawn().unwrap()
    }

    /// A daemon that is ready. Its addresses are those it prints: the data directory may not be readable.
    pub fn start(&self) -> Kvd {
        let mut child = self.spawn();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        while !banner.contains("  events ") {
            assert_ne!(lines.read_line(&mut banner).unwrap(), 0, "kvd did not start:\n{}", self.journal());
        }
        let field = |name: &str| {
            let line = banner.lines().find_map(|line| line.trim_start().strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().unwrap_or_default().trim_start_matches("http://").trim_end_matches("/metrics").to_owned()
        };
        let replay = banner.split("  replay ").nth(1).unwrap_or_default().trim().to_owned();
        let addresses = Addresses {
            pid: child.id(),
            socket: self.socket(),
            admin: field("admin"),
            metrics: field("metrics"),
            events: field("events"),
            replay,
        };
        Kvd { child, banner, addresses }
    }

    /// What a daemon that does not start says.
    pub fn refusal(&self) -> String {
        let before = self.journal().len();
        let mut child = self.spawn();
        let status = ended(&mut child, HANG);
        let said = self.journal().split_off(before);
        assert!(!status.success(), "kvd was expected to refuse:\n{said}");
        said
    }
}

impl Drop for Place {
    /// A failing test shows what the daemons said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.journal();
            let lines: Vec<&str> = journal.lines().collect();
            eprintln!("--- journal, the last lines ---\n{}\n---", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// Waits until `child` has ended.
pub fn ended(child: &mut Child, limit: Duration) -> std::process::ExitStatus {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() >= until {
            let _ = child.kill();
            panic!("the process did not end in {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Tells it to stop and waits. Returns how long it took.
pub fn stop(mut kvd: Kvd, limit: Duration) -> Duration {
    let began = Instant::now();
    rustix::process::kill_process(rustix::process::Pid::from_child(&kvd.child), rustix::process::Signal::TERM).unwrap();
    assert!(ended(&mut kvd.child, limit).success(), "it did not end well");
    began.elapsed()
}
