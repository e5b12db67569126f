//! Streams of real messages with bits flipped: whatever they come to mean, the index stays sound, and nothing is left when the
//! stream is gone.

use kvd_block::LocalHash;
use kvd_router::index::{BlockName, Index as Blocks, Medium, NameDomain};
use kvd_router::ingest::apply::{Applier, Publisher};
use kvd_router::ingest::namespaces::Namespaces;
use proptest::prelude::{ProptestConfig, any, proptest};
use proptest::sample::Index;
use std::path::PathBuf;
use std::sync::Arc;

/// The messages of each captured stream, in their order.
fn streams() -> Vec<Vec<Vec<u8>>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/wire");
    let names = [
        ("vllm0320_int", &[0, 1, 2, 5, 6, 7][..]),
        ("vllm0320_bytes_cbor", &[0, 1, 2]),
        ("vllm0320_hybrid", &[0, 1, 2, 3]),
        ("vllm0320_tier_selfdesc", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("vllm0320_tier_plain", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("sglang0523", &[0, 1, 2, 3, 4, 5, 6, 7]),
    ];
    let read = |name: &str, number: &i32| {
        let path = folder.join(format!("{name}_seq{number}.payload.msgpack"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    names.iter().map(|(name, numbers)| numbers.iter().map(|number| read(name, number)).collect()).collect()
}

fn applier(namespaces: &Arc<Namespaces>) -> Applier {
    Applier::new(Publisher::Engine { model: "m".into(), block_tokens: None, rank: 0 }, namespaces.clone())
}

/// Blocks and waiting blocks of all indexes.
fn left(namespaces: &Namespaces) -> u64 {
    namespaces.all().iter().map(|namespace| namespace.read().stats()).map(|stats| stats.blocks + stats.orphans).sum()
}

#[test]
fn every_captured_stream_is_applied_whole_and_forgotten_whole() {
    for stream in streams() {
        let namespaces = Arc::new(Namespaces::default());
        let mut applier = applier(&namespaces);
        for payload in &stream {
            applier.apply(payload, true);
        }
        assert_eq!(applier.tally().errors.iter().sum::<u64>(), 0);
        assert_eq!(applier.refusal(), None);
        assert!(applier.blocks().iter().sum::<u64>() > 0);
        drop(applier);
        assert_eq!(left(&namespaces), 0);
    }
}

/// What bit flips come to, and engines whose hashes tell more apart than tokens, adapter and salt.
#[test]
fn a_holder_may_call_a_block_by_two_names() {
    let locals = [7, 8, 9].map(LocalHash);
    let mut index = Blocks::default();
    let holder = index.add_holder(NameDomain(0), 0).unwrap();
    for names in [[1, 2, 3], [4, 5, 6]] {
        index.store(holder, Medium::Device, None, &names.map(BlockName), &locals);
    }
    for name in [3, 2, 1, 6, 5, 4] {
        index.remove(holder, Medium::Device, &[BlockName(name)]);
    }
    index.remove_holder(holder);
    assert_eq!((index.stats().blocks, index.stats().memberships), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bits_leave_the_index_sound(
        which in any::<Index>(),
        flips in proptest::collection::vec((any::<Index>(), any::<Index>(), 0u8..8), 1..24),
        repeat in any::<bool>(),
    ) {
        let all = streams();
        let mut stream = all[which.index(all.len())].clone();
        for (message, place, bit) in flips {
            let at = message.index(stream.len());
            let place = place.index(stream[at].len());
            stream[at][place] ^= 1 << bit;
        }
        let namespaces = Arc::new(Namespaces::default());
        let mut applier = applier(&namespaces);
        for payload in stream.iter().chain(stream.iter().filter(|_| repeat)) {
            applier.apply(payload, true);
        }
        drop(applier);
        assert_eq!(left(&namespaces), 0);
    }
}
