//! Blocks on a whole block device, here a loop device. Without the right to make one these tests are reported as ignored.

mod made;

use kvd_tiers::conformance::{self, sample_layout};
use kvd_tiers::nvme::{block_device_bytes, wipe};
use kvd_tiers::{IoEngine, NvmeConfig, NvmeTier, OpenError};
use libtest_mimic::{Arguments, Failed, Trial};
use made::{EXTENT_BYTES, arena, config, flip_bit, folder, read, write};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use tempfile::TempDir;

const DEVICE_BYTES: u64 = 32 << 20;
const ENGINES: [IoEngine; 2] = [IoEngine::Uring, IoEngine::Posix];

fn main() -> ExitCode {
    let reason = Loop::make().err();
    let tests: [(&str, fn()); 8] = [
        ("the_device_keeps_the_contract", the_device_keeps_the_contract),
        ("a_reopened_device_gives_its_blocks_back", a_reopened_device_gives_its_blocks_back),
        ("a_filesystem_is_named_and_left_untouched", a_filesystem_is_named_and_left_untouched),
        ("a_filesystem_made_after_kvd_is_left_untouched", a_filesystem_made_after_kvd_is_left_untouched),
        ("any_other_data_is_left_untouched", any_other_data_is_left_untouched),
        ("a_mounted_device_is_refused", a_mounted_device_is_refused),
        ("a_device_that_is_too_small_is_named_with_both_sizes", a_device_that_is_too_small_is_named_with_both_sizes),
        ("a_device_in_use_is_refused_until_it_is_free", a_device_in_use_is_refused_until_it_is_free),
    ];
    let trial = |(name, test): (&str, fn())| {
        let name = reason.as_ref().map_or_else(|| name.to_owned(), |why| format!("{name} ({why})"));
        Trial::test(name, move || catch(test)).with_ignored_flag(reason.is_some())
    };
    libtest_mimic::run(&Arguments::from_args(), tests.map(trial).into()).exit_code()
}

/// A panic is told by the panic hook already.
fn catch(test: fn()) -> Result<(), Failed> {
    std::panic::catch_unwind(test).map_err(|_| Failed::without_message())
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
        let device = run("losetup", &["--find", "--show", "--direct-io=on", &file.to_string_lossy()])?;
        Ok(Loop { device: device.trim().into(), folder })
    }

    fn config(&self, io: IoEngine) -> NvmeConfig {
        NvmeConfig { path: self.device.clone(), ..config(&self.folder, &arena(), io) }
    }

    fn mkfs(&self) {
        run("mkfs.ext4", &["-q", "-F", &self.device.to_string_lossy()]).unwrap();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = run("losetup", &["--detach", &self.device.to_string_lossy()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

fn refusal(config: NvmeConfig) -> OpenError {
    NvmeTier::open(config).expect_err("this device must be refused")
}

fn content(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

fn the_device_keeps_the_contract() {
    for io in ENGINES {
        let (device, arena) = (Loop::make().unwrap(), arena());
        let tier = NvmeTier::open(NvmeConfig { arena: arena.clone(), ..device.config(io) }).unwrap();
        conformance::run(&tier, &arena, Some(&|address, offset| flip_bit(&device.device, address, offset)));
    }
}

fn a_reopened_device_gives_its_blocks_back() {
    let (device, arena, layout) = (Loop::make().unwrap(), arena(), sample_layout());
    let config = NvmeConfig { arena: arena.clone(), ..device.config(IoEngine::Uring) };
    let tier = NvmeTier::open(config.clone()).unwrap();
    let (id, name) = (tier.file_id(), write(&tier, &arena, &layout, 70, 1));
    drop(tier);
    let tier = NvmeTier::open(NvmeConfig { io: IoEngine::Posix, ..config }).unwrap();
    assert_eq!(tier.file_id(), id);
    read(&tier, &arena, &layout, 70, name).unwrap();
}

fn a_filesystem_is_named_and_left_untouched() {
    let device = Loop::make().unwrap();
    device.mkfs();
    let before = content(&device.device);
    let error = refusal(device.config(IoEngine::Auto));
    assert!(matches!(&error, OpenError::ForeignDevice { found, .. } if found.contains("ext4")), "{error}");
    assert!(content(&device.device) == before);
}

fn a_filesystem_made_after_kvd_is_left_untouched() {
    let device = Loop::make().unwrap();
    drop(NvmeTier::open(device.config(IoEngine::Posix)).unwrap());
    device.mkfs();
    let before = content(&device.device);
    assert!(matches!(refusal(device.config(IoEngine::Auto)), OpenError::ForeignDevice { .. }));
    assert!(content(&device.device) == before);
    wipe(&device.device, DEVICE_BYTES).unwrap();
    NvmeTier::open(device.config(IoEngine::Auto)).expect("a device that was cleared is taken");
}

fn any_other_data_is_left_untouched() {
    use std::os::unix::fs::FileExt;
    for at in [300_000, DEVICE_BYTES - 10] {
        let device = Loop::make().unwrap();
        std::fs::OpenOptions::new().write(true).open(&device.device).unwrap().write_all_at(b"thesis", at).unwrap();
        let before = content(&device.device);
        let error = refusal(device.config(IoEngine::Auto));
        assert!(matches!(&error, OpenError::ForeignDevice { found, .. } if found.contains(&at.to_string())), "{error}");
        assert!(content(&device.device) == before);
    }
}

fn a_mounted_device_is_refused() {
    let device = Loop::make().unwrap();
    device.mkfs();
    let mount_point = device.folder.path().join("mounted");
    std::fs::create_dir(&mount_point).unwrap();
    let mount_point = mount_point.to_string_lossy().into_owned();
    run("mount", &[&device.device.to_string_lossy(), &mount_point]).unwrap();
    let error = refusal(device.config(IoEngine::Auto));
    run("umount", &[&mount_point]).unwrap();
    assert!(matches!(error, OpenError::DeviceBusy { by: "a mounted filesystem", .. }), "{error}");
}

fn a_device_that_is_too_small_is_named_with_both_sizes() {
    let device = Loop::make().unwrap();
    assert_eq!(block_device_bytes(&device.device).unwrap(), DEVICE_BYTES);
    let error = refusal(NvmeConfig { capacity_bytes: 64 * EXTENT_BYTES, ..device.config(IoEngine::Auto) });
    assert!(matches!(error, OpenError::DeviceTooSmall { device_bytes: DEVICE_BYTES, .. }), "{error}");
}

fn a_device_in_use_is_refused_until_it_is_free() {
    let device = Loop::make().unwrap();
    let first = NvmeTier::open(device.config(IoEngine::Uring)).unwrap();
    assert!(matches!(refusal(device.config(IoEngine::Auto)), OpenError::DeviceBusy { .. }));
    drop(first);
    NvmeTier::open(device.config(IoEngine::Auto)).unwrap();
}
