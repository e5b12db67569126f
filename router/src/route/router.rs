//! The router as a value: workers, loads, speeds and memories, and the decisions made of them.

use super::affinity::Affinity;
use super::decision::{Decision, Evidence, Fallback, History, Priced};
use super::footprints::{Footprints, Mark, Trail, mark};
use super::learn::{Speeds, Work};
use super::load::{Load, Loads, Reservation, ReserveError};
use super::modes::{Lot, pick};
use super::price::{Offer, Prompt, Terms, interference_ms, price};
use super::request::{Candidate, Excluded, Known, RequestId, Role, RouteRequest, WorkerId, WorkerProfile};
use super::settings::{Mode, RouteSettings, WrongSetting};
use crate::index::Reach;
use kvd_block::LocalHash;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Who takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The request.
    pub request: RequestId,
    /// The worker.
    pub worker: WorkerId,
    /// What it costs there.
    pub terms: Terms,
    /// What the price of reuse rests on.
    pub evidence: Evidence,
    /// Why the mode that is set did not decide.
    pub fallback: Option<Fallback>,
}

/// Why nobody takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing to choose from.
    #[error("no worker is registered for this model")]
    NoCandidates,
    /// Workers that could take it have too much to do: wait.
    #[error("all {0} workers that could take the request have as much to do as they may")]
    Full(usize),
    /// None ever can; `explain` says why for each.
    #[error("none of {candidates} workers can take the request: {first}")]
    Excluded {
        /// How many were asked.
        candidates: usize,
        /// Why the first cannot.
        first: Excluded,
    },
    /// `direct` without a worker.
    #[error("mode direct needs a request that names its worker")]
    NotPinned,
}

/// What the engine said about a prompt it computed; all of it optional.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    /// Tokens that it found in its cache or loaded.
    pub cached_tokens: Option<u32>,
    /// Milliseconds it computed, waiting and loading aside.
    pub prefill_ms: Option<f64>,
    /// Bytes loaded from host, disk and elsewhere, and the milliseconds that took.
    pub loaded: [Option<(u64, f64)>; 3],
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Requests for which somebody was chosen.
    pub decided: u64,
    /// Times that nobody could take a request.
    pub refused: u64,
    /// Decisions by load because the index was complete for no candidate.
    pub all_unknown: u64,
    /// Decisions in which it was not complete for some.
    pub some_unknown: u64,
    /// Requests whose lease ended.
    pub lost: u64,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) profile: WorkerProfile,
    pub(super) speeds: Speeds,
}

/// See the module.
#[derive(Debug)]
pub struct Router {
    pub(super) settings: RouteSettings,
    pub(super) workers: Vec<Option<Worker>>,
    fleet: Speeds,
    pub(super) loads: Loads,
    footprints: Footprints,
    affinity: Affinity,
    history: History,
    /// Marks of the prompts that are reserved.
    marked: HashMap<RequestId, Box<[Mark]>>,
    turn: Option<WorkerId>,
    counters: Counters,
    marks: Vec<Mark>,
    pub(super) trails: Vec<Trail>,
}

impl Router {
    /// A router without workers.
    pub fn new(settings: RouteSettings) -> Result<Router, WrongSetting> {
        settings.check()?;
        Ok(Router {
            workers: Vec::new(),
            fleet: Speeds::new(&settings.start),
            loads: Loads::new(settings.lease_ms, settings.active_requests),
            footprints: Footprints::new(settings.sent_ttl_ms, settings.sent_marks),
            affinity: Affinity::new(settings.affinity_ttl_ms, settings.affinity_sessions),
            history: History::new(settings.history_bytes),
            marked: HashMap::new(),
            turn: None,
            counters: Counters::default(),
            marks: Vec::new(),
            trails: Vec::new(),
            settings,
        })
    }

    /// One more worker. It is thought to be as fast as the others proved to be. Ids of workers that left are given again.
    pub fn add_worker(&mut self, profile: WorkerProfile) -> WorkerId {
        let worker = Some(Worker { profile, speeds: self.fleet.like() });
        let place = self.workers.iter().position(Option::is_none).unwrap_or(self.workers.len());
        if place == self.workers.len() {
            self.workers.push(worker);
        } else {
            self.workers[place] = worker;
        }
        WorkerId(place as u32)
    }

    /// A worker left. Returns the requests that were reserved there.
    pub fn remove_worker(&mut self, now_ms: f64, worker: WorkerId) -> Vec<RequestId> {
        let Some(place) = self.workers.get_mut(worker.0 as usize).filter(|place| place.is_some()) else { return Vec::new() };
        *place = None;
        let gone = self.loads.forget(now_ms, worker);
        gone.iter().for_each(|id| drop(self.marked.remove(id)));
        self.footprints.forget(worker);
        self.affinity.forget(worker);
        gone
    }

    /// What `worker` said of itself.
    pub fn profile(&self, worker: WorkerId) -> Option<&WorkerProfile> {
        self.worker(worker).map(|worker| &worker.profile)
    }

    /// What `worker` has to do.
    pub fn load(&self, worker: WorkerId) -> Load {
        self.loads.of(worker)
    }

    /// Milliseconds until `worker` has computed all prompts sent there.
    pub fn queue_ms(&self, now_ms: f64, worker: WorkerId) -> f64 {
        let Some(of) = self.worker(worker) else { return 0.0 };
        let speeds = if of.speeds.is_known() { &of.speeds } else { &self.fleet };
        self.loads.queue_ms(worker, speeds, self.settings.prefill_chunk_tokens, now_ms)
    }

    /// How fast `worker` proved to be.
    pub fn speeds(&self, worker: WorkerId) -> Option<&Speeds> {
        self.worker(worker).map(|worker| &worker.speeds)
    }

    /// What happened since the start.
    pub fn counters(&self) -> Counters {
        Counters { lost: self.loads.lost(), ..self.counters }
    }

    /// The latest decisions.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The latest decision about `request` as a table and a sentence; `None` when it is no longer kept.
    pub fn explain(&self, request: RequestId) -> Option<String> {
        let name = |worker: WorkerId| self.profile(worker).map_or_else(|| worker.to_string(), |profile| profile.name.clone());
        self.history.about(request).map(|decision| decision.explain(name))
    }

    pub(super) fn worker(&self, worker: WorkerId) -> Option<&Worker> {
        self.workers.get(worker.0 as usize)?.as_ref()
    }

    /// Chooses among `candidates`; `blocks` are the hashes of the prompt's whole blocks. Changes nothing but memories of decisions.
    pub fn select(
        &mut self,
        now_ms: f64,
        request: &RouteRequest,
        blocks: &[LocalHash],
        candidates: &[Candidate],
    ) -> Result<Choice, Refusal> {
        self.select_part(now_ms, request, blocks, candidates, Role::Both)
    }

    /// Chooses, and reserves the request there.
    pub fn route(
        &mut self,
        now_ms: f64,
        request: &RouteRequest,
        blocks: &[LocalHash],
        candidates: &[Candidate],
    ) -> Result<Choice, RouteError> {
        let choice = self.select(now_ms, request, blocks, candidates)?;
        self.reserve(now_ms, request, blocks, choice.worker, &choice.terms)?;
        Ok(choice)
    }

    pub(super) fn select_part(
        &mut self,
        now_ms: f64,
        request: &RouteRequest,
        blocks: &[LocalHash],
        candidates: &[Candidate],
        part: Role,
    ) -> Result<Choice, Refusal> {
        let decision = self.decide(now_ms, request, blocks, candidates, part);
        let chosen = decision.won().map(|won| Choice {
            request: request.id,
            worker: won.worker,
            terms: won.terms,
            evidence: won.evidence,
            fallback: decision.fallback,
        });
        let chosen = chosen.ok_or_else(|| refusal(&decision, request));
        match &chosen {
            Ok(_) => self.counters.decided += 1,
            Err(_) => self.counters.refused += 1,
        }
        self.counters.all_unknown += u64::from(decision.fallback == Some(Fallback::AllUnknown));
        self.counters.some_unknown += u64::from(decision.fallback == Some(Fallback::SomeUnknown));
        self.history.keep(decision);
        chosen
    }

    fn decide(&mut self, now_ms: f64, request: &RouteRequest, blocks: &[LocalHash], candidates: &[Candidate], part: Role) -> Decision {
        let mut priced = self.price_all(now_ms, request, blocks, candidates, part);
        let mode = if request.pinned.is_some() { Mode::Direct } else { self.settings.mode };
        if mode == Mode::Direct && request.pinned.is_none() {
            priced.iter_mut().for_each(|priced| priced.excluded = Some(Excluded::PinnedElsewhere));
        }
        let open = |evidence: Option<Evidence>| {
            priced.iter().any(|priced| priced.excluded.is_none() && evidence.is_none_or(|evidence| priced.evidence == evidence))
        };
        let is_told = open(Some(Evidence::Index)) || open(Some(Evidence::Coming));
        let fallback = match mode {
            Mode::Kv if open(None) && !is_told => Some(Fallback::AllUnknown),
            Mode::Kv if open(Some(Evidence::Sent)) => Some(Fallback::SomeUnknown),
            _ => None,
        };
        let weight = self.weight(&priced, request.prompt_tokens);
        for priced in &mut priced {
            weigh(&mut priced.terms, weight);
        }
        let mut decision = Decision {
            request: request.id,
            at_ms: now_ms,
            mode,
            fallback,
            prompt_tokens: request.prompt_tokens,
            weight,
            temperature_ms: self.settings.temperature_ms,
            winner: None,
            candidates: priced,
        };
        let lot = Lot::of(self.settings.seed, request.id);
        let winner = pick(decision.made_by(), &decision.candidates, lot, decision.temperature_ms, &mut self.turn);
        decision.winner = winner.map(|at| decision.candidates[at].worker);
        decision
    }

    fn price_all(
        &mut self,
        now_ms: f64,
        request: &RouteRequest,
        blocks: &[LocalHash],
        candidates: &[Candidate],
        part: Role,
    ) -> Vec<Priced> {
        self.marks.clear();
        mark(blocks, self.settings.sent_stride_blocks, &mut self.marks);
        self.trails.clear();
        self.trails.resize(self.workers.len(), Trail::default());
        self.footprints.follow(now_ms, &self.marks, &mut self.trails);
        let last = self.affinity.of(now_ms, request.session);
        let mut priced = self.history.scratch();
        for candidate in candidates {
            let trail = self.trails.get(candidate.worker.0 as usize).copied().unwrap_or_default();
            priced.push(self.price_one(now_ms, request, candidate, trail, part, last));
        }
        priced
    }

    pub(super) fn price_one(
        &self,
        now_ms: f64,
        request: &RouteRequest,
        candidate: &Candidate,
        trail: Trail,
        part: Role,
        last: Option<WorkerId>,
    ) -> Priced {
        let settings = &self.settings;
        let Some(worker) = self.worker(candidate.worker) else {
            return Priced { worker: candidate.worker, excluded: Some(Excluded::NotRegistered), ..Priced::default() };
        };
        let load = self.loads.of(candidate.worker);
        let (reach, evidence) = known(settings.mode, candidate.known, trail);
        let speeds = if worker.speeds.is_known() { &worker.speeds } else { &self.fleet };
        let offer = Offer {
            reach,
            speeds,
            queue_ms: self.loads.queue_ms(candidate.worker, speeds, settings.prefill_chunk_tokens, now_ms),
            room_ms: room_ms(&worker.profile, &load, request, speeds),
            decoding: load.decoding.into(),
            block_bytes: worker.profile.block_bytes,
            affinity_ms: if last == Some(candidate.worker) { settings.affinity_ms } else { 0.0 },
            labels_ms: settings.preferred_label_ms * worker.profile.preferred(request) as f64,
        };
        let prompt = Prompt {
            tokens: request.prompt_tokens,
            block_tokens: request.block_tokens,
            weight: 1.0,
            onboard_overlap: settings.onboard_overlap,
            chunk_tokens: settings.prefill_chunk_tokens,
        };
        let terms = price(&prompt, &offer);
        let excluded = worker.profile.excludes(candidate.worker, request, part).or_else(|| full(&worker.profile, &load, &terms));
        Priced { worker: candidate.worker, terms, evidence, requests: load.requests(), excluded }
    }

    /// What a millisecond of own work weighs: more when everyone is busy, since whoever comes next waits for it.
    fn weight(&self, priced: &[Priced], prompt_tokens: u32) -> f64 {
        let (mut queue_ms, mut open) = (0.0, 0u32);
        for priced in priced.iter().filter(|priced| priced.excluded.is_none()) {
            queue_ms += priced.terms.queue_ms;
            open += 1;
        }
        let queue_ms = queue_ms / f64::from(open.max(1));
        let cold_ms = self.fleet.prefill_ms(1, Work::of(prompt_tokens.into(), 0)).max(1.0);
        self.settings.overlap_weight * (1.0 + self.settings.scarcity * queue_ms / (queue_ms + cold_ms))
    }

    /// Counts `request` as load of `worker`, by the terms of the choice, and expects its blocks there.
    pub fn reserve(
        &mut self,
        now_ms: f64,
        request: &RouteRequest,
        blocks: &[LocalHash],
        worker: WorkerId,
        terms: &Terms,
    ) -> Result<(), ReserveError> {
        let cached = u64::from(request.prompt_tokens.saturating_sub(terms.uncached_tokens));
        let reservation = Reservation {
            worker,
            prompt_tokens: request.prompt_tokens,
            work: Work::of(request.prompt_tokens.into(), cached),
            loads: terms.load_blocks.iter().any(|blocks| *blocks > 0),
            blocks: request.total_blocks(),
        };
        self.loads.reserve(now_ms, request.id, reservation)?;
        let mut marks = std::mem::take(&mut self.marks);
        marks.clear();
        mark(blocks, self.settings.sent_stride_blocks, &mut marks);
        // Twice what it should take: a prompt that is computed later than thought is still coming.
        let coming_until_ms = now_ms + 2.0 * terms.expected_ms() + self.settings.confirm_ms;
        self.footprints.leave(now_ms, &marks, worker, request.id.0, coming_until_ms);
        self.marked.insert(request.id, marks.as_slice().into());
        self.marks = marks;
        self.affinity.served(now_ms, request.session, worker);
        Ok(())
    }

    /// The first token of `id` came. False when it is not reserved, or had come before.
    pub fn prefill_complete(&mut self, now_ms: f64, id: RequestId, measured: &Measured) -> bool {
        let Some(done) = self.loads.prefill_complete(now_ms, id) else { return false };
        let worker = done.reservation.worker;
        if let Some(marks) = self.marked.remove(&id) {
            self.footprints.arrived(&marks, worker, id.0, now_ms + self.settings.confirm_ms);
        }
        let work = match measured.cached_tokens {
            Some(cached) => Work::of(done.reservation.prompt_tokens.into(), cached.into()),
            None => done.reservation.work,
        };
        let Some(of) = self.workers.get_mut(worker.0 as usize).and_then(Option::as_mut) else { return true };
        of.speeds.follow(&self.fleet);
        for speeds in [&mut of.speeds, &mut self.fleet] {
            if let Some(took_ms) = measured.prefill_ms.or(done.alone_ms) {
                let steps_ms = interference_ms(speeds, work.tokens, self.settings.prefill_chunk_tokens, done.decoding.into());
                speeds.prefill_took(work, (took_ms - steps_ms).max(0.0));
            }
            for (medium, (bytes, took_ms)) in (1..).zip(measured.loaded).filter_map(|(medium, loaded)| Some((medium, loaded?))) {
                speeds.onboard_took(medium, bytes, took_ms);
            }
        }
        true
    }

    /// The answer of `id` ended after `output_tokens`, where known. False when it is not reserved.
    pub fn finish(&mut self, now_ms: f64, id: RequestId, output_tokens: Option<u32>) -> bool {
        let Some(done) = self.loads.finish(now_ms, id) else { return false };
        if let Some(marks) = self.marked.remove(&id) {
            // Nobody told of its first token, but an answer that ended had one.
            self.footprints.arrived(&marks, done.worker, id.0, now_ms + self.settings.confirm_ms);
        }
        if let Some(decode_ms) = done.decode_ms {
            let held_ms = decode_ms + self.fleet.prefill_ms(1, done.work);
            self.fleet.was_held(held_ms);
            if let Some(of) = self.workers.get_mut(done.worker.0 as usize).and_then(Option::as_mut) {
                of.speeds.was_held(held_ms);
            }
        }
        let Some((decode_ms, tokens)) = done.decode_ms.zip(output_tokens.filter(|tokens| *tokens > 1)) else { return true };
        // The first token came with the prompt.
        let ms_per_token = decode_ms / f64::from(tokens - 1);
        if let Some(of) = self.workers.get_mut(done.worker.0 as usize).and_then(Option::as_mut) {
            of.speeds.decode_took(done.batch.into(), ms_per_token);
            self.fleet.decode_took(done.batch.into(), ms_per_token);
        }
        true
    }

    /// `id` was given up, or its worker refused it. False when it is not reserved.
    pub fn abort(&mut self, now_ms: f64, id: RequestId) -> bool {
        let Some(done) = self.loads.finish(now_ms, id) else { return false };
        if let Some(marks) = self.marked.remove(&id) {
            self.footprints.withdraw(&marks, done.worker, id.0);
        }
        true
    }

    /// A sign of life of `id`. False when it is not reserved.
    pub fn renew(&mut self, now_ms: f64, id: RequestId) -> bool {
        self.loads.renew(now_ms, id)
    }

    /// Takes off the requests whose lease ended; returns them.
    pub fn expire(&mut self, now_ms: f64) -> Vec<RequestId> {
        let lost = self.loads.expire(now_ms);
        lost.iter().for_each(|id| drop(self.marked.remove(id)));
        lost
    }
}

/// Why a request was not routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Nobody takes it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It cannot be reserved.
    #[error(transparent)]
    NotReserved(#[from] ReserveError),
}

fn refusal(decision: &Decision, request: &RouteRequest) -> Refusal {
    let full = decision.candidates.iter().filter(|priced| priced.excluded == Some(Excluded::Full)).count();
    match decision.candidates.first() {
        None => Refusal::NoCandidates,
        Some(_) if full > 0 => Refusal::Full(full),
        Some(_) if decision.mode == Mode::Direct && request.pinned.is_none() => Refusal::NotPinned,
        Some(first) => {
            Refusal::Excluded { candidates: decision.candidates.len(), first: first.excluded.unwrap_or(Excluded::NotRegistered) }
        }
    }
}

fn full(profile: &WorkerProfile, load: &Load, terms: &Terms) -> Option<Excluded> {
    let requests = profile.most_requests > 0 && load.requests() >= profile.most_requests;
    let waiting = load.backlog.tokens.saturating_add(terms.uncached_tokens.into());
    let tokens = profile.most_waiting_tokens > 0 && load.waiting > 0 && waiting > profile.most_waiting_tokens;
    (requests || tokens).then_some(Excluded::Full)
}

/// Until answers have ended that hold the blocks a request lacks. Blocks are given back evenly over the time that they are held.
fn room_ms(profile: &WorkerProfile, load: &Load, request: &RouteRequest, speeds: &Speeds) -> f64 {
    let lacking = (load.blocks + request.total_blocks()).saturating_sub(profile.device_blocks);
    if profile.device_blocks == 0 || lacking == 0 || load.blocks == 0 {
        return 0.0;
    }
    speeds.held_ms() * lacking as f64 / load.blocks.min(profile.device_blocks) as f64
}

/// What is believed to be there. A worker that the index does not know completely is believed to have what was sent there lately
/// and nothing else: hoping for more would send it everything, since nothing could prove the hope wrong.
fn known(mode: Mode, known: Known, trail: Trail) -> (Reach, Evidence) {
    let device = |blocks| Reach { blocks, by_medium: [blocks, 0, 0, 0] };
    match known {
        _ if mode == Mode::Approximate => (device(trail.sent), Evidence::Sent),
        Known::Unknown => (device(trail.sent), Evidence::Sent),
        Known::Exact(reach) if trail.coming > reach.by_medium[0] => (with_coming(reach, trail.coming), Evidence::Coming),
        Known::Exact(reach) => (reach, Evidence::Index),
    }
}

/// `reach` when the first `coming` blocks will be on the device: what is loaded for an earlier prompt need not be loaded again.
fn with_coming(reach: Reach, coming: u32) -> Reach {
    let blocks = reach.blocks.max(coming);
    let mut left = blocks - coming;
    let mut by_medium = [coming, 0, 0, 0];
    // Slower media hold the later blocks.
    for medium in (0..4).rev() {
        let stays = reach.by_medium[medium].min(left);
        by_medium[medium] += stays;
        left -= stays;
    }
    Reach { blocks, by_medium }
}

fn weigh(terms: &mut Terms, weight: f64) {
    let scarcity_ms = (weight - 1.0) * (terms.work_ms() + terms.onboard_ms);
    terms.total_ms += scarcity_ms - terms.scarcity_ms;
    terms.scarcity_ms = scarcity_ms;
}

#[cfg(test)]
mod tests;
