//! `kvd conformance` as a person runs it: exit codes, reports, refusals, and what is left behind.
//!
//! Tests that need a loop device are reported as ignored where none can be made.

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DEVICE_BYTES: u64 = 96 << 20;

fn main() -> ExitCode {
    let no_loop = Loop::make().err();
    let anywhere: [(&str, fn()); 6] = [
        ("a_healthy_directory_is_conformant_and_nothing_is_left", a_healthy_directory_is_conformant_and_nothing_is_left),
        ("a_bad_target_ends_with_two_and_names_the_way_out", a_bad_target_ends_with_two_and_names_the_way_out),
        ("a_report_that_cannot_be_written_is_refused_before_the_checks", a_report_that_cannot_be_written_is_refused_before_the_checks),
        ("only_the_named_checks_are_made", only_the_named_checks_are_made),
        ("a_stopped_run_says_what_it_has_and_leaves_nothing", a_stopped_run_says_what_it_has_and_leaves_nothing),
        ("the_list_names_every_check_and_its_promise", the_list_names_every_check_and_its_promise),
    ];
    let on_loops: [(&str, fn()); 4] = [
        ("a_full_disk_costs_no_block", a_full_disk_costs_no_block),
        ("a_read_only_mount_is_refused", a_read_only_mount_is_refused),
        ("a_device_with_a_filesystem_is_left_untouched", a_device_with_a_filesystem_is_left_untouched),
        ("a_device_that_may_be_overwritten_is_blank_afterwards", a_device_that_may_be_overwritten_is_blank_afterwards),
    ];
    let mut trials: Vec<Trial> = anywhere.into_iter().map(|(name, test)| Trial::test(name, move || catch(test))).collect();
    trials.extend(on_loops.into_iter().map(|(name, test)| {
        let name = no_loop.as_ref().map_or_else(|| name.to_owned(), |why| format!("{name} (no loop device: {why})"));
        Trial::test(name, move || catch(test)).with_ignored_flag(no_loop.is_some())
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A panic is told by the panic hook already.
fn catch(test: fn()) -> Result<(), Failed> {
    std::panic::catch_unwind(test).map_err(|_| Failed::without_message())
}

fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn command(tier: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvd"));
    command.arg("conformance").arg("--tier").arg(tier).args(arguments);
    command
}

fn kvd(tier: &Path, arguments: &[&str]) -> Output {
    command(tier, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit code 2, and what was said.
fn refusal(tier: &Path, arguments: &[&str]) -> String {
    let output = kvd(tier, arguments);
    assert_eq!(output.status.code(), Some(2), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stderr)
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

fn a_healthy_directory_is_conformant_and_nothing_is_left() {
    let (folder, reports) = (folder(), folder());
    let (json, html) = (reports.path().join("c.json"), reports.path().join("c.html"));
    let report = ["--bytes", "64MiB", "--json", json.to_str().unwrap(), "--html", html.to_str().unwrap()];
    let output = kvd(folder.path(), &report);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(is_empty(folder.path()));
    let found: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!((&found["schema"], &found["counts"]["failed"]), (&Value::from("kvd-conformance/1"), &Value::from(0)));
    let verdict = |name: &str| {
        let check = found["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
        check.unwrap()["verdict"].as_str().unwrap().to_owned()
    };
    for name in ["same-bytes", "many-writers", "reopen", "killed-writer", "torn-write", "lost-write", "cut-short"] {
        assert_eq!(verdict(name), "passed", "{name}");
    }
    let html = std::fs::read_to_string(html).unwrap();
    assert!(html.contains("conformant: ") && html.contains("killed-writer") && html.contains("Kernel"));
}

fn a_bad_target_ends_with_two_and_names_the_way_out() {
    let folder = folder();
    let missing = folder.path().join("not/there");
    let said = refusal(&missing, &[]);
    assert!(said.contains("not/there") && said.contains(&format!("{} exists", folder.path().display())), "{said}");
    let file = folder.path().join("file");
    std::fs::write(&file, "words").unwrap();
    assert!(refusal(&file, &[]).contains("this is a file"));
    assert!(refusal(Path::new("flie:///mnt"), &[]).contains("did you mean `file`?"));
    assert!(refusal(Path::new("null://"), &[]).contains("nothing to check"));
    assert!(refusal(folder.path(), &["--bytes", "1MiB"]).contains("8388608 at least"));
    assert!(refusal(folder.path(), &["--bytes", "9000TiB"]).contains("are free"));
    assert!(refusal(folder.path(), &["--bytes", "two"]).contains("not a size"));
    assert!(refusal(folder.path(), &["--only", "same-byts"]).contains("did you mean `same-bytes`?"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was left by a refusal");
}

fn a_report_that_cannot_be_written_is_refused_before_the_checks() {
    let folder = folder();
    let output = kvd(folder.path(), &["--json", "/nonexistent/c.json"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""));
    assert!(text(&output.stderr).contains("/nonexistent/c.json"));
}

fn only_the_named_checks_are_made() {
    let folder = folder();
    let output = kvd(folder.path(), &["--bytes", "16MiB", "--only", "erase", "--only", "limits"]);
    let said = text(&output.stdout);
    assert!(said.contains("conformant: 3 passed, 0 failed, 0 hung, 0 skipped"), "{said}");
    assert!(said.contains("too-many-at-once") && !said.contains("same-bytes"), "{said}");
}

fn a_stopped_run_says_what_it_has_and_leaves_nothing() {
    let folder = folder();
    let mut child = command(folder.path(), &["--bytes", "256MiB"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("empty-batch") {
        assert_ne!(out.read_line(&mut said).unwrap(), 0, "{said}");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    out.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    assert!(said.contains("stopped before its end") && said.contains("stopped before it was tried"), "{said}");
    assert!(is_empty(folder.path()));
}

fn the_list_names_every_check_and_its_promise() {
    let output = Command::new(env!("CARGO_BIN_EXE_kvd")).args(["conformance", "--list"]).output().unwrap();
    let listed = text(&output.stdout);
    assert!(output.status.success() && listed.lines().count() >= 30, "{listed}");
    assert!(listed.lines().any(|line| line.starts_with("torn-write") && line.contains("faults")), "{listed}");
    let described = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md")).unwrap();
    for name in listed.lines().filter_map(|line| line.split(' ').next()) {
        assert!(described.contains(&format!("| `{name}` |")), "docs/conformance.md does not describe `{name}`");
    }
}

/// A loop device over a sparse file.
struct Loop {
    device: PathBuf,
    folder: TempDir,
}

impl Loop {
    fn make() -> Result<Loop, String> {
        let folder = folder();
        let file = folder.path().join("device");
        File::create(&file).and_then(|file| file.set_len(DEVICE_BYTES)).map_err(|error| error.to_string())?;
        let device = system("losetup", &["--find", "--show", file.to_str().unwrap_or_default()])?;
        Ok(Loop { device: device.trim().into(), folder })
    }

    fn with_filesystem() -> Loop {
        let made = Loop::make().unwrap();
        system("mkfs.ext4", &["-q", "-F", made.device.to_str().unwrap()]).unwrap();
        made
    }

    /// Mounted for as long as the work takes.
    fn mounted<T>(&self, options: &str, work: impl FnOnce(&Path) -> T) -> T {
        let point = self.folder.path().join("mounted");
        std::fs::create_dir(&point).unwrap();
        system("mount", &["-o", options, self.device.to_str().unwrap(), point.to_str().unwrap()]).unwrap();
        let result = work(&point);
        unmount(&point);
        result
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(&self.device).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = system("losetup", &["--detach", &self.device.to_string_lossy()]);
    }
}

/// The kernel takes an io_uring apart after its process is gone, and holds the filesystem until then.
fn unmount(point: &Path) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while let Err(why) = system("umount", &[point.to_str().unwrap()]) {
        assert!(Instant::now() < give_up, "{why}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn system(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr).trim().to_owned()) }
}

fn a_full_disk_costs_no_block() {
    let output = Loop::with_filesystem()
        .mounted("rw", |point| kvd(point, &["--bytes", "16MiB", "--scratch-bytes", "1GiB", "--only", "full-disk", "--only", "reopen"]));
    let said = text(&output.stdout);
    assert!(said.contains("conformant: 2 passed, 0 failed, 0 hung, 0 skipped"), "{said}{}", text(&output.stderr));
    assert!(said.contains("64 writes taken, 0 refused"), "{said}");
}

fn a_read_only_mount_is_refused() {
    let said = Loop::with_filesystem().mounted("ro", |point| refusal(point, &[]));
    assert!(said.contains("Read-only file system"), "{said}");
}

fn a_device_with_a_filesystem_is_left_untouched() {
    let made = Loop::with_filesystem();
    let before = made.content();
    let said = refusal(&made.device, &[]);
    assert!(said.contains("ext4") && said.contains("--overwrite"), "{said}");
    assert!(made.content() == before);
}

fn a_device_that_may_be_overwritten_is_blank_afterwards() {
    let made = Loop::with_filesystem();
    let output = kvd(&made.device, &["--bytes", "64MiB", "--overwrite", "--only", "basics", "--only", "durability", "--only", "faults"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    let device = File::open(&made.device).unwrap();
    let mut bytes = vec![1; 65 << 20];
    device.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0), "what the checks wrote was removed");
}
