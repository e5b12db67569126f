//! A trace through the real ledger, as an engine would drive it: look the prompt up, load what is there, compute and store the rest.

use super::Hits;
use crate::traces::{Request, Trace};
use kvd_block::{
    Checksum, FilledBlock, LayoutHandle, LeaseId, LocalHash, NewBlock, PAGE_BYTES, RequestId, SequenceHash, SessionId, StoreGrant, Tick,
    TierKind,
};
use kvd_ledger::{Action, Counters, Input, Ledger, LedgerConfig, LedgerReply, ReadResult, SpaceConfig, WriteResult};

const SESSION: SessionId = SessionId(1);
const REQUEST: RequestId = RequestId(1);
const LAYOUT: LayoutHandle = LayoutHandle(1);
/// The smallest slot: nothing is touched, so the size is only a number.
const SLOT_PAGES: u32 = 2;
/// Blocks loaded at once, so that a small arena can hold them while they are.
const LOAD_BLOCKS: usize = 64;

/// Room for so many blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Medium(pub usize);

impl Medium {
    fn space(self) -> SpaceConfig {
        let extent_bytes = (1 + self.0 as u64 * u64::from(SLOT_PAGES)) * PAGE_BYTES;
        SpaceConfig { capacity_bytes: extent_bytes, extent_bytes }
    }
}

/// Replays `trace` with room for so many blocks; `change` sets the policies.
pub fn replay(trace: &Trace, arena: Medium, nvme: Option<Medium>, change: impl FnOnce(&mut LedgerConfig)) -> (Hits, Counters) {
    let mut config = LedgerConfig::new(arena.space(), nvme.map(Medium::space));
    change(&mut config);
    let mut engine = Engine { ledger: Ledger::new(config), now: Tick(0), stores: nvme.is_some() };
    engine.step(Input::DefineLayout { layout: LAYOUT, slot_pages: SLOT_PAGES, ranks: 1, generation: 0 });
    engine.step(Input::OpenSession { session: SESSION });
    let mut hits = Hits::default();
    for (at, request) in trace.requests.iter().enumerate() {
        engine.now = Tick(1_000 + request.at_ms);
        let found = engine.serve(request);
        hits.count(at >= trace.requests.len() / 2, request, found);
    }
    (hits, *engine.ledger.counters())
}

struct Engine {
    ledger: Ledger,
    now: Tick,
    stores: bool,
}

impl Engine {
    /// Serves a request; how many blocks of its prompt were there.
    fn serve(&mut self, request: &Request) -> usize {
        let keys: Vec<SequenceHash> = request.blocks.iter().map(|block| name(*block)).collect();
        let input = Input::Lookup { session: SESSION, request: REQUEST, layout: LAYOUT, keys: keys.clone(), until_miss: true };
        let found = match self.step(input).into_iter().next() {
            Some(Action::Reply { reply: LedgerReply::Found(states), .. }) => states.len(),
            other => panic!("a lookup is answered by states, not {other:?}"),
        };
        if self.stores {
            keys[..found].chunks(LOAD_BLOCKS).for_each(|keys| self.load(keys));
        }
        self.store(&keys, found);
        found
    }

    fn load(&mut self, keys: &[SequenceHash]) {
        let input = Input::PrepareLoad { session: SESSION, request: REQUEST, layout: LAYOUT, keys: keys.to_vec(), deadline_ms: 0 };
        let lease = self.step(input).into_iter().find_map(|action| match action {
            Action::Reply { reply: LedgerReply::LoadLease { lease, .. }, .. } => Some(lease),
            _ => None,
        });
        let lease = lease.expect("a load is answered by a lease");
        self.step(Input::CompleteLoad { session: SESSION, request: REQUEST, lease, corrupt: Vec::new() });
    }

    fn store(&mut self, keys: &[SequenceHash], found: usize) {
        let block = |position: usize| NewBlock {
            hash: keys[position],
            parent: if position == 0 { SequenceHash::ROOT } else { keys[position - 1] },
            local: LocalHash(0),
            position: position as u32,
            tokens: Vec::new(),
        };
        let blocks: Vec<NewBlock> = (found..keys.len()).map(block).collect();
        if blocks.is_empty() {
            return;
        }
        let actions = self.step(Input::PrepareStore { session: SESSION, request: REQUEST, layout: LAYOUT, blocks });
        let (lease, filled) = granted(&actions).expect("a store is answered by a lease");
        self.step(Input::CompleteStore { session: SESSION, request: REQUEST, lease, filled });
    }

    /// One step, and every transfer it starts, done at once.
    fn step(&mut self, input: Input) -> Vec<Action> {
        let mut all = Vec::new();
        self.ledger.step(self.now, input, &mut all);
        let mut at = 0;
        while at < all.len() {
            let done = match &all[at] {
                Action::Write(transfer) => Some(Input::WriteDone { op: transfer.op, result: WriteResult::Written }),
                Action::Read(transfer) => Some(Input::ReadDone { op: transfer.op, result: ReadResult::Read }),
                _ => None,
            };
            if let Some(done) = done {
                self.ledger.step(self.now, done, &mut all);
            }
            at += 1;
        }
        debug_assert!(self.ledger.totals(TierKind::Cpu).used_bytes <= self.ledger.totals(TierKind::Cpu).capacity_bytes);
        all
    }
}

fn granted(actions: &[Action]) -> Option<(LeaseId, Vec<FilledBlock>)> {
    actions.iter().find_map(|action| match action {
        Action::Reply { reply: LedgerReply::StoreLease { lease, grants }, .. } => {
            let granted = (0..).zip(grants).filter(|(_, grant)| matches!(grant, StoreGrant::Write(_)));
            Some((*lease, granted.map(|(index, _)| FilledBlock { index, stripes: vec![Checksum(0)] }).collect()))
        }
        _ => None,
    })
}

fn name(block: u64) -> SequenceHash {
    let mut bytes = [1; 16];
    bytes[..8].copy_from_slice(&block.to_le_bytes());
    SequenceHash(bytes)
}
