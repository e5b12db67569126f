//! Without any reuse nothing can be learnt, and new blocks replace old ones as in any cache.

use kvd_block::{SessionId, StoreGrant};
use kvd_tests::desk::{Desk, SMALL, own_chain};

#[test]
fn traffic_without_reuse_is_stored_all_the_same() {
    let engine = SessionId(1);
    let mut desk = Desk::new(300, 0);
    for round in 0..30u64 {
        let chain: Vec<_> = own_chain(1, 1000).into_iter().map(|block| renamed(block, round)).collect();
        let (lease, grants) = desk.prepare_store(engine, SMALL, &chain);
        assert!(grants.iter().all(|grant| matches!(grant, StoreGrant::Write(_))), "round {round} is refused");
        desk.complete_store(engine, SMALL, lease, chain.len());
        desk.wait(500);
    }
}

/// The same block of another text.
fn renamed(mut block: kvd_block::NewBlock, round: u64) -> kvd_block::NewBlock {
    for hash in [&mut block.hash, &mut block.parent] {
        if !hash.is_root() {
            hash.0.iter_mut().zip((round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).for_each(|(byte, noise)| *byte ^= noise);
        }
    }
    block
}
