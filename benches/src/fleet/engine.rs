//! One engine of the model and the node it runs in. See the parent module for what they do.

use super::cache::Cache;
use super::events::Events;
use super::machine::Machine;
use kvd_router::index::{HolderId, Medium};
use kvd_router::route::Work;
use std::collections::VecDeque;

/// kvd's tiers of one node.
#[derive(Debug)]
pub struct Node {
    pub holder: HolderId,
    pub host: Cache,
    pub disk: Cache,
    /// When the drives have read all that was asked for.
    pub drives_free_ms: f64,
}

impl Node {
    /// A prompt was computed: both tiers have all of it.
    pub fn store(&mut self, now_ms: f64, blocks: &[u64], events: &mut Events) {
        let mut evicted = Vec::new();
        for (tier, medium) in [(&mut self.host, Medium::Host), (&mut self.disk, Medium::Disk)] {
            if tier.capacity() == 0 {
                continue;
            }
            told_of_new(now_ms, self.holder, medium, blocks, tier, events);
            tier.insert(blocks, &mut evicted);
            events.removed(now_ms, self.holder, medium, &evicted);
            evicted.clear();
        }
    }
}

/// Tells of the runs of `blocks` that `tier` does not have yet.
fn told_of_new(now_ms: f64, holder: HolderId, medium: Medium, blocks: &[u64], tier: &Cache, events: &mut Events) {
    let mut from = None;
    for (position, block) in blocks.iter().enumerate() {
        match (tier.contains(*block), from) {
            (false, None) => from = Some(position),
            (true, Some(start)) => {
                events.stored(now_ms, holder, medium, blocks, start, position);
                from = None;
            }
            _ => {}
        }
    }
    if let Some(start) = from {
        events.stored(now_ms, holder, medium, blocks, start, blocks.len());
    }
}

/// What an engine needs to know of a request.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'a> {
    pub blocks: &'a [u64],
    pub block_tokens: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

impl Prompt<'_> {
    /// An engine computes at least the last token.
    fn cached_tokens(&self, blocks: usize) -> u64 {
        (blocks as u64 * self.block_tokens).min(self.input_tokens.saturating_sub(1))
    }

    fn total_blocks(&self) -> usize {
        (self.input_tokens + self.output_tokens).div_ceil(self.block_tokens) as usize
    }
}

/// Blocks that are loaded from one tier, and how long that takes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Loading {
    pub blocks: usize,
    pub bytes: u64,
    pub took_ms: f64,
}

/// A request that an engine has admitted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Job {
    pub request: usize,
    /// Blocks of the prompt in use so far.
    pinned: usize,
    /// Places promised to it beside those.
    promised: usize,
    /// End of what is loaded.
    loaded_to: usize,
    ready_ms: f64,
    /// From the host and from disk.
    pub loading: [Loading; 2],
    /// Blocks found on the device, in the host and on disk.
    pub found: [usize; 3],
    pub cached_tokens: u64,
    pub prefill_ms: f64,
}

/// One engine.
#[derive(Debug)]
pub struct Engine {
    pub holder: HolderId,
    pub node: usize,
    pub device: Cache,
    /// Not admitted yet.
    pub waiting: VecDeque<usize>,
    line: Vec<Job>,
    pub computing: Option<Job>,
    pub decoding: usize,
    link_free_ms: f64,
    pub busy_ms: f64,
}

impl Engine {
    pub fn new(holder: HolderId, node: usize, capacity_blocks: usize) -> Engine {
        Engine {
            holder,
            node,
            device: Cache::new(capacity_blocks),
            waiting: VecDeque::new(),
            line: Vec::new(),
            computing: None,
            decoding: 0,
            link_free_ms: 0.0,
            busy_ms: 0.0,
        }
    }

    /// Whether a request fits beside those in use. One alone always does.
    pub fn has_room(&self, prompt: &Prompt<'_>) -> bool {
        self.device.in_use() == 0 || self.device.in_use() + prompt.total_blocks() <= self.device.capacity()
    }

    /// Admits a request: takes what is on the device, starts loading. Returns when it can be computed.
    pub fn admit(
        &mut self,
        now_ms: f64,
        request: usize,
        prompt: &Prompt<'_>,
        node: &mut Node,
        machine: &Machine,
        events: &mut Events,
    ) -> f64 {
        let pinned = self.device.prefix(prompt.blocks);
        self.device.pin(&prompt.blocks[..pinned]);
        let promised = prompt.total_blocks() - pinned;
        let mut evicted = Vec::new();
        self.device.reserve(promised, &mut evicted);
        events.removed(now_ms, self.holder, Medium::Device, &evicted);
        let mut job = Job { request, pinned, promised, loaded_to: pinned, ready_ms: now_ms, ..Job::default() };
        self.load(now_ms, &mut job, prompt, node, machine);
        self.line.push(job);
        job.ready_ms
    }

    /// Starts loading as much of what the node has as is quicker to load than to compute.
    fn load(&mut self, now_ms: f64, job: &mut Job, prompt: &Prompt<'_>, node: &mut Node, machine: &Machine) {
        let block_bytes = machine.token_bytes * prompt.block_tokens;
        let mut cuts = vec![(job.pinned, [0usize; 2])];
        let mut counts = [0usize; 2];
        for (end, block) in (job.pinned + 1..).zip(&prompt.blocks[job.pinned..]) {
            let tier = if node.host.contains(*block) { 0 } else { 1 };
            if tier == 1 && !node.disk.contains(*block) {
                break;
            }
            counts[tier] += 1;
            // Everything from the host so far, or everything: other cuts are never best by much.
            if counts[1] <= 1 && tier == 1 {
                cuts.push((end - 1, [counts[0], 0]));
            }
            match cuts.last_mut().filter(|(_, last)| (last[1] > 0) == (counts[1] > 0) && last[0] + last[1] > 0) {
                Some(last) => *last = (end, counts),
                None => cuts.push((end, counts)),
            }
        }
        let ready = |counts: &[usize; 2]| {
            let host_ms = self.link_free_ms.max(now_ms) + (counts[0] as u64 * block_bytes) as f64 / machine.host_rate;
            let disk_ms = node.drives_free_ms.max(now_ms) + (counts[1] as u64 * block_bytes) as f64 / machine.disk_rate;
            [if counts[0] > 0 { host_ms } else { now_ms }, if counts[1] > 0 { disk_ms } else { now_ms }]
        };
        let done = |(end, counts): &(usize, [usize; 2])| {
            let work = Work::of(prompt.input_tokens, prompt.cached_tokens(*end));
            let [host_ms, disk_ms] = ready(counts);
            host_ms.max(disk_ms) + machine.prefill_ms(work, self.decoding)
        };
        let Some((end, counts)) = cuts.iter().min_by(|a, b| done(a).total_cmp(&done(b))).copied() else { return };
        let ready_ms = ready(&counts);
        for tier in 0..2 {
            let bytes = counts[tier] as u64 * block_bytes;
            job.loading[tier] = Loading { blocks: counts[tier], bytes, took_ms: ready_ms[tier] - now_ms };
        }
        if counts[0] > 0 {
            self.link_free_ms = ready_ms[0];
        }
        if counts[1] > 0 {
            node.drives_free_ms = ready_ms[1];
        }
        (job.loaded_to, job.ready_ms) = (end, ready_ms[0].max(ready_ms[1]));
    }

    /// Begins to compute the first prompt that is loaded, if the engine is free. Returns when that is done.
    pub fn start<'a>(
        &mut self,
        now_ms: f64,
        prompt_of: impl Fn(usize) -> Prompt<'a>,
        machine: &Machine,
        events: &mut Events,
    ) -> Option<f64> {
        if self.computing.is_some() {
            return None;
        }
        let next = self.line.iter().position(|job| job.ready_ms <= now_ms)?;
        let mut job = self.line.remove(next);
        let prompt = prompt_of(job.request);
        // Requests before this one may have computed some of it meanwhile.
        let on_device = self.device.prefix(prompt.blocks).max(job.pinned);
        self.take_promised(&mut job, prompt.blocks, on_device);
        let loaded_to = job.loaded_to.max(on_device);
        events.stored(now_ms, self.holder, Medium::Device, prompt.blocks, on_device, loaded_to);
        self.take_promised(&mut job, prompt.blocks, loaded_to);
        let loaded = loaded_to - on_device;
        let from_disk = job.loading[1].blocks.min(loaded);
        job.found = [on_device, loaded - from_disk, from_disk];
        job.cached_tokens = prompt.cached_tokens(loaded_to);
        let work = Work::of(prompt.input_tokens, job.cached_tokens);
        job.prefill_ms = machine.prefill_ms(work, self.decoding) * Machine::noise(job.request as u64);
        self.busy_ms += job.prefill_ms;
        self.computing = Some(job);
        Some(now_ms + job.prefill_ms)
    }

    /// The blocks up to `to` take the places promised to them.
    fn take_promised(&mut self, job: &mut Job, blocks: &[u64], to: usize) {
        self.device.release(to - job.pinned);
        job.promised -= to - job.pinned;
        self.device.pin(&blocks[job.pinned..to]);
        job.pinned = to;
    }

    /// The prompt is computed: its blocks are there. Returns the job, and how long its answer takes.
    pub fn computed(&mut self, now_ms: f64, prompt: &Prompt<'_>, machine: &Machine, events: &mut Events) -> Option<(Job, f64)> {
        let mut job = self.computing.take()?;
        told_of_new(now_ms, self.holder, Medium::Device, prompt.blocks, &self.device, events);
        self.take_promised(&mut job, prompt.blocks, prompt.blocks.len());
        self.decoding += 1;
        let tokens = prompt.output_tokens.saturating_sub(1) as f64;
        let answer_ms = tokens * machine.token_out_ms(self.decoding) * Machine::noise(!(job.request as u64));
        Some((job, answer_ms))
    }

    /// The answer ended: nothing of the request is in use any more.
    pub fn finished(&mut self, prompt: &Prompt<'_>) {
        self.device.unpin(prompt.blocks);
        self.device.release(prompt.total_blocks() - prompt.blocks.len());
        self.decoding -= 1;
    }
}
