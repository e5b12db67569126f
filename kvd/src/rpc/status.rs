//! What the daemon is and how full it is.

use crate::counters;
use crate::daemon::Shared;
use crate::driver::Stopped;
use crate::session::SOFTWARE;
use kvd_block::TierKind;
use kvd_ledger::TierTotals;
use kvd_proto::PROTOCOL_VERSION;
use kvd_proto::admin::{Counter, Digest, Layout, LayoutsReply, Scrub, Session, SessionsReply, StatusReply, Tier};

/// Everything about the daemon that fits a screen.
pub async fn status(shared: &Shared) -> Result<StatusReply, Stopped> {
    struct Seen {
        totals: [TierTotals; 2],
        leases: usize,
        transfers: usize,
        filling: usize,
        counters: kvd_ledger::Counters,
        next_event: u64,
        digest: kvd_block::digest::Digest,
    }
    let seen = shared
        .driver
        .ask(|view| Seen {
            totals: TierKind::ALL.map(|tier| view.ledger.totals(tier)),
            leases: view.ledger.open_leases(),
            transfers: view.ledger.open_transfers(),
            filling: view.ledger.slots_being_filled().len(),
            counters: *view.ledger.counters(),
            next_event: view.next_event,
            digest: view.digest,
        })
        .await?;
    let addresses = &shared.addresses;
    Ok(StatusReply {
        software: SOFTWARE.into(),
        protocol: PROTOCOL_VERSION.into(),
        pid: addresses.pid,
        incarnation: shared.incarnation,
        uptime_ms: shared.started.elapsed().as_millis() as u64,
        draining: *shared.draining.borrow(),
        socket: addresses.socket.display().to_string(),
        metrics_address: addresses.metrics.clone(),
        events_address: addresses.events.clone(),
        replay_address: addresses.replay.clone(),
        admin_address: addresses.admin.clone(),
        next_event: seen.next_event,
        events_dropped: shared.measures.events_dropped.get(),
        engines: shared.engines.all().len() as u32,
        open_leases: seen.leases as u64,
        open_transfers: seen.transfers as u64,
        slots_being_filled: seen.filling as u64,
        tiers: tiers(shared, seen.totals),
        counters: counters::of(&seen.counters).map(|(counter, value)| Counter { name: counter.name.into(), value }).collect(),
        data_dir: shared.settings.nvme.path.as_ref().map_or_else(String::new, |path| path.display().to_string()),
        scrub: Some(scrub(shared)),
        digest: Some(Digest { sum: seen.digest.sum, count: seen.digest.count }),
    })
}

fn scrub(shared: &Shared) -> Scrub {
    let scrub = &shared.measures.scrub;
    Scrub {
        enabled: shared.settings.scrub.enabled,
        checked_blocks: scrub.checked_blocks.get(),
        checked_bytes: scrub.checked_bytes.get(),
        corrupt_blocks: scrub.corrupt.get(),
        unreadable: scrub.unreadable.get(),
        passes: scrub.passes.get(),
        last_pass_unix_ms: scrub.last_pass_unix_ms.get(),
    }
}

fn tiers(shared: &Shared, totals: [TierTotals; 2]) -> Vec<Tier> {
    let tier = |kind: TierKind, detail: String| {
        let TierTotals { capacity_bytes, used_bytes, blocks } = totals[kind as usize];
        Tier { medium: kind.medium().into(), capacity_bytes, used_bytes, blocks, detail }
    };
    let pages = if shared.arena.uses_huge_pages() { "shared memory, 2 MiB pages" } else { "shared memory, 4 KiB pages" };
    let cpu = tier(TierKind::Cpu, pages.into());
    let storage = shared.storage.as_ref().map(|storage| tier(TierKind::Nvme, storage.detail.clone()));
    std::iter::once(cpu).chain(storage).collect()
}

/// Every layout, with how many of its blocks are where.
pub async fn layouts(shared: &Shared) -> Result<LayoutsReply, Stopped> {
    let layouts = shared.layouts.all();
    let handles: Vec<_> = layouts.iter().map(|layout| layout.handle).collect();
    let counts = shared.driver.ask(move |view| handles.into_iter().map(|handle| view.ledger.blocks_of(handle)).collect::<Vec<_>>()).await?;
    let layouts = layouts.into_iter().zip(counts).map(|(layout, [cpu_blocks, storage_blocks])| {
        let spec = &layout.spec;
        Layout {
            handle: layout.handle.0.into(),
            id: layout.id.0.to_vec(),
            model: spec.model.clone(),
            weights: spec.weights.clone(),
            kv_dtype: spec.kv_dtype.clone(),
            block_tokens: spec.block_tokens,
            group: spec.group.into(),
            attention: spec.attention.clone(),
            geometry: spec.geometry.clone(),
            ranks: spec.ranks.into(),
            stripe_bytes: spec.stripe_bytes,
            slot_bytes: spec.slot_bytes(),
            cpu_blocks,
            storage_blocks,
        }
    });
    Ok(LayoutsReply { layouts: layouts.collect() })
}

/// Every engine connected now.
pub fn sessions(shared: &Shared) -> SessionsReply {
    let session = |engine: crate::session::EngineView| Session {
        id: engine.session.0,
        engine: engine.engine,
        software: engine.software,
        uid: engine.uid,
        control_pid: engine.control.unwrap_or(0),
        worker_pids: engine.workers,
        layouts: engine.layouts.iter().map(|layout| layout.0.into()).collect(),
        connected_ms: engine.connected_ms,
    };
    SessionsReply { sessions: shared.engines.all().into_iter().map(session).collect() }
}
