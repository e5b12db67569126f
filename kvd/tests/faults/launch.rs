//! This program as a child of itself: it takes something away from the daemon before it becomes the daemon, or is an engine
//! that can be killed.
//!
//! A child dies with the test program, whatever ends that.

use super::judge::Judge;
use super::workload::Pool;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

const LAUNCH: &str = "--launch-a-daemon";
const ENGINE: &str = "--be-an-engine";

/// What a daemon has to do without.
#[derive(Debug, Clone, Copy, Default)]
pub struct Without {
    /// System calls of io_uring.
    pub uring: bool,
    /// Memory it may lock, in bytes.
    pub memlock: Option<u64>,
    /// Descriptors it may have open.
    pub descriptors: Option<u64>,
}

/// `kvd serve` with these arguments, in such want.
pub fn daemon(without: Without, arguments: &[&str]) -> Command {
    let mut command = myself();
    let text = |limit: Option<u64>| limit.map_or_else(|| "-".into(), |limit| limit.to_string());
    command.arg(LAUNCH).arg(without.uring.to_string()).arg(text(without.memlock)).arg(text(without.descriptors));
    command.arg(env!("CARGO_BIN_EXE_kvd")).arg("serve").args(arguments).env_remove("KVD_SOCKET").env_remove("KVD_LOG");
    command
}

/// An engine in a process of its own, which stores and loads until it is killed.
pub fn engine(socket: &Path, seed: u64) -> Command {
    let mut command = myself();
    command.arg(ENGINE).arg(socket).arg(seed.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn myself() -> Command {
    Command::new(std::env::current_exe().expect("this program has a path"))
}

/// Does what a child is for; `None` when this is no child.
pub fn run_as_child() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [LAUNCH, uring, memlock, descriptors, program, ref rest @ ..] => {
            let without = Without { uring: uring == "true", memlock: memlock.parse().ok(), descriptors: descriptors.parse().ok() };
            Some(become_daemon(without, program, rest))
        }
        [ENGINE, socket, seed] => {
            set_parent_process_death_signal(Some(Signal::KILL)).expect("a process may ask for that");
            Some(be_an_engine(Path::new(socket), seed.parse().expect("a number")))
        }
        _ => None,
    }
}

fn become_daemon(without: Without, program: &str, arguments: &[&str]) -> ExitCode {
    set_parent_process_death_signal(Some(Signal::KILL)).expect("a process may ask for that");
    let limit = |resource, limit: Option<u64>| {
        if let Some(limit) = limit {
            setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }).expect("a limit may be lowered");
        }
    };
    limit(Resource::Memlock, without.memlock);
    limit(Resource::Nofile, without.descriptors);
    if without.uring {
        forbid_uring();
    }
    let mut command = Command::new(program);
    if without.memlock.is_some() && rustix::process::geteuid().is_root() {
        // The limit binds only who lacks the capability.
        command = Command::new("setpriv");
        command.args(["--bounding-set", "-ipc_lock", program]);
    }
    let error = command.args(arguments).exec();
    eprintln!("{program}: {error}");
    ExitCode::FAILURE
}

/// As the profiles of container engines do.
fn forbid_uring() {
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into().expect("a known machine");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).expect("a plain filter");
    let program: BpfProgram = filter.try_into().expect("a small filter");
    seccompiler::apply_filter(&program).expect("a process may restrict itself");
}

fn be_an_engine(socket: &Path, seed: u64) -> ExitCode {
    let pool = Pool::small();
    let mut random = super::workload::random(seed);
    let Ok(mut judge) = Judge::connect(socket, &format!("child-{seed}")) else { return ExitCode::FAILURE };
    loop {
        if super::workload::one_step(&mut judge, &pool, &mut random).is_err() {
            return ExitCode::FAILURE;
        }
    }
}
