//! Decisions, and what becomes of the requests they were about.

use super::space::Space;
use super::waiting::{Placed, prefill_part, refused, release};
use super::{AskError, Explained, LoadView, LoadsAnswer, SelectRequest, Selected, Service, Target};
use crate::route::{Fallback, Hints, Label, Measured, Mode, Refusal, RequestId, RouteError, RouteRequest, Session, Work};
use std::collections::BTreeMap;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

impl Service {
    /// Which worker should serve `request`, at once: an error of kind `Busy` when all have as much to do as they may.
    ///
    /// The load it means is booked until [`Service::finish`], unless `peek` is set.
    pub fn route(&self, request: &SelectRequest) -> Result<Selected, AskError> {
        let space = self.space(&request.prompt.model)?;
        let now_ms = self.clock().now_ms();
        space.hashed(&request.prompt, |scratch, tokens| {
            let asked = asked(&space, request, tokens, now_ms)?;
            let placed = space.place(now_ms, &asked, scratch, request.peek).map_err(|why| refused(&why))?;
            selected(&space, &request.id, &placed, 0.0)
        })
    }

    /// As [`Service::route`], but waits for a worker with room, as long as `[route.queue]` lets it. Dropped, it waits no more.
    pub async fn select(&self, request: &SelectRequest) -> Result<Selected, AskError> {
        let space = self.space(&request.prompt.model)?;
        let came_ms = self.clock().now_ms();
        let full = |why: &RouteError| matches!(why, RouteError::Refused(Refusal::Full(_))) && !request.peek;
        let first = space.hashed(&request.prompt, |scratch, tokens| {
            let asked = asked(&space, request, tokens, came_ms)?;
            match space.place(came_ms, &asked, scratch, request.peek) {
                Ok(placed) => Ok(Ok(placed)),
                Err(why) if full(&why) => Ok(Err((asked, scratch.locals.clone()))),
                Err(why) => Err(refused(&why)),
            }
        })?;
        let placed = match first {
            Ok(placed) => placed,
            Err((asked, locals)) => space.place_or_wait(self.clock(), asked, locals).await?,
        };
        selected(&space, &request.id, &placed, self.clock().now_ms() - came_ms)
    }

    /// Books a request that somebody else has decided on.
    pub fn reserve(&self, request: &SelectRequest) -> Result<Selected, AskError> {
        if request.worker.is_none() {
            return Err(AskError::Prompt("a reservation names its `worker`; ask for a decision with `select`".into()));
        }
        self.route(&SelectRequest { peek: false, ..request.clone() })
    }

    /// The prompt of request `id` is computed.
    pub fn prefill_complete(&self, id: &str, measured: &Measured) -> Result<(), AskError> {
        let (name, now_ms) = (RequestId::named(id), self.clock().now_ms());
        let part = prefill_part(name);
        let known = self.spaces().values().any(|space| {
            let known = {
                let route = &mut space.desk().route;
                let elsewhere = route.prefill_complete(now_ms, part, measured) && route.finish(now_ms, part, None);
                let measured = if elsewhere { Measured::default() } else { *measured };
                route.prefill_complete(now_ms, name, &measured) | elsewhere
            };
            if known {
                space.pump(now_ms);
            }
            known
        });
        if known { Ok(()) } else { Err(AskError::UnknownRequest(id.into())) }
    }

    /// Request `id` ended after `output_tokens`, where known. One that failed teaches nothing about speed.
    pub fn finish(&self, id: &str, output_tokens: Option<u32>, failed: bool) -> Result<(), AskError> {
        let (name, now_ms) = (RequestId::named(id), self.clock().now_ms());
        let known = self.spaces().values().any(|space| {
            let known = {
                let desk = &mut *space.desk();
                let waited = desk.queue.cancel(name).is_some();
                let booked = if failed {
                    release(&mut desk.route, now_ms, name)
                } else {
                    desk.route.abort(now_ms, prefill_part(name)) | desk.route.finish(now_ms, name, output_tokens)
                };
                waited | booked
            };
            if known {
                space.pump(now_ms);
            }
            known
        });
        if known { Ok(()) } else { Err(AskError::UnknownRequest(id.into())) }
    }

    /// Why request `id` went where it went, as long as that is remembered.
    pub fn explain(&self, id: &str) -> Result<Explained, AskError> {
        let name = RequestId::named(id);
        let found = self.spaces().values().find_map(|space| {
            let desk = space.desk();
            let decision = desk.route.history().about(name)?.clone();
            let called =
                |worker| desk.route.profile(worker).map_or_else(|| "a worker that left".to_owned(), |profile| profile.name.clone());
            let names = decision.candidates.iter().map(|priced| called(priced.worker)).collect();
            let text = format!("`{id}` for the model `{}`\n{}", space.model, decision.explain(called));
            Some(Explained { request_id: id.into(), model: space.model.clone(), decision, names, text })
        });
        found.ok_or_else(|| AskError::UnknownRequest(id.into()))
    }

    /// What each rank of `model`'s workers (of all models without one) has to do.
    pub fn loads(&self, model: Option<&str>) -> Result<LoadsAnswer, AskError> {
        let spaces: Vec<Arc<Space>> = match model {
            Some(model) => vec![self.space(model)?],
            None => self.spaces().values().cloned().collect(),
        };
        let now_ms = self.clock().now_ms();
        let mut answer = LoadsAnswer { queued: 0, workers: Vec::new() };
        for space in spaces {
            let (ranks, desk) = (space.ranks(), space.desk());
            answer.queued += desk.queue.len();
            answer.workers.extend(ranks.list.iter().map(|ranked| {
                let load = desk.route.load(ranked.worker);
                let thousand = desk.route.speeds(ranked.worker).map_or(0.0, |speeds| speeds.prefill_ms(1, Work::of(1_000, 0)));
                LoadView {
                    target: ranked.target.clone(),
                    model: space.model.clone(),
                    waiting: load.waiting,
                    prefill_tokens: load.backlog.tokens,
                    decoding: load.decoding,
                    blocks: load.blocks,
                    queue_ms: desk.route.queue_ms(now_ms, ranked.worker),
                    prefill_ms_per_1k_tokens: thousand,
                    unknown: ranked.unknown.clone(),
                }
            }));
        }
        Ok(answer)
    }
}

/// The request in the words of [`crate::route`].
fn asked(space: &Space, request: &SelectRequest, prompt_tokens: u64, now_ms: f64) -> Result<RouteRequest, AskError> {
    let pinned = match &request.worker {
        None => None,
        Some(worker) => {
            let found = space.ranks().named(worker, request.rank).map(|ranked| ranked.worker);
            let unknown = || AskError::UnknownWorker { worker: worker.clone(), rank: request.rank, model: space.model.clone() };
            Some(found.ok_or_else(unknown)?)
        }
    };
    let labels =
        |labels: &BTreeMap<String, String>| -> Vec<Label> { labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect() };
    Ok(RouteRequest {
        id: RequestId::named(&request.id),
        prompt_tokens: u32::try_from(prompt_tokens).unwrap_or(u32::MAX),
        block_tokens: space.block_tokens,
        hints: Hints {
            priority: request.priority,
            output_tokens: request.expected_output_tokens,
            deadline_ms: request.deadline_ms.map(|left_ms| now_ms + left_ms),
        },
        session: if request.session.is_empty() { Session::default() } else { Session(xxh3_64(request.session.as_bytes())) },
        pinned,
        required: labels(&request.required_labels),
        preferred: labels(&request.preferred_labels),
        adapter: request.prompt.identity.lora.clone(),
    })
}

fn selected(space: &Space, id: &str, placed: &Placed, waited_ms: f64) -> Result<Selected, AskError> {
    let ranks = space.ranks();
    let target = |worker| -> Result<Target, AskError> {
        let left = || AskError::Busy("the worker chosen left at that moment".into());
        Ok(ranks.of(worker).ok_or_else(left)?.target.clone())
    };
    let choice = &placed.decode;
    let mode = space.desk().route.history().about(choice.request).map_or(Mode::default(), crate::route::Decision::made_by);
    let fallback = choice.fallback.map(|fallback| match fallback {
        Fallback::AllUnknown => "it is not known where the blocks of any candidate are: the least loaded was taken",
        Fallback::SomeUnknown => "it is not known where the blocks of some candidates are: they were priced by what was sent there",
    });
    Ok(Selected {
        request_id: id.into(),
        target: target(choice.worker)?,
        mode,
        fallback: fallback.map(str::to_owned),
        evidence: choice.evidence,
        terms: choice.terms,
        block_tokens: space.block_tokens,
        prefill: placed.prefill.map(|prefill| target(prefill.worker)).transpose()?,
        split: placed.split,
        waited_ms,
    })
}
