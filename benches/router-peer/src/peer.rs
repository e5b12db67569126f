//! The peer: its compressed concurrent radix tree behind its pool of event threads.

use crate::inputs::Message;
use dynamo_kv_router::ConcurrentRadixTreeCompressed;
use dynamo_kv_router::indexer::{SyncIndexer, ThreadPoolIndexer};
use dynamo_kv_router::protocols::{
    ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData, KvCacheStoreData, KvCacheStoredBlockData, LocalBlockHash,
    RouterEvent,
};
use kvd_block::LocalHash;

/// See the module.
pub struct Peer {
    pool: ThreadPoolIndexer<ConcurrentRadixTreeCompressed>,
    runtime: tokio::runtime::Runtime,
}

impl Peer {
    /// With so many threads for events.
    pub fn new(threads: usize, block_tokens: usize) -> Peer {
        let pool = ThreadPoolIndexer::new(ConcurrentRadixTreeCompressed::new(), threads, block_tokens as u32);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Peer { pool, runtime }
    }

    /// What it reads for `message`, made before time is taken.
    pub fn event(message: &Message) -> RouterEvent {
        let data = if message.locals.is_empty() {
            let block_hashes = message.names.iter().map(|name| ExternalSequenceBlockHash(name.0)).collect();
            KvCacheEventData::Removed(KvCacheRemoveData { block_hashes })
        } else {
            let block = |(name, local): (&kvd_index::BlockName, &LocalHash)| KvCacheStoredBlockData {
                block_hash: ExternalSequenceBlockHash(name.0),
                tokens_hash: LocalBlockHash(local.0),
                mm_extra_info: None,
            };
            KvCacheEventData::Stored(KvCacheStoreData {
                parent_hash: message.parent.map(|name| ExternalSequenceBlockHash(name.0)),
                start_position: None,
                blocks: message.names.iter().zip(&message.locals).map(block).collect(),
            })
        };
        RouterEvent::new(message.worker as u64, KvCacheEvent { event_id: 0, data, dp_rank: 0 })
    }

    /// Applies events and waits until the last is in.
    pub fn apply(&self, events: Vec<RouterEvent>) {
        for event in events {
            self.pool.enqueue_event(event).expect("the pool runs");
        }
        self.runtime.block_on(self.pool.flush_and_wait()).expect("the pool runs");
    }

    /// Blocks of the prompt's prefix by worker.
    pub fn scores(&self, prompt: &[LocalBlockHash]) -> Vec<(usize, u32)> {
        let mut scores: Vec<(usize, u32)> = self
            .pool
            .backend()
            .find_matches(prompt, false)
            .scores
            .iter()
            .map(|(worker, blocks)| (worker.worker_id as usize, *blocks))
            .collect();
        scores.sort_unstable();
        scores
    }

    /// The look-up alone; the number keeps it from being optimised away.
    pub fn find(&self, prompt: &[LocalBlockHash]) -> usize {
        self.pool.backend().find_matches(prompt, false).scores.len()
    }
}
