//! Does what the ledger wants: writes headers, starts transfers, answers engines, tells the catalog and the subscribers.
//!
//! Lives on the driver's thread and never waits. Transfers that follow one another go to the tier as one batch; their
//! outcomes come back as inputs from tasks of the runtime. How many there can be is the ledger's limit, not one of this file.

use crate::clock::unix_ms;
use crate::driver::Driver;
use crate::events::EventFeed;
use crate::layouts::Layouts;
use crate::measure::Measures;
use crate::recovery::catalog_row;
use crate::session::{NotQueued, Outbox};
use crate::storage::{Storage, erase_result, read_result, write_result};
use kvd_block::{BlockHeader, LayoutHandle, OpId, RequestId, SessionId, SlotIndex, Tick};
use kvd_ledger::{Action, Input, Ledger, LedgerReply, ReadResult, SealedBlock, Transfer, WriteResult};
use kvd_proto::local::{Reply, ToEngine};
use kvd_shm::{Arena, Slot};
use kvd_tiers::{BlockName, CatalogChange, ReadBlock, Tier, WriteBlock};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::runtime::Handle;
use tracing::{error, warn};

/// Everything the executor acts on.
#[derive(Debug)]
pub struct Executor {
    /// Where slots are.
    pub arena: Arc<Arena>,
    /// What headers say about layouts.
    pub layouts: Arc<Layouts>,
    /// Where transfers go; nothing when there is no storage.
    pub storage: Option<Arc<Storage>>,
    /// Who is told of residency.
    pub events: EventFeed,
    /// Where outcomes of transfers go.
    pub driver: Driver,
    /// Where transfers are waited for.
    pub runtime: Handle,
    /// What is counted.
    pub measures: Arc<Measures>,
    sessions: HashMap<SessionId, Outbox>,
    pending: Pending,
}

/// Transfers of one kind, in order, not yet handed to the tier.
#[derive(Debug, Default)]
struct Pending {
    writes: Vec<Transfer>,
    reads: Vec<Transfer>,
    erases: Vec<(OpId, SlotIndex)>,
    changes: Vec<CatalogChange>,
}

impl Executor {
    /// An executor without sessions.
    pub fn new(
        arena: Arc<Arena>,
        layouts: Arc<Layouts>,
        storage: Option<Arc<Storage>>,
        events: EventFeed,
        driver: Driver,
        runtime: Handle,
        measures: Arc<Measures>,
    ) -> Executor {
        Executor { arena, layouts, storage, events, driver, runtime, measures, sessions: HashMap::new(), pending: Pending::default() }
    }

    /// Sends what is said to `session` to `outbox` from now on.
    pub fn attach(&mut self, session: SessionId, outbox: Outbox) {
        self.sessions.insert(session, outbox);
    }

    /// Nobody listens to `session` any more.
    pub fn detach(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    /// Performs `actions` in order and empties the list. Transfers may wait for [`Executor::end_turn`].
    pub fn perform(&mut self, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            match action {
                Action::Reply { session, request, reply } => self.say(session, request, reply_body(reply)),
                Action::Notify { session, lease, ready, missing } => {
                    self.say(session, RequestId(0), Reply::Staged { lease, ready, missing });
                }
                Action::Seal(block) => self.seal(block),
                Action::Write(transfer) => self.queue_write(transfer),
                Action::Read(transfer) => self.queue_read(transfer),
                Action::Erase { op, address } => self.queue_erase(op, address),
                Action::CatalogPut(row) => self.pending.changes.push(CatalogChange::Put(catalog_row(row))),
                Action::CatalogPurge { layout, generation } => self.pending.changes.push(CatalogChange::Purge { layout, generation }),
                Action::CatalogDelete(key) => self.pending.changes.push(CatalogChange::Delete(key)),
                Action::Publish(edge) => self.events.push(edge),
            }
        }
    }

    /// Hands over everything that was collected.
    pub fn end_turn(&mut self, now: Tick, ledger: &Ledger) {
        self.start_transfers();
        if let Some(storage) = self.storage.as_ref().filter(|_| !self.pending.changes.is_empty()) {
            storage.record(std::mem::take(&mut self.pending.changes));
        }
        self.pending.changes.clear();
        self.events.end_turn(now, ledger);
    }

    fn say(&mut self, session: SessionId, id: RequestId, body: Reply) {
        let Some(outbox) = self.sessions.get(&session) else { return };
        match outbox.push(ToEngine { id, body }) {
            Ok(()) => {}
            Err(NotQueued::Closed) => self.detach(session),
            Err(NotQueued::Full) => {
                warn!(%session, "the engine does not read its answers: its connection is closed");
                self.measures.slow_engines.add(1);
                self.detach(session);
            }
        }
    }

    /// Writes the header. The payload is there already.
    fn seal(&mut self, block: SealedBlock) {
        let Some(layout) = self.layouts.get(block.key.layout) else {
            error!(key = %block.key, "a block of an unknown layout was sealed");
            return;
        };
        let tokens: Vec<u32> = block.tokens.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("4 bytes"))).collect();
        let header = BlockHeader {
            hash: block.key.hash,
            parent: block.parent,
            local: block.local,
            position: block.position,
            created_unix_ms: unix_ms(),
            generation: block.generation,
            layout: layout.spec.clone(),
            stripes: block.stripes,
            tokens,
        };
        let mut page = [0; kvd_block::HEADER_BYTES as usize];
        header.encode(&mut page);
        self.arena.write_header(block.slot, &page);
        self.events.sealed(block.key, header.tokens);
    }

    // Transfers of different kinds keep their order: a batch ends where another kind begins.

    fn queue_write(&mut self, transfer: Transfer) {
        if !self.pending.reads.is_empty() || !self.pending.erases.is_empty() {
            self.start_transfers();
        }
        self.pending.writes.push(transfer);
    }

    fn queue_read(&mut self, transfer: Transfer) {
        if !self.pending.writes.is_empty() || !self.pending.erases.is_empty() {
            self.start_transfers();
        }
        self.pending.reads.push(transfer);
    }

    fn queue_erase(&mut self, op: OpId, address: SlotIndex) {
        if !self.pending.writes.is_empty() || !self.pending.reads.is_empty() {
            self.start_transfers();
        }
        self.pending.erases.push((op, address));
    }

    fn start_transfers(&mut self) {
        let Some((storage, tier)) = self.storage.clone().and_then(|storage| storage.tier().map(|tier| (storage, tier))) else {
            self.refuse_transfers();
            return;
        };
        if !self.pending.writes.is_empty() {
            let transfers = std::mem::take(&mut self.pending.writes);
            self.start_writes(&storage, &*tier, transfers);
        }
        if !self.pending.reads.is_empty() {
            let transfers = std::mem::take(&mut self.pending.reads);
            self.start_reads(&storage, &*tier, transfers);
        }
        if !self.pending.erases.is_empty() {
            let erases = std::mem::take(&mut self.pending.erases);
            self.start_erases(&storage, &*tier, erases);
        }
    }

    fn slot(&self, transfer: &Transfer) -> Slot {
        Slot::new(self.arena.clone(), transfer.slot, u64::from(transfer.pages) * kvd_block::PAGE_BYTES)
    }

    fn start_writes(&self, storage: &Arc<Storage>, tier: &dyn Tier, transfers: Vec<Transfer>) {
        let batch = transfers.iter().map(|transfer| WriteBlock { slot: self.slot(transfer), address: transfer.address }).collect();
        let (completion, storage, driver) = (tier.write(batch), storage.clone(), self.driver.clone());
        self.runtime.spawn(async move {
            let outcomes = completion.await.unwrap_or_default();
            let mut results = outcomes.into_iter().map(|outcome| write_result(&storage, outcome.result));
            let done = |transfer: Transfer| {
                let result = results.next().unwrap_or(WriteResult::Failed);
                Input::WriteDone { op: transfer.op, result }
            };
            let _ = driver.inputs(transfers.into_iter().map(done).collect()).await;
        });
    }

    fn start_reads(&self, storage: &Arc<Storage>, tier: &dyn Tier, transfers: Vec<Transfer>) {
        let name = |transfer: &Transfer| BlockName { layout: self.layout_id(transfer.key.layout), hash: transfer.key.hash };
        let batch = transfers
            .iter()
            .map(|transfer| ReadBlock { slot: self.slot(transfer), address: transfer.address, name: name(transfer) })
            .collect();
        let (completion, storage, driver) = (tier.read(batch), storage.clone(), self.driver.clone());
        self.runtime.spawn(async move {
            let outcomes = completion.await.unwrap_or_default();
            let mut results = outcomes.into_iter().map(|outcome| read_result(&storage, outcome.result));
            let done = |transfer: Transfer| {
                let result = results.next().unwrap_or(ReadResult::Failed);
                Input::ReadDone { op: transfer.op, result }
            };
            let _ = driver.inputs(transfers.into_iter().map(done).collect()).await;
        });
    }

    fn start_erases(&self, storage: &Arc<Storage>, tier: &dyn Tier, erases: Vec<(OpId, SlotIndex)>) {
        let completion = tier.erase(erases.iter().map(|(_, address)| *address).collect());
        let (storage, driver) = (storage.clone(), self.driver.clone());
        self.runtime.spawn(async move {
            let outcomes = completion.await.unwrap_or_default();
            let mut results = outcomes.into_iter().map(|outcome| erase_result(&storage, outcome));
            let done = |(op, _)| Input::EraseDone { op, result: results.next().unwrap_or(WriteResult::Failed) };
            let _ = driver.inputs(erases.into_iter().map(done).collect()).await;
        });
    }

    fn layout_id(&self, handle: LayoutHandle) -> kvd_block::LayoutId {
        self.layouts.get(handle).map_or_else(Default::default, |layout| layout.id)
    }

    /// Without storage the ledger asks for no transfers; if it does, the answer is a failure, never silence.
    fn refuse_transfers(&mut self) {
        let writes = self.pending.writes.drain(..).map(|transfer| Input::WriteDone { op: transfer.op, result: WriteResult::Failed });
        let reads = self.pending.reads.drain(..).map(|transfer| Input::ReadDone { op: transfer.op, result: ReadResult::Failed });
        let erases = self.pending.erases.drain(..).map(|(op, _)| Input::EraseDone { op, result: WriteResult::Failed });
        let inputs: Vec<Input> = writes.chain(reads).chain(erases).collect();
        if !inputs.is_empty() {
            let driver = self.driver.clone();
            self.runtime.spawn(async move { driver.inputs(inputs).await });
        }
    }
}

/// The ledger's answer in the engine's words.
fn reply_body(reply: LedgerReply) -> Reply {
    match reply {
        LedgerReply::Found(states) => Reply::Found { states },
        LedgerReply::StoreLease { lease, grants } => Reply::StoreLease { lease, grants },
        LedgerReply::LoadLease { lease, grants } => Reply::LoadLease { lease, grants },
        LedgerReply::Pinned(blocks) => Reply::Pinned { blocks },
        LedgerReply::Done => Reply::Done,
        LedgerReply::Busy(what) => Reply::Busy { what: what.to_owned() },
        LedgerReply::Invalid(why) => Reply::Invalid { why },
    }
}
