//! Answers as tables.

use anyhow::Context;
use kvd_proto::router::{LoadsReply, QueryReply, Source, WorkersReply};
use kvd_router::fleet::{NodeSpec, WorkerSpec};

/// Columns as wide as their widest cell; numbers to the right.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| {
            let is_number = cell.starts_with(|c: char| c.is_ascii_digit()) && cell.parse::<f64>().is_ok();
            if is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn named(worker: &str, rank: u32) -> String {
    if rank == 0 { worker.to_owned() } else { format!("{worker}/{rank}") }
}

/// `kvd-router query`.
pub fn overlaps(reply: &QueryReply) -> String {
    let rows: Vec<Vec<String>> = reply
        .workers
        .iter()
        .map(|worker| {
            let overlap = worker.overlap.unwrap_or_default();
            let state = if worker.unknown.is_empty() { "known".to_owned() } else { worker.unknown.clone() };
            let media = [overlap.device, overlap.host, overlap.disk, overlap.external];
            let mut row = vec![named(&worker.worker, worker.rank), worker.all_tokens.to_string(), overlap.blocks.to_string()];
            row.extend(media.map(|blocks| blocks.to_string()));
            row.push(state);
            row
        })
        .collect();
    table(&["worker", "tokens", "blocks", "device", "host", "disk", "external", "index"], &rows)
}

/// `kvd-router loads`.
pub fn loads(reply: &LoadsReply) -> String {
    let rows: Vec<Vec<String>> = reply
        .loads
        .iter()
        .map(|load| {
            vec![
                named(&load.worker, load.rank),
                load.model.clone(),
                load.waiting_requests.to_string(),
                load.prefill_tokens.to_string(),
                load.decoding_requests.to_string(),
                load.blocks.to_string(),
                format!("{:.1}", load.queue_ms),
                load.index.clone(),
            ]
        })
        .collect();
    let head = ["worker", "model", "waiting", "tokens", "decoding", "blocks", "queue ms", "index"];
    format!("{}{} requests wait in the router\n", table(&head, &rows), reply.queued_requests)
}

/// `kvd-router workers`.
pub fn workers(reply: &WorkersReply) -> anyhow::Result<String> {
    let mut rows = Vec::new();
    for worker in &reply.workers {
        let spec: WorkerSpec = serde_json::from_str(&worker.spec_json).context("the router is of another version")?;
        for source in &worker.ranks {
            let name = named(spec.name.as_str(), source.rank);
            rows.push(row(name, &spec.model, &spec.block_tokens.to_string(), &spec.node, source, &worker.origin));
        }
    }
    for node in &reply.nodes {
        let spec: NodeSpec = serde_json::from_str(&node.spec_json).context("the router is of another version")?;
        let source = node.source.clone().unwrap_or_default();
        rows.push(row(format!("kvd of {}", spec.name), "", "", spec.name.as_str(), &source, &node.origin));
    }
    Ok(table(&["worker", "model", "block", "node", "events", "last", "blocks", "state", "from"], &rows))
}

fn row(name: String, model: &str, block: &str, node: &str, source: &Source, origin: &str) -> Vec<String> {
    let last = source.last_event.map_or("-".to_owned(), |number| number.to_string());
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    vec![
        name,
        dash(model),
        dash(block),
        dash(node),
        dash(&source.endpoint),
        last,
        source.memberships.to_string(),
        source.state.clone(),
        origin.to_owned(),
    ]
}
