//! The daemon when things go wrong: killed, rotten, full, failing and stalling disks.
//!
//! The judge of every test: a load gives the right bytes or a miss, never a wrong byte; nothing waits without end; and the
//! daemon, or the next one in its place, serves again without a person. Payloads follow from the names of blocks, so the
//! tests check every byte themselves.
//!
//! `KVD_FAULT_CYCLES` and `KVD_FAULT_SEED` set how often and how the daemon is killed. What the machine lacks is reported
//! as ignored, with the reason.

#[path = "../daemon/support.rs"]
#[allow(dead_code, reason = "shared with another test program that uses the rest")]
mod support;

mod catalog;
mod disk;
mod flaky;
mod folder;
mod io;
mod judge;
mod kill;
mod launch;
mod limits;
mod loopdisk;
mod place;
mod rot;
mod shape;
mod vendor;
mod workload;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::process::ExitCode;

/// What a test needs of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// What every machine has.
    Nothing,
    /// To mount a file as a filesystem.
    LoopDisk,
    /// To mount a filesystem of its own.
    Fuse,
}

type Test = (&'static str, Needs, fn());

fn main() -> ExitCode {
    if let Some(code) = launch::run_as_child() {
        return code;
    }
    place::clean_up_after_others();
    let arguments = Arguments::from_args();
    let all = [kill::TESTS, rot::TESTS, catalog::TESTS, shape::TESTS, disk::TESTS, io::TESTS, limits::TESTS, folder::TESTS, vendor::TESTS];
    let trials = all.iter().flat_map(|tests| tests.iter()).map(|test| trial(*test)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    place::clean_up();
    conclusion.exit_code()
}

fn trial((name, needs, test): Test) -> Trial {
    Trial::ignorable_test(name, move || match lacking(needs) {
        Some(why) => Ok(Completion::ignored_with(why)),
        None => std::panic::catch_unwind(test).map(|()| Completion::Completed).map_err(|panic| Failed::from(told(&*panic))),
    })
}

fn told(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "it panicked".into())
}

fn lacking(needs: Needs) -> Option<String> {
    match needs {
        Needs::Nothing => None,
        Needs::LoopDisk => loopdisk::lacking(),
        Needs::Fuse => flaky::lacking(),
    }
}
