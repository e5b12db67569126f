//! Messages into the service's words and back.

use crate::hash::{MediaSpan, PromptIdentity};
use crate::route::{Evidence, Measured, Terms};
use crate::service::{Content, Explained, Listing, LoadsAnswer, Prompt, QueryAnswer, SelectRequest, Selected, SourceView, Target};
use kvd_block::LocalHash;
use kvd_proto::router as message;
use tonic::Status;

pub(super) fn prompt(prompt: message::Prompt) -> Result<Prompt, Status> {
    if !prompt.tokens.is_empty() && !prompt.block_hashes.is_empty() {
        return Err(Status::invalid_argument("a prompt is `tokens` or `block_hashes`, not both"));
    }
    let content = if prompt.block_hashes.is_empty() {
        Content::Tokens(prompt.tokens)
    } else {
        let locals = prompt.block_hashes.into_iter().map(LocalHash).collect();
        Content::Hashes { locals, block_tokens: prompt.block_tokens, prompt_tokens: prompt.prompt_tokens }
    };
    let place = |token: u64| usize::try_from(token).unwrap_or(usize::MAX);
    let span = |span: message::MediaSpan| MediaSpan { hash: span.hash, from_token: place(span.from_token), to_token: place(span.to_token) };
    let identity = PromptIdentity { lora: prompt.lora, salt: prompt.salt };
    Ok(Prompt { model: prompt.model, content, identity, media: prompt.media.into_iter().map(span).collect() })
}

pub(super) fn select(select: message::SelectRequest, id: String) -> Result<SelectRequest, Status> {
    Ok(SelectRequest {
        id,
        prompt: prompt(select.prompt.unwrap_or_default())?,
        peek: select.peek,
        expected_output_tokens: u32::try_from(select.expected_output_tokens).unwrap_or(u32::MAX),
        priority: select.priority,
        deadline_ms: Some(select.deadline_ms).filter(|deadline| *deadline > 0).map(|deadline| deadline as f64),
        session: select.session,
        required_labels: select.required_labels.into_iter().collect(),
        preferred_labels: select.preferred_labels.into_iter().collect(),
        worker: Some(select.worker).filter(|worker| !worker.is_empty()),
        rank: select.rank.unwrap_or(0),
    })
}

pub(super) fn measured(done: message::PrefillCompleteRequest) -> (String, Measured) {
    let cached_tokens = done.cached_tokens.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX));
    (done.request_id, Measured { cached_tokens, prefill_ms: done.prefill_ms, ..Measured::default() })
}

fn terms(terms: &Terms) -> message::Terms {
    message::Terms {
        queue_ms: terms.queue_ms,
        decode_ms: terms.decode_ms,
        prefill_ms: terms.prefill_ms,
        onboard_ms: terms.onboard_ms,
        scarcity_ms: terms.scarcity_ms,
        affinity_ms: terms.affinity_ms,
        labels_ms: terms.labels_ms,
        total_ms: terms.total_ms,
        uncached_tokens: terms.uncached_tokens.into(),
    }
}

/// What a decision counted on, from its terms.
fn used(terms: &Terms, evidence: Evidence, block_tokens: u32) -> message::Overlap {
    let [host, disk, external] = terms.load_blocks;
    let device = terms.used_blocks.saturating_sub(host + disk + external);
    message::Overlap { block_tokens, blocks: terms.used_blocks, device, host, disk, external, known: evidence != Evidence::Sent }
}

fn target(target: Target) -> message::Target {
    message::Target { worker: target.worker.to_string(), rank: target.rank, url: target.url }
}

pub(super) fn selected(selected: Selected) -> message::SelectReply {
    message::SelectReply {
        request_id: selected.request_id,
        worker: selected.target.worker.to_string(),
        rank: selected.target.rank,
        url: selected.target.url,
        mode: selected.mode.to_string(),
        fallback: selected.fallback.unwrap_or_default(),
        overlap: Some(used(&selected.terms, selected.evidence, selected.block_tokens)),
        terms: Some(terms(&selected.terms)),
        prefill: selected.prefill.map(target),
        waited_ms: selected.waited_ms,
    }
}

pub(super) fn loads(loads: LoadsAnswer) -> message::LoadsReply {
    let load = |load: crate::service::LoadView| message::Load {
        worker: load.target.worker.to_string(),
        rank: load.target.rank,
        model: load.model,
        waiting_requests: load.waiting.into(),
        prefill_tokens: load.prefill_tokens,
        decoding_requests: load.decoding.into(),
        blocks: load.blocks,
        queue_ms: load.queue_ms,
        index: load.unknown.unwrap_or_else(|| "known".into()),
        prefill_ms_per_1k_tokens: load.prefill_ms_per_1k_tokens,
    };
    message::LoadsReply { queued_requests: loads.queued as u64, loads: loads.workers.into_iter().map(load).collect() }
}

pub(super) fn explained(explained: Explained) -> message::ExplainReply {
    let decision = &explained.decision;
    let candidate = |(priced, name): (&crate::route::Priced, &String)| message::Candidate {
        worker: name.clone(),
        won: Some(priced.worker) == decision.winner,
        overlap: Some(used(&priced.terms, priced.evidence, 0)),
        terms: Some(terms(&priced.terms)),
        excluded: priced.excluded.map(|why| why.to_string()).unwrap_or_default(),
    };
    message::ExplainReply {
        request_id: explained.request_id,
        model: explained.model,
        mode: decision.made_by().to_string(),
        prompt_tokens: decision.prompt_tokens.into(),
        candidates: decision.candidates.iter().zip(&explained.names).map(candidate).collect(),
        text: explained.text,
    }
}

pub(super) fn query(answer: &QueryAnswer) -> message::QueryReply {
    let block_tokens = answer.block_tokens;
    let workers = answer.workers.iter().map(|overlap| {
        let [device, host, disk, external] = overlap.by_medium;
        let [device_tokens, host_tokens, all_tokens] = overlap.cumulative.map(|blocks| u64::from(blocks) * u64::from(block_tokens));
        let known = overlap.unknown.is_none();
        message::WorkerOverlap {
            worker: overlap.target.worker.to_string(),
            rank: overlap.target.rank,
            overlap: Some(message::Overlap { block_tokens, blocks: overlap.blocks, device, host, disk, external, known }),
            device_tokens,
            host_tokens,
            all_tokens,
            unknown: overlap.unknown.clone().unwrap_or_default(),
        }
    });
    message::QueryReply { workers: workers.collect() }
}

pub(super) fn listing(listing: Listing) -> message::WorkersReply {
    let workers = listing.workers.into_iter().map(|worker| message::Worker {
        spec_json: json(&worker.spec),
        origin: worker.origin,
        ranks: worker.listeners.into_iter().map(|(rank, view)| source(rank, view)).collect(),
    });
    let nodes = listing.nodes.into_iter().map(|node| message::Node {
        spec_json: json(&node.spec),
        origin: node.origin,
        source: Some(source(0, node.source)),
    });
    message::WorkersReply { workers: workers.collect(), nodes: nodes.collect() }
}

fn json(spec: &impl serde::Serialize) -> String {
    serde_json::to_string(spec).expect("specs are plain values")
}

fn source(rank: u32, view: SourceView) -> message::Source {
    message::Source {
        rank,
        endpoint: view.endpoint,
        state: view.status,
        last_event: view.last_event,
        complete: view.complete,
        memberships: view.memberships,
    }
}
