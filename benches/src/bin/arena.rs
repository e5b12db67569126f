//! Claim: moving blocks between an engine's pages and the arena costs about as much as `memcpy`, checksums included.
//!
//! 1,000 blocks of 2 MiB, shaped like Llama-3-8B (32 layers, 64 KiB a page and layer, 16 tokens), block ids scattered as in a
//! paged cache. The reference copies the same pages to the same places with `copy_from_slice` on as many threads. All
//! memory is touched before. Arithmetic: 2 GiB at 10 GiB/s are 0.2 s a run.
//!
//! With a daemon beside it (`target/release/kvd`), the same through leases over its socket, and the time of a lookup of 8,000
//! blocks (a 128k-token prompt).

use anyhow::{Context, Result, bail};
use clap::Parser;
use kvd_benches::{Better, Interleaved, Report, Row, interleave, percentile};
use kvd_block::{BlockHeader, Checksum, LayoutSpec, LocalHash, SequenceHash, SlotIndex};
use kvd_connector::{Client, ClientOptions, CopyPool, LayerPages, MappedArena, PagedKv, RequestChain, WorkerLink, transfer};
use kvd_proto::local::{FilledBlock, LoadGrant, StoreGrant};
use kvd_shm::{Arena, HugePages};
use rustix::time::{ClockId, clock_gettime};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LAYERS: usize = 32;
/// Alignment of an engine's tensors.
const ALIGN: usize = 64;
const BLOCK_TOKENS: u32 = 16;
const GIB: f64 = (1u64 << 30) as f64;

#[derive(Parser)]
struct Options {
    /// Blocks in each run.
    #[arg(long, default_value_t = 1000)]
    blocks: usize,
    /// KiB of each layer's page of a block.
    #[arg(long, default_value_t = 64)]
    page_kib: usize,
    /// Copying threads; 0 is the connector's default.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Runs on each side.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Count the CPU time of this process, per thread, instead of the clock: for a machine that has other things to do. A copy
    /// keeps its CPU busy, so on an idle machine both say the same.
    #[arg(long)]
    cpu_time: bool,
    /// Blocks in the lookup.
    #[arg(long, default_value_t = 8000)]
    lookup_blocks: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let bench = Bench::new(&options)?;
    let mut report = Report::new("arena");
    for row in bench.bare()? {
        report.push(row);
    }
    match daemon_binary() {
        Some(binary) => bench.with_daemon(&binary, &mut report)?,
        None => println!("no target/release/kvd beside this bench: the rows with a daemon are left out"),
    }
    Ok(report.publish()?)
}

/// The engine's pages, and the same memory as the reference sees it.
struct Bench {
    runs: usize,
    cpu_time: bool,
    lookup_blocks: usize,
    _memory: Vec<Vec<u8>>,
    pages: Arc<PagedKv>,
    pool: CopyPool,
    block_ids: Vec<usize>,
    arena: Arc<MappedArena>,
    slots: Vec<SlotIndex>,
}

impl Bench {
    fn new(options: &Options) -> Result<Bench> {
        let page_bytes = options.page_kib << 10;
        let fill = |layer: usize| (0..page_bytes * options.blocks + ALIGN).map(|i| (i / 4096 + i * 7 + layer) as u8).collect();
        let mut memory: Vec<Vec<u8>> = (0..LAYERS).map(fill).collect();
        let layer = |memory: &mut Vec<u8>| LayerPages {
            base: (memory.as_mut_ptr() as usize).next_multiple_of(ALIGN),
            page_bytes,
            stride_bytes: page_bytes,
            num_blocks: options.blocks,
        };
        let layers = memory.iter_mut().map(layer).collect();
        let spec = layout((LAYERS * page_bytes) as u64);
        // SAFETY: the vectors live in the bench as long as the pages do and never grow.
        let pages = unsafe { PagedKv::new(layers, 0, spec) }?;
        let arena = Arena::create(options.blocks as u64 * pages.spec().slot_bytes(), HugePages::WhenReserved)?;
        arena.prefault(0..arena.bytes())?;
        Ok(Bench {
            runs: options.runs,
            cpu_time: options.cpu_time,
            lookup_blocks: options.lookup_blocks,
            _memory: memory,
            slots: (0..options.blocks as u32).map(|n| SlotIndex(n * pages.spec().slot_pages())).collect(),
            block_ids: (0..options.blocks).map(|n| n * 7919 % options.blocks).collect(),
            pages: Arc::new(pages),
            pool: CopyPool::new(options.threads),
            arena: Arc::new(MappedArena::new(arena)),
        })
    }

    fn gib(&self) -> f64 {
        self.block_ids.len() as f64 * self.pages.spec().payload_bytes() as f64 / GIB
    }

    /// Seconds that `work` took, by the clock chosen.
    fn seconds<T>(&self, work: impl FnOnce() -> T) -> f64 {
        if !self.cpu_time {
            return kvd_benches::seconds(work);
        }
        let now = || clock_gettime(ClockId::ProcessCPUTime);
        let (start, _, end) = (now(), work(), now());
        ((end.tv_sec - start.tv_sec) as f64 + (end.tv_nsec - start.tv_nsec) as f64 / 1e9) / self.pool.threads() as f64
    }

    fn clock(&self) -> &'static str {
        if self.cpu_time { ", CPU time" } else { "" }
    }

    fn rates(&self, seconds: &Interleaved) -> Interleaved {
        seconds.map(|seconds| self.gib() / seconds)
    }

    /// Copy rows on an arena of our own.
    fn bare(&self) -> Result<Vec<Row>> {
        let hashes: Vec<SequenceHash> = (0..self.slots.len()).map(|n| SequenceHash((n as u128 + 1).to_le_bytes())).collect();
        let threads = self.pool.threads();
        self.memcpy(Direction::Store);
        let store = interleave(self.runs, || self.seconds(|| self.store()), || self.memcpy(Direction::Store));
        self.seal(&hashes, &self.store());
        let load = interleave(self.runs, || self.seconds(|| self.load(&hashes)), || self.memcpy(Direction::Load));
        if !self.load(&hashes).iter().all(|whole| *whole) {
            bail!("a block did not arrive whole");
        }
        let row = |name: &str, times: &Interleaved| {
            Row::compare(format!("{name}, {threads} threads, against memcpy{}", self.clock()), "GiB/s", Better::Higher, &self.rates(times))
        };
        Ok(vec![row("copy store", &store), row("copy load", &load)])
    }

    fn store(&self) -> Vec<Checksum> {
        transfer::store(&self.pool, &self.pages, &self.arena, &self.block_ids, &self.slots).expect("all of it exists")
    }

    fn load(&self, hashes: &[SequenceHash]) -> Vec<bool> {
        transfer::load(&self.pool, &self.pages, &self.arena, &self.block_ids, &self.slots, hashes).expect("all of it exists")
    }

    /// What a daemon does when a store completes.
    fn seal(&self, hashes: &[SequenceHash], checksums: &[Checksum]) {
        for ((hash, checksum), slot) in hashes.iter().zip(checksums).zip(&self.slots) {
            let header = BlockHeader {
                hash: *hash,
                parent: SequenceHash::ROOT,
                local: LocalHash(0),
                position: 0,
                created_unix_ms: 0,
                generation: 0,
                layout: self.pages.spec().clone(),
                stripes: vec![*checksum],
                tokens: vec![],
            };
            let mut page = [0; 4096];
            header.encode(&mut page);
            self.arena.write_header(*slot, &page);
        }
    }

    /// The reference: the same pages, places and number of threads, with no checksum. Seconds.
    fn memcpy(&self, direction: Direction) -> f64 {
        let next = AtomicUsize::new(0);
        self.seconds(|| {
            thread::scope(|scope| {
                for _ in 0..self.pool.threads() {
                    scope.spawn(|| {
                        while let Some((block, slot)) = self.pair(next.fetch_add(1, Ordering::Relaxed)) {
                            self.memcpy_block(direction, block, slot);
                        }
                    });
                }
            });
        })
    }

    fn pair(&self, n: usize) -> Option<(usize, SlotIndex)> {
        Some((*self.block_ids.get(n)?, self.slots[n]))
    }

    fn memcpy_block(&self, direction: Direction, block: usize, slot: SlotIndex) {
        let spec = self.pages.spec();
        let stripe = self.arena.address(slot.offset_bytes() + spec.stripe_offset(0), spec.stripe_bytes);
        for (layer, pages) in self.pages.layers().iter().enumerate() {
            let page = (pages.base + block * pages.stride_bytes) as *mut u8;
            // SAFETY: the stripe is in the arena and the page in the bench's memory; each block is copied by one thread, and
            // nobody else touches either while this runs.
            let (stripe, page) = unsafe {
                let stripe = std::slice::from_raw_parts_mut(stripe.add(layer * pages.page_bytes), pages.page_bytes);
                (stripe, std::slice::from_raw_parts_mut(page, pages.page_bytes))
            };
            match direction {
                Direction::Store => stripe.copy_from_slice(page),
                Direction::Load => page.copy_from_slice(stripe),
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Store,
    Load,
}

fn layout(stripe_bytes: u64) -> LayoutSpec {
    LayoutSpec {
        model: "bench/llama-3-8b".into(),
        weights: "none".into(),
        kv_dtype: "bfloat16".into(),
        block_tokens: BLOCK_TOKENS,
        group: 0,
        attention: "full_attention".into(),
        geometry: "bench".into(),
        ranks: 1,
        stripe_bytes,
    }
}

/// `kvd` beside this bench: both are built into the same folder.
fn daemon_binary() -> Option<PathBuf> {
    let binary = std::env::current_exe().ok()?.with_file_name("kvd");
    binary.is_file().then_some(binary)
}

/// A daemon of our own, ended with the bench.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This process as an engine of that daemon.
struct Engine {
    client: Client,
    worker: WorkerLink,
    _daemon: Daemon,
    _dir: tempfile::TempDir,
}

const LARGE: usize = 0;
const SMALL: usize = 1;
const SMALL_STRIPE_BYTES: u64 = 4096;

impl Engine {
    /// Starts a daemon whose arena has room for every block of the bench, and connects to it.
    fn start(binary: &Path, bench: &Bench) -> Result<Engine> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("kvd.sock");
        let daemon = start_daemon(binary, dir.path(), &socket, bench.arena.bytes() * 5 / 4 + (256 << 20))?;
        let client = Client::connect(ClientOptions {
            socket: socket.clone(),
            engine: "bench".into(),
            software: "bench".into(),
            layouts: vec![bench.pages.spec().clone(), layout(SMALL_STRIPE_BYTES)],
            timeout: Duration::from_secs(5),
        });
        let worker = WorkerLink::connect(socket, "bench".into(), "bench".into(), bench.pool.threads());
        if !client.wait_connected(Duration::from_secs(10)) || !worker.wait_connected(Duration::from_secs(10)) {
            bail!("kvd did not start: {:?}", client.last_error());
        }
        Ok(Engine { client, worker, _daemon: daemon, _dir: dir })
    }

    /// Stores all blocks of a chain: lease, copy, completion.
    fn store(&self, layout: usize, chain: &RequestChain, pages: &Arc<PagedKv>, block_ids: &[usize]) -> Result<()> {
        let lease = self.client.prepare_store(layout, chain.new_blocks(0..chain.num_blocks()))?;
        let slots: Vec<SlotIndex> =
            lease.grants().iter().filter_map(|grant| if let StoreGrant::Write(slot) = grant { Some(*slot) } else { None }).collect();
        if slots.len() != block_ids.len() {
            bail!("kvd gave {} slots for {} blocks", slots.len(), block_ids.len());
        }
        let checksums = self.worker.store(pages, lease.incarnation(), block_ids, &slots)?;
        let filled = checksums.into_iter().enumerate().map(|(n, checksum)| FilledBlock { index: n as u32, stripes: vec![checksum] });
        lease.complete(filled.collect());
        Ok(())
    }

    /// Loads all blocks of a chain: lease, copy with verification, completion.
    fn load(&self, layout: usize, chain: &RequestChain, pages: &Arc<PagedKv>, block_ids: &[usize]) -> Result<()> {
        let hashes: Vec<SequenceHash> = chain.hashes(0..chain.num_blocks()).collect();
        let lease = self.client.prepare_load(layout, &hashes, 0)?;
        let slots: Vec<SlotIndex> =
            lease.grants().iter().filter_map(|grant| if let LoadGrant::Ready(slot) = grant { Some(*slot) } else { None }).collect();
        if slots.len() != hashes.len() {
            bail!("kvd has {} of {} blocks", slots.len(), hashes.len());
        }
        let whole = self.worker.load(pages, lease.incarnation(), block_ids, &slots, &hashes)?;
        lease.complete(Vec::new());
        if whole.contains(&false) { bail!("a block did not arrive whole") } else { Ok(()) }
    }
}

fn start_daemon(binary: &Path, dir: &Path, socket: &Path, arena_bytes: u64) -> Result<Daemon> {
    let config = dir.join("kvd.toml");
    let text = format!(
        "[arena]\nbytes = {arena_bytes}\nprefault = true\n[nvme]\nenabled = false\n[engine]\nsocket = \"{}\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n[events]\nenabled = false\n",
        socket.display()
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(binary);
    command.arg("serve").arg("--config").arg(config).env("KVD_LOG", "warn").stdout(Stdio::null());
    Ok(Daemon(command.spawn().with_context(|| format!("starting {}", binary.display()))?))
}

/// A request of its own: no two seeds share a block.
fn chain(blocks: usize, seed: u32) -> RequestChain {
    let mut chain = RequestChain::new(BLOCK_TOKENS as usize, &Default::default(), vec![]);
    let tokens: Vec<u32> = (0..blocks as u32 * BLOCK_TOKENS).map(|token| token ^ seed << 20).collect();
    chain.extend(&tokens);
    chain
}

impl Bench {
    fn with_daemon(&self, binary: &Path, report: &mut Report) -> Result<()> {
        let engine = Engine::start(binary, self)?;
        let mut seed = 0;
        let mut store = || -> Result<f64> {
            seed += 1;
            let chain = chain(self.slots.len(), seed);
            let mut outcome = Ok(());
            let seconds = self.seconds(|| outcome = engine.store(LARGE, &chain, &self.pages, &self.block_ids));
            outcome.map(|()| seconds)
        };
        let first = store()?;
        report.push(Row::alone(
            format!("first store through kvd, arena pages not mapped yet{}", self.clock()),
            "GiB/s",
            &[self.gib() / first],
        ));
        // Eviction takes the slots in turn: after two more rounds every slot has been touched from here.
        (0..2).try_for_each(|_| store().map(drop))?;
        let times = interleave(self.runs, || store().expect("it worked before"), || self.memcpy(Direction::Store));
        report.push(Row::compare(
            format!("store through kvd, against memcpy{}", self.clock()),
            "GiB/s",
            Better::Higher,
            &self.rates(&times),
        ));
        let last = chain(self.slots.len(), seed);
        let load = || self.seconds(|| engine.load(LARGE, &last, &self.pages, &self.block_ids).expect("it was stored last"));
        let times = interleave(self.runs, load, || self.memcpy(Direction::Load));
        report.push(Row::compare(
            format!("load through kvd, against memcpy{}", self.clock()),
            "GiB/s",
            Better::Higher,
            &self.rates(&times),
        ));
        self.lookups(&engine, report)
    }

    /// Round trips of a lookup in which every block is found.
    fn lookups(&self, engine: &Engine, report: &mut Report) -> Result<()> {
        const LOOKUPS: usize = 500;
        let mut page = vec![1u8; SMALL_STRIPE_BYTES as usize];
        let bytes = page.len();
        let layer = LayerPages { base: page.as_mut_ptr() as usize, page_bytes: bytes, stride_bytes: bytes, num_blocks: 1 };
        // SAFETY: the page outlives the store below, which only reads it.
        let pages = Arc::new(unsafe { PagedKv::new(vec![layer], 0, layout(SMALL_STRIPE_BYTES)) }?);
        let chain = chain(self.lookup_blocks, 4000);
        engine.store(SMALL, &chain, &pages, &vec![0; self.lookup_blocks])?;
        let hashes: Vec<SequenceHash> = chain.hashes(0..chain.num_blocks()).collect();
        let mut micros = Vec::with_capacity(LOOKUPS);
        for _ in 0..LOOKUPS {
            let since = Instant::now();
            let states = engine.client.lookup(SMALL, &hashes, true)?;
            micros.push(since.elapsed().as_secs_f64() * 1e6);
            if states.len() != hashes.len() || !states.iter().all(|state| state.is_hit()) {
                bail!("a lookup found {} of {} blocks", states.len(), hashes.len());
            }
        }
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let row = Row::alone(format!("lookup of {} blocks, {name}", hashes.len()), "us", &[percentile(&micros, share)]);
            report.push(Row { runs: LOOKUPS, ..row });
        }
        Ok(())
    }
}
