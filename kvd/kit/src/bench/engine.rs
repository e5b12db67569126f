//! One engine as the daemon sees it: lookups and leases over its socket, copies through the arena, every byte checked.
//!
//! What an engine would compute is made from the block's name instead, in no time or in that of a simulated GPU. Loads and stores go
//! in windows, the next one asked for while the last one is copied, as engines do that load layer by layer.

use super::blocks::chain;
use super::error::BenchError;
use super::plan::Plan;
use super::tally::{Tally, Times, add};
use crate::payload::Payload;
use crate::trace::Request;
use kvd_block::{LayoutSpec, SequenceHash, SlotIndex};
use kvd_connector::{Client, ClientOptions, Load, OwnedPages, RequestChain, WorkerLink};
use kvd_proto::local::{BlockState, FilledBlock, LoadGrant, StoreGrant};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A daemon that answers later than this is broken, not slow.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Blocks in one lease at most.
const MOST_WINDOW: u64 = 64;
/// Pages of each thread. More than one, so that the copy does not stay in the CPU's caches.
const PAGES: usize = 4;

/// One engine: a control connection, and a worker connection that maps the arena.
#[derive(Debug)]
pub struct Engine<'a> {
    client: Client,
    worker: WorkerLink,
    spec: LayoutSpec,
    payload: Payload,
    window: usize,
    deadline: Duration,
    most_input_tokens: Option<u64>,
    gpu: Option<Gpu>,
    verifies: bool,
    tally: &'a Tally,
    stop: &'a AtomicBool,
}

/// What one thread copies with: pages of each rank.
#[derive(Debug)]
pub struct Hands {
    ranks: Vec<OwnedPages>,
    next: usize,
}

struct Window<'a> {
    asked: Instant,
    hashes: &'a [SequenceHash],
    load: Load,
}

impl<'a> Engine<'a> {
    /// Connects. `verifies`: the medium keeps what is stored, so what comes back can be judged.
    pub fn connect(
        plan: &Plan,
        spec: &LayoutSpec,
        socket: &Path,
        verifies: bool,
        tally: &'a Tally,
        stop: &'a AtomicBool,
    ) -> Result<Engine<'a>, BenchError> {
        let name = format!("kvd-bench-{}", std::process::id());
        let software = format!("kvd bench {}", env!("CARGO_PKG_VERSION"));
        let worker = WorkerLink::connect(socket.into(), name.clone(), software.clone(), 0);
        let options = ClientOptions { socket: socket.into(), engine: name, software, layouts: vec![spec.clone()], timeout: ANSWER_WITHIN };
        let client = Client::connect(options);
        for (connected, why) in
            [(client.wait_connected(CONNECT_WITHIN), client.last_error()), (worker.wait_connected(CONNECT_WITHIN), worker.last_error())]
        {
            if !connected {
                let what = format!("does not let an engine connect ({})", why.unwrap_or_else(|| "no answer".into()));
                return Err(BenchError::Daemon { what, journal: String::new() });
            }
        }
        // Two windows of loads and one of stores a thread, in half of the arena: the other half is a cache.
        let slots = plan.arena_bytes / spec.slot_bytes();
        let window = (slots / (6 * plan.concurrency as u64)).clamp(1, MOST_WINDOW) as usize;
        Ok(Engine {
            client,
            worker,
            spec: spec.clone(),
            payload: Payload::new(plan.compressible),
            window,
            deadline: plan.deadline,
            most_input_tokens: plan.most_input_tokens,
            gpu: plan.prefill_tokens_per_second.map(Gpu::new),
            verifies,
            tally,
            stop,
        })
    }

    /// What a thread needs to copy.
    pub fn hands(&self) -> Hands {
        let pages = |rank| OwnedPages::new(self.spec.clone(), rank, PAGES).expect("the layout was checked");
        Hands { ranks: (0..self.spec.ranks).map(pages).collect(), next: 0 }
    }

    /// Serves one request that was meant to begin at `intended`.
    ///
    /// # Errors
    /// When its blocks do not fit the layout.
    pub fn serve(&self, request: &Request, intended: Instant, hands: &mut Hands) -> Result<(), String> {
        let started = Instant::now();
        let chain = chain(request, self.spec.block_tokens, self.most_input_tokens)?;
        let (block_tokens, blocks) = (u64::from(self.spec.block_tokens), chain.num_blocks());
        let mut times = Times::default();
        let loaded = self.load(&chain, hands, &mut times);
        let loaded_at = Instant::now();
        times.load = loaded_at - intended.min(started);
        times.load_uncorrected = loaded_at - started;
        times.loaded_tokens = loaded as u64 * block_tokens;
        if let Some(gpu) = &self.gpu {
            let input = request.input_tokens.min(self.most_input_tokens.unwrap_or(u64::MAX));
            // At least the last token is always computed: its output is the first token of the answer.
            gpu.compute(input.saturating_sub(times.loaded_tokens).max(1), self.stop);
        }
        times.first_token = Instant::now() - intended.min(started);
        self.store(&chain, loaded, hands, &mut times);
        if !self.stop.load(Ordering::Relaxed) {
            add(&self.tally.sums.requests, 1);
            add(&self.tally.sums.asked_tokens, blocks as u64 * block_tokens);
            let busy = times.load_uncorrected + times.stores.iter().sum::<Duration>();
            add(&self.tally.sums.busy_us, busy.as_micros() as u64);
            self.tally.record(intended, &times);
        }
        Ok(())
    }

    /// Loads the longest prefix that is cached. Returns its length in blocks.
    fn load(&self, chain: &RequestChain, hands: &mut Hands, times: &mut Times) -> usize {
        let hashes: Vec<SequenceHash> = chain.hashes(0..usize::MAX).collect();
        let Ok(states) = self.client.lookup(0, &hashes, true) else {
            add(&self.tally.sums.unanswered, 1);
            return 0;
        };
        let found = states.iter().take_while(|state| BlockState::is_hit(**state)).count();
        let mut windows = hashes[..found].chunks(self.window);
        let mut ahead = windows.next().and_then(|hashes| self.ask(hashes));
        let mut loaded = 0;
        while let Some(window) = ahead.take() {
            ahead = windows.next().and_then(|hashes| self.ask(hashes));
            let whole = self.take(&window, hands, times);
            loaded += whole;
            if whole < window.hashes.len() || self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        loaded
    }

    fn ask<'b>(&self, hashes: &'b [SequenceHash]) -> Option<Window<'b>> {
        let asked = Instant::now();
        match self.client.prepare_load(0, hashes, self.deadline.as_millis() as u32) {
            Ok(load) => Some(Window { asked, hashes, load }),
            Err(_) => {
                add(&self.tally.sums.unanswered, 1);
                None
            }
        }
    }

    /// Copies the blocks of a window as they arrive, in order, until one is missing. Returns how many came whole.
    fn take(&self, window: &Window, hands: &mut Hands, times: &mut Times) -> usize {
        let in_arena: Vec<bool> = window.load.grants().iter().map(|grant| matches!(grant, LoadGrant::Ready(_))).collect();
        let mut corrupt = Vec::new();
        let mut whole = 0;
        for (index, hash) in window.hashes.iter().enumerate() {
            // The daemon settles every block by its deadline; the rest is for a daemon that does not.
            let LoadGrant::Ready(slot) = window.load.wait_block(index, self.deadline + ANSWER_WITHIN) else {
                add(&self.tally.sums.missed_blocks, 1);
                break;
            };
            if !self.copy_out(window.load.incarnation(), slot, *hash, hands) {
                add(&self.tally.sums.refused_blocks, 1);
                corrupt.push(index as u32);
                break;
            }
            whole += 1;
            self.count(in_arena[index], window.asked.elapsed(), times);
        }
        window.load.complete(corrupt);
        whole
    }

    fn count(&self, in_arena: bool, latency: Duration, times: &mut Times) {
        let sums = &self.tally.sums;
        let (tokens, bytes, latencies) = match in_arena {
            true => (&sums.arena_tokens, &sums.arena_bytes, &mut times.arena_blocks),
            false => (&sums.storage_tokens, &sums.storage_bytes, &mut times.storage_blocks),
        };
        add(tokens, u64::from(self.spec.block_tokens));
        add(bytes, self.spec.payload_bytes());
        latencies.push(latency);
    }

    /// False when a checksum did not match, so that the block must be computed.
    fn copy_out(&self, incarnation: u64, slot: SlotIndex, hash: SequenceHash, hands: &mut Hands) -> bool {
        let page = hands.turn();
        for (rank, pages) in hands.ranks.iter_mut().enumerate() {
            let whole = pages.load(&self.worker, incarnation, &[page], &[slot], &[hash]).is_ok_and(|whole| whole[0]);
            if !self.verifies {
                continue;
            }
            if !whole {
                return false;
            }
            add(&self.tally.sums.wrong_bytes, self.payload.wrong_bytes(hash, rank as u16, pages.page(page)));
        }
        add(&self.tally.sums.verified_blocks, u64::from(self.verifies));
        true
    }

    /// Stores what was not loaded.
    fn store(&self, chain: &RequestChain, loaded: usize, hands: &mut Hands, times: &mut Times) {
        for start in (loaded..chain.num_blocks()).step_by(self.window) {
            if self.stop.load(Ordering::Relaxed) || !self.store_window(chain, start, hands, times) {
                return;
            }
        }
    }

    /// False when the daemon has no room, so that blocks behind would only hang in the air.
    fn store_window(&self, chain: &RequestChain, start: usize, hands: &mut Hands, times: &mut Times) -> bool {
        let asked = Instant::now();
        let blocks = chain.new_blocks(start..start + self.window);
        let hashes: Vec<SequenceHash> = blocks.iter().map(|block| block.hash).collect();
        let Ok(store) = self.client.prepare_store(0, blocks) else {
            add(&self.tally.sums.unanswered, 1);
            return false;
        };
        let mut filled = Vec::new();
        for (index, grant) in store.grants().iter().enumerate() {
            if let StoreGrant::Write(slot) = grant
                && let Some(stripes) = self.copy_in(store.incarnation(), *slot, hashes[index], hands)
            {
                filled.push(FilledBlock { index: index as u32, stripes });
            }
        }
        let busy = store.grants().iter().filter(|grant| **grant == StoreGrant::Busy).count() as u64;
        add(&self.tally.sums.busy_blocks, busy);
        add(&self.tally.sums.stored_blocks, filled.len() as u64);
        add(&self.tally.sums.stored_bytes, filled.len() as u64 * self.spec.payload_bytes());
        store.complete(filled);
        times.stores.push(asked.elapsed());
        busy == 0
    }

    fn copy_in(&self, incarnation: u64, slot: SlotIndex, hash: SequenceHash, hands: &mut Hands) -> Option<Vec<kvd_block::Checksum>> {
        let page = hands.turn();
        let stripe = |(rank, pages): (usize, &mut OwnedPages)| {
            self.payload.fill(hash, rank as u16, pages.page_mut(page));
            pages.store(&self.worker, incarnation, &[page], &[slot]).ok()?.pop()
        };
        hands.ranks.iter_mut().enumerate().map(stripe).collect()
    }
}

impl Hands {
    fn turn(&mut self) -> usize {
        self.next = (self.next + 1) % PAGES;
        self.next
    }
}

/// A GPU that computes one request after the other, at a fixed speed. It computes nothing.
#[derive(Debug)]
struct Gpu {
    tokens_per_second: f64,
    free_at: Mutex<Instant>,
}

impl Gpu {
    fn new(tokens_per_second: f64) -> Gpu {
        Gpu { tokens_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Returns when `tokens` are computed, after all that was asked for before.
    fn compute(&self, tokens: u64, stop: &AtomicBool) {
        let until = {
            let mut free_at = self.free_at.lock().expect("no panic while held");
            *free_at = (*free_at).max(Instant::now()) + Duration::from_secs_f64(tokens as f64 / self.tokens_per_second);
            *free_at
        };
        sleep_until(until, stop);
    }
}

/// Returns at `until`, or soon after `stop`.
pub fn sleep_until(until: Instant, stop: &AtomicBool) {
    const NAP: Duration = Duration::from_millis(20);
    while !stop.load(Ordering::Relaxed) {
        match until.checked_duration_since(Instant::now()) {
            None | Some(Duration::ZERO) => return,
            Some(left) => std::thread::sleep(left.min(NAP)),
        }
    }
}
