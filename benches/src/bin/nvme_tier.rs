//! The claim: the slot file moves blocks as fast as fio moves the same bytes on the same file. Writes cost no more CPU than
//! fio's; reads cost the verification on top, which is one pass over the bytes.
//!
//! Both sides use io_uring, direct I/O, registered buffers and files, the same slot size, queue depth and file, one after
//! the other for a fixed time. fio verifies nothing.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use futures::executor::block_on;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use kvd_benches::{Better, Interleaved, Report, Row, interleave};
use kvd_block::{LayoutSpec, PAGE_BYTES, SlotIndex};
use kvd_shm::{Arena, HugePages, Slot};
use kvd_tiers::conformance::{nth_address, sample_layout, seal};
use kvd_tiers::nvme::DATA_START;
use kvd_tiers::{BlockName, IoEngine, NvmeConfig, NvmeTier, ReadBlock, Tier, TierError, WriteBlock};
use rustix::time::{ClockId, clock_gettime};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const GIB: f64 = (1u64 << 30) as f64;
const EXTENT_BYTES: u64 = 64 << 20;

#[derive(Parser)]
struct Options {
    /// Folder on the filesystem to measure.
    #[arg(long, default_value = "target")]
    folder: PathBuf,
    /// Payload bytes of the blocks to measure.
    #[arg(long, value_delimiter = ',', default_values_t = [2 << 20, 128 << 10])]
    block_bytes: Vec<u64>,
    /// Blocks in flight.
    #[arg(long, default_value_t = 16)]
    depth: usize,
    /// Seconds of each leg.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Interleaved runs.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Bytes of the slot file.
    #[arg(long, default_value_t = 1 << 30)]
    file_bytes: u64,
    /// Measure pread and pwrite on threads instead of io_uring.
    #[arg(long)]
    posix: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leg {
    Write,
    Read,
}

/// What one leg moved and used.
struct Moved {
    gib: f64,
    wall_seconds: f64,
    cpu_seconds: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut report = Report::new("nvme_tier");
    for block_bytes in &options.block_bytes {
        measure(&options, *block_bytes, &mut report)?;
    }
    Ok(report.publish()?)
}

fn measure(options: &Options, block_bytes: u64, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir_in(&options.folder)?;
    let ours = Ours::new(folder.path(), options, block_bytes)?;
    eprintln!("{} KiB blocks: {}", block_bytes >> 10, ours.tier.probe_line());
    for (leg, name) in [(Leg::Write, "write"), (Leg::Read, "read")] {
        // Every slot of the file holds a block, so both sides find it fully written and every read finds its block.
        ours.fill()?;
        let failed = RefCell::new(None);
        let (our_cpu, fio_cpu) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let side = |moved: Result<Moved>, cpu: &RefCell<Vec<f64>>| match moved {
            Ok(moved) => {
                cpu.borrow_mut().push(moved.cpu_seconds / moved.gib);
                moved.gib / moved.wall_seconds
            }
            Err(error) => {
                *failed.borrow_mut() = Some(error);
                f64::NAN
            }
        };
        let speed = interleave(
            options.runs,
            || side(ours.run(leg, options), &our_cpu),
            || side(fio(leg, &ours.path, options, ours.layout.slot_bytes()), &fio_cpu),
        );
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        let cpu = Interleaved { ours: our_cpu.into_inner(), reference: fio_cpu.into_inner() };
        let what = format!("{name}, {} KiB blocks, {} in flight", block_bytes >> 10, options.depth);
        report.push(Row::compare(&what, "GiB/s", Better::Higher, &speed));
        report.push(Row::compare(format!("CPU of {what}"), "s/GiB", Better::Lower, &cpu));
    }
    Ok(())
}

/// The tier, with one slot of the arena per block in flight.
struct Ours {
    tier: NvmeTier,
    arena: Arc<Arena>,
    layout: LayoutSpec,
    path: PathBuf,
    blocks: u32,
    depth: usize,
}

impl Ours {
    fn new(folder: &Path, options: &Options, block_bytes: u64) -> Result<Ours> {
        let layout = LayoutSpec { ranks: 1, stripe_bytes: block_bytes, ..sample_layout() };
        let arena_bytes = (layout.slot_bytes() * options.depth as u64).next_multiple_of(2 << 20);
        let arena = Arc::new(Arena::create(arena_bytes, HugePages::Never)?);
        let path = folder.join("slots");
        let tier = NvmeTier::open(NvmeConfig {
            path: path.clone(),
            capacity_bytes: options.file_bytes,
            extent_bytes: EXTENT_BYTES,
            max_inflight_blocks: options.depth,
            queue_depth: options.depth as u32,
            arena: arena.clone(),
            io: if options.posix { IoEngine::Posix } else { IoEngine::Uring },
        })?;
        let per_extent = (EXTENT_BYTES - PAGE_BYTES) / layout.slot_bytes();
        let blocks = (options.file_bytes / EXTENT_BYTES * per_extent) as u32;
        Ok(Ours { tier, arena, layout, path, blocks, depth: options.depth })
    }

    fn slot(&self, nth: usize) -> Slot {
        Slot::new(self.arena.clone(), SlotIndex(nth as u32 * self.layout.slot_pages()), self.layout.slot_bytes())
    }

    fn address(&self, nth: u32) -> SlotIndex {
        nth_address(nth % self.blocks, self.layout.slot_pages(), EXTENT_BYTES)
    }

    /// The `nth` address gets the block of the slot that will be used for reading it.
    fn names(&self) -> Vec<BlockName> {
        (0..self.depth).map(|nth| seal(&self.slot(nth), &self.layout, nth as u64)).collect()
    }

    fn fill(&self) -> Result<()> {
        self.names();
        self.move_blocks(Leg::Write, &self.names(), |nth| nth < self.blocks)?;
        Ok(())
    }

    fn run(&self, leg: Leg, options: &Options) -> Result<Moved> {
        let names = self.names();
        let end = Instant::now() + Duration::from_secs_f64(options.seconds);
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let moved = self.move_blocks(leg, &names, |_| Instant::now() < end)?;
        Ok(Moved {
            gib: f64::from(moved) * self.layout.slot_bytes() as f64 / GIB,
            wall_seconds: start.elapsed().as_secs_f64(),
            cpu_seconds: cpu_seconds() - cpu,
        })
    }

    /// Keeps every slot in flight while `more` says so: whichever is done first goes again, as fio does it. The block with
    /// number n is always block n modulo the depth.
    fn move_blocks(&self, leg: Leg, names: &[BlockName], more: impl Fn(u32) -> bool) -> Result<u32> {
        let mut inflight = FuturesUnordered::new();
        let mut moved = 0;
        (0..self.depth as u32).filter(|nth| more(*nth)).for_each(|nth| inflight.push(self.submit(leg, nth, names)));
        while let Some(done) = block_on(inflight.next()) {
            let next = done? + self.depth as u32;
            moved += 1;
            if more(next) {
                inflight.push(self.submit(leg, next, names));
            }
        }
        Ok(moved)
    }

    /// Starts the `nth` move; gives `nth` back when it is over.
    fn submit(&self, leg: Leg, nth: u32, names: &[BlockName]) -> BoxFuture<'static, Result<u32>> {
        // Addresses wrap around at a multiple of the depth, so that an address always meets the same block.
        let at = nth % (self.blocks / self.depth as u32 * self.depth as u32);
        let (slot, address, name) = (self.slot(at as usize % self.depth), self.address(at), names[at as usize % self.depth]);
        match leg {
            Leg::Write => {
                let written = self.tier.write(vec![WriteBlock { slot, address }]);
                async move { finish(nth, written.await.and_then(|mut outcomes| outcomes.pop()).map(|o| o.result)) }.boxed()
            }
            Leg::Read => {
                let read = self.tier.read(vec![ReadBlock { slot, address, name }]);
                async move { finish(nth, read.await.and_then(|mut outcomes| outcomes.pop()).map(|o| o.result)) }.boxed()
            }
        }
    }
}

fn finish(nth: u32, result: Option<Result<(), TierError>>) -> Result<u32> {
    result.context("the tier died")??;
    Ok(nth)
}

/// User and system time of this process: every thread of the tier is in it.
fn cpu_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

fn fio(leg: Leg, path: &Path, options: &Options, slot_bytes: u64) -> Result<Moved> {
    let direction = if leg == Leg::Write { "write" } else { "read" };
    let size = (options.file_bytes / slot_bytes) * slot_bytes;
    let output = Command::new("fio")
        .args(["--name=leg", "--ioengine=io_uring", "--direct=1", "--registerfiles=1", "--fixedbufs=1", "--time_based=1"])
        .args(["--output-format=json", "--invalidate=0", "--fallocate=none", "--allow_file_create=0", "--scramble_buffers=0"])
        .arg(format!("--filename={}", path.display()))
        .arg(format!("--rw={direction}"))
        .arg(format!("--offset={DATA_START}"))
        .arg(format!("--size={size}"))
        .arg(format!("--bs={slot_bytes}"))
        .arg(format!("--iodepth={}", options.depth))
        .arg(format!("--runtime={}ms", (options.seconds * 1000.0) as u64))
        .output()
        .context("running fio: install it")?;
    if !output.status.success() {
        bail!("fio failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).context("reading fio's report")?;
    let job = &json["jobs"][0];
    let number = |value: &serde_json::Value| value.as_f64().context("a number is missing from fio's report");
    let wall_seconds = number(&job[direction]["runtime"])? / 1000.0;
    let gib = number(&job[direction]["io_bytes"])? / GIB;
    ensure!(gib > 0.0, "fio moved nothing");
    let cpu_percent = number(&job["usr_cpu"])? + number(&job["sys_cpu"])?;
    Ok(Moved { gib, wall_seconds, cpu_seconds: cpu_percent / 100.0 * number(&job["job_runtime"])? / 1000.0 })
}
