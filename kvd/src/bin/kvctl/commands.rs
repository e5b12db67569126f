//! One function per subcommand: ask, then print.

use crate::Inspect;
use crate::print::{duration, hex, share, table};
use anyhow::{Context, bail};
use kvd::client::Client;
use kvd::settings::about;
use kvd_block::SequenceHash;
use kvd_proto::admin::{
    Block, Digest, DrainRequest, InspectRequest, LayoutsRequest, PinRequest, PurgeRequest, Scrub, SessionsRequest, SnapshotBlock,
    SnapshotLayout, SnapshotPart, SnapshotRequest, StatusReply, StatusRequest, Tier, TiersRequest, VerifyProgress, VerifyRequest,
};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::process::ExitCode;

/// A connection, and how to print.
pub struct Session {
    pub client: Client,
    pub json: bool,
}

fn told(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

fn hashes(texts: &[String]) -> anyhow::Result<Vec<Vec<u8>>> {
    let hash = |text: &String| {
        let hash = SequenceHash::from_hex(text).with_context(|| format!("`{text}` is not a sequence hash: 32 hexadecimal digits"))?;
        anyhow::Ok(hash.0.to_vec())
    };
    texts.iter().map(hash).collect()
}

impl Session {
    fn print(&self, value: Value, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(&value)?);
        } else {
            print!("{}", text());
        }
        Ok(())
    }

    pub async fn status(&mut self) -> anyhow::Result<()> {
        let status = self.client.status(StatusRequest {}).await.map_err(told)?.into_inner();
        self.print(status_json(&status), || status_text(&status))
    }

    pub async fn config(&mut self) -> anyhow::Result<()> {
        let status = self.client.status(StatusRequest {}).await.map_err(told)?.into_inner();
        let rows = [
            ("socket", &status.socket),
            ("data_dir", &status.data_dir),
            ("admin", &status.admin_address),
            ("metrics", &status.metrics_address),
            ("events", &status.events_address),
            ("replay", &status.replay_address),
        ];
        let value = rows.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
        self.print(Value::Object(value), || rows.iter().map(|(name, text)| format!("{name:<9} {text}\n")).collect())
    }

    pub async fn tiers(&mut self) -> anyhow::Result<()> {
        let tiers = self.client.tiers(TiersRequest {}).await.map_err(told)?.into_inner().tiers;
        self.print(json!({ "tiers": tiers.iter().map(tier_json).collect::<Vec<_>>() }), || {
            let row = |tier: &Tier| {
                vec![tier.medium.clone(), tier.blocks.to_string(), share(tier.used_bytes, tier.capacity_bytes), tier.detail.clone()]
            };
            table(&["medium", "blocks", "used", "where"], &tiers.iter().map(row).collect::<Vec<_>>())
        })
    }

    pub async fn layouts(&mut self) -> anyhow::Result<()> {
        let layouts = self.client.layouts(LayoutsRequest {}).await.map_err(told)?.into_inner().layouts;
        let value: Vec<Value> = layouts
            .iter()
            .map(|layout| {
                json!({
                    "handle": layout.handle, "id": hex(&layout.id), "model": layout.model, "weights": layout.weights,
                    "kv_dtype": layout.kv_dtype, "block_tokens": layout.block_tokens, "group": layout.group,
                    "attention": layout.attention, "geometry": layout.geometry, "ranks": layout.ranks,
                    "stripe_bytes": layout.stripe_bytes, "slot_bytes": layout.slot_bytes,
                    "cpu_blocks": layout.cpu_blocks, "storage_blocks": layout.storage_blocks,
                })
            })
            .collect();
        self.print(json!({ "layouts": value }), || {
            if layouts.is_empty() {
                return "no layout yet: no engine has connected\n".into();
            }
            let rows: Vec<Vec<String>> = layouts
                .iter()
                .map(|layout| {
                    vec![
                        layout.handle.to_string(),
                        layout.model.clone(),
                        layout.group.to_string(),
                        layout.kv_dtype.clone(),
                        layout.attention.clone(),
                        layout.block_tokens.to_string(),
                        layout.ranks.to_string(),
                        about(layout.slot_bytes),
                        layout.cpu_blocks.to_string(),
                        layout.storage_blocks.to_string(),
                    ]
                })
                .collect();
            table(&["layout", "model", "group", "dtype", "attention", "tokens", "ranks", "block", "cpu", "storage"], &rows)
        })
    }

    pub async fn snapshot(&mut self) -> anyhow::Result<()> {
        let mut parts = self.client.snapshot(SnapshotRequest {}).await.map_err(told)?.into_inner();
        let mut out = BufWriter::new(std::io::stdout().lock());
        let mut is_whole = false;
        while let Some(part) = parts.message().await.map_err(told)? {
            is_whole = part.digest.is_some();
            writeln!(out, "{}", part_json(&part))?;
        }
        out.flush()?;
        if is_whole { Ok(()) } else { bail!("the snapshot ended before its last part: read it faster, or ask again") }
    }

    pub async fn sessions(&mut self) -> anyhow::Result<()> {
        let sessions = self.client.sessions(SessionsRequest {}).await.map_err(told)?.into_inner().sessions;
        let value: Vec<Value> = sessions
            .iter()
            .map(|session| {
                json!({
                    "id": session.id, "engine": session.engine, "software": session.software, "uid": session.uid,
                    "control_pid": session.control_pid, "worker_pids": session.worker_pids, "layouts": session.layouts,
                    "connected_ms": session.connected_ms,
                })
            })
            .collect();
        self.print(json!({ "sessions": value }), || {
            if sessions.is_empty() {
                return "no engine is connected\n".into();
            }
            let rows: Vec<Vec<String>> = sessions
                .iter()
                .map(|session| {
                    vec![
                        session.id.to_string(),
                        session.engine.clone(),
                        session.software.clone(),
                        session.uid.to_string(),
                        session.control_pid.to_string(),
                        session.worker_pids.len().to_string(),
                        format!("{:?}", session.layouts),
                        duration(session.connected_ms),
                    ]
                })
                .collect();
            table(&["session", "engine", "software", "user", "process", "workers", "layouts", "for"], &rows)
        })
    }

    pub async fn inspect(&mut self, what: Inspect) -> anyhow::Result<()> {
        let request =
            InspectRequest { layout: what.layout, hashes: hashes(&what.hashes)?, tokens: what.tokens, lora: what.lora, salt: what.salt };
        let blocks = self.client.inspect(request).await.map_err(told)?.into_inner().blocks;
        self.print(json!({ "blocks": blocks.iter().map(block_json).collect::<Vec<_>>() }), || {
            if blocks.is_empty() {
                return "not known in any layout\n".into();
            }
            let row = |block: &Block| {
                let where_ = if block.filling {
                    "being stored".to_owned()
                } else if block.media.is_empty() {
                    "nowhere".into()
                } else {
                    block.media.join(" ")
                };
                let pinned = if block.pinned { "yes" } else { "" };
                vec![
                    block.layout.to_string(),
                    block.position.to_string(),
                    hex(&block.hash),
                    where_,
                    block.users.to_string(),
                    pinned.to_owned(),
                ]
            };
            table(&["layout", "position", "hash", "where", "users", "pinned"], &blocks.iter().map(row).collect::<Vec<_>>())
        })
    }

    pub async fn verify(&mut self, most_blocks: u64, bytes_per_second: u64, medium: String) -> anyhow::Result<ExitCode> {
        let request = VerifyRequest { most_blocks, bytes_per_second, medium };
        let mut progress = self.client.verify(request).await.map_err(told)?.into_inner();
        let mut last = VerifyProgress::default();
        while let Some(message) = progress.message().await.map_err(told)? {
            message.findings.iter().for_each(|finding| eprintln!("corrupt: {finding}"));
            last = message;
            if !self.json && !last.done {
                eprintln!("{} of {} blocks", last.checked_blocks + last.skipped_blocks, last.total_blocks);
            }
        }
        if !last.done {
            bail!("the verification broke off");
        }
        let value = json!({
            "checked_blocks": last.checked_blocks, "checked_bytes": last.checked_bytes,
            "corrupt_blocks": last.corrupt_blocks, "skipped_blocks": last.skipped_blocks,
        });
        self.print(value, || {
            let VerifyProgress { checked_blocks, checked_bytes, corrupt_blocks, skipped_blocks, .. } = last;
            format!("{checked_blocks} images checked ({}), {corrupt_blocks} corrupt, {skipped_blocks} skipped\n", about(checked_bytes))
        })?;
        Ok(if last.corrupt_blocks == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
    }

    pub async fn drain(&mut self, draining: bool) -> anyhow::Result<()> {
        let reply = self.client.drain(DrainRequest { draining }).await.map_err(told)?.into_inner();
        let value = json!({ "draining": draining, "open_leases": reply.open_leases, "open_transfers": reply.open_transfers });
        self.print(value, || {
            let state = if draining { "draining: new leases are refused" } else { "accepting leases" };
            format!("{state}; {} leases and {} transfers are open\n", reply.open_leases, reply.open_transfers)
        })
    }

    pub async fn pin(&mut self, layout: u32, texts: &[String], ttl_ms: u64) -> anyhow::Result<()> {
        let request = PinRequest { layout, hashes: hashes(texts)?, ttl_ms };
        let pinned = self.client.pin(request).await.map_err(told)?.into_inner().pinned_blocks;
        self.print(json!({ "pinned_blocks": pinned }), || match ttl_ms {
            0 => "unpinned\n".into(),
            _ => format!("{pinned} of {} blocks pinned for {}\n", texts.len(), duration(ttl_ms)),
        })
    }

    pub async fn purge(&mut self, layout: Option<u32>, confirm: bool) -> anyhow::Result<()> {
        if !confirm {
            bail!("a purge forgets blocks for good: add --confirm");
        }
        let gone = self.client.purge(PurgeRequest { layout, confirm }).await.map_err(told)?.into_inner();
        self.print(json!({ "cpu_blocks": gone.cpu_blocks, "storage_blocks": gone.storage_blocks }), || {
            format!("forgotten: {} blocks in memory, {} on storage\n", gone.cpu_blocks, gone.storage_blocks)
        })
    }
}

fn tier_json(tier: &Tier) -> Value {
    json!({
        "medium": tier.medium, "capacity_bytes": tier.capacity_bytes, "used_bytes": tier.used_bytes,
        "blocks": tier.blocks, "detail": tier.detail,
    })
}

fn block_json(block: &Block) -> Value {
    json!({
        "layout": block.layout, "hash": hex(&block.hash), "parent": hex(&block.parent), "local": block.local,
        "position": block.position, "known": block.known, "media": block.media, "cpu_page": block.cpu_page,
        "storage_page": block.storage_page, "filling": block.filling, "pinned": block.pinned, "users": block.users,
        "created_unix_ms": block.created_unix_ms, "tokens": block.tokens,
    })
}

fn part_json(part: &SnapshotPart) -> Value {
    let layout = |layout: &SnapshotLayout| {
        json!({
            "handle": layout.handle, "id": hex(&layout.id), "model": layout.model, "block_tokens": layout.block_tokens, "group": layout.group,
        })
    };
    let block = |block: &SnapshotBlock| {
        json!({
            "layout": block.layout, "hash": hex(&block.hash), "parent": hex(&block.parent), "local": block.local,
            "position": block.position, "medium": block.medium,
        })
    };
    json!({
        "incarnation": part.incarnation, "next_event": part.next_event, "digest": part.digest.map(digest_json),
        "layouts": part.layouts.iter().map(layout).collect::<Vec<_>>(), "blocks": part.blocks.iter().map(block).collect::<Vec<_>>(),
    })
}

fn digest_json(digest: Digest) -> Value {
    json!({ "sum": digest.sum, "count": digest.count })
}

fn status_json(status: &StatusReply) -> Value {
    let counters: serde_json::Map<String, Value> =
        status.counters.iter().map(|counter| (counter.name.clone(), json!(counter.value))).collect();
    json!({
        "software": status.software, "protocol": status.protocol, "pid": status.pid, "incarnation": status.incarnation,
        "uptime_ms": status.uptime_ms, "draining": status.draining, "socket": status.socket, "data_dir": status.data_dir,
        "admin_address": status.admin_address, "metrics_address": status.metrics_address,
        "events_address": status.events_address, "replay_address": status.replay_address,
        "next_event": status.next_event, "digest": status.digest.map(digest_json),
        "events_dropped": status.events_dropped, "engines": status.engines,
        "open_leases": status.open_leases, "open_transfers": status.open_transfers,
        "slots_being_filled": status.slots_being_filled,
        "tiers": status.tiers.iter().map(tier_json).collect::<Vec<_>>(), "counters": counters,
        "scrub": status.scrub.as_ref().map(scrub_json),
    })
}

fn scrub_json(scrub: &Scrub) -> Value {
    json!({
        "enabled": scrub.enabled, "checked_blocks": scrub.checked_blocks, "checked_bytes": scrub.checked_bytes,
        "corrupt_blocks": scrub.corrupt_blocks, "unreadable": scrub.unreadable, "passes": scrub.passes,
        "last_pass_unix_ms": scrub.last_pass_unix_ms,
    })
}

fn scrub_text(scrub: &Scrub) -> String {
    if !scrub.enabled {
        return "off".into();
    }
    let ago_ms = kvd::clock::unix_ms().saturating_sub(scrub.last_pass_unix_ms);
    let last = if scrub.last_pass_unix_ms == 0 { "no pass yet".into() } else { format!("last pass {} ago", duration(ago_ms)) };
    let Scrub { checked_blocks, corrupt_blocks, unreadable, .. } = scrub;
    format!("{checked_blocks} blocks checked, {corrupt_blocks} corrupt, {unreadable} unreadable, {last}")
}

fn status_text(status: &StatusReply) -> String {
    let count = |name: &str| status.counters.iter().find(|counter| counter.name == name).map_or(0, |counter| counter.value);
    let draining = if status.draining { ", DRAINING: new leases are refused" } else { "" };
    let mut out =
        format!("{}, process {}, life {}, up {}{draining}\n", status.software, status.pid, status.incarnation, duration(status.uptime_ms));
    for tier in &status.tiers {
        let used = share(tier.used_bytes, tier.capacity_bytes);
        out += &format!("  {:<8} {used}, {} blocks\n", tier.medium, tier.blocks);
    }
    let found = count("kvd_lookup_cpu_total") + count("kvd_lookup_nvme_total");
    let asked = count("kvd_lookup_blocks_total");
    let percent = (found * 100).checked_div(asked).unwrap_or(0);
    out += &format!("  engines  {} connected, {} leases, {} transfers\n", status.engines, status.open_leases, status.open_transfers);
    out += &format!("  lookups  {asked} blocks, {percent} % found ({} in memory)\n", count("kvd_lookup_cpu_total"));
    out += &format!(
        "  stored   {} blocks, {} written to storage, {} evicted from it\n",
        count("kvd_stored_total"),
        count("kvd_written_total"),
        count("kvd_evicted_nvme_total")
    );
    out += &format!("  events   {} messages, {} dropped\n", status.next_event, status.events_dropped);
    out += &format!("  scrub    {}\n", status.scrub.as_ref().map_or_else(|| "unknown".into(), scrub_text));
    let trouble: u64 =
        ["corrupt", "write_failed", "read_failed", "leases_expired"].iter().map(|name| count(&format!("kvd_{name}_total"))).sum();
    if trouble > 0 {
        out += &format!(
            "  trouble  {} corrupt, {} failed writes, {} failed reads, {} expired leases\n",
            count("kvd_corrupt_total"),
            count("kvd_write_failed_total"),
            count("kvd_read_failed_total"),
            count("kvd_leases_expired_total")
        );
    }
    out
}
