//! Messages that real engines sent, and what they mean. Origin: `tests/fixtures/wire/README.md`.

use kvd_block::LocalHash;
use kvd_router::hash::{PromptIdentity, hash_prompt};
use kvd_router::index::{BlockName, Medium};
use kvd_router::ingest::wire::{Attention, Decoder, Event, HashForm, Naming, Skipped, StoredEvent, WireError};
use proptest::prelude::{ProptestConfig, any, proptest};
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/wire")
}

fn capture(name: &str) -> Vec<u8> {
    let path = folder().join(format!("{name}.payload.msgpack"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn captures() -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder()).expect("the fixtures' folder").map(|entry| entry.expect("an entry").path());
    let mut all: Vec<(String, Vec<u8>)> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "msgpack"))
        .map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), std::fs::read(&path).expect("readable")))
        .collect();
    all.sort();
    all
}

fn decoder() -> Decoder {
    Decoder::new(Naming::Engine)
}

fn locals(tokens: impl Iterator<Item = u32>, block_tokens: usize, lora: &str, salt: &str) -> Vec<LocalHash> {
    let mut hashes = Vec::new();
    let tokens: Vec<u32> = tokens.collect();
    hash_prompt(&tokens, block_tokens, &PromptIdentity { lora: lora.into(), salt: salt.into() }, &[], &mut hashes);
    hashes
}

fn stored<'b>(event: &Event<'b>) -> StoredEvent<'b> {
    let Event::Stored(stored) = event else { panic!("{event:?} is no BlockStored") };
    *stored
}

/// (stored events, blocks in them, removed events, blocks in them, clears)
fn tally(decoder: &mut Decoder, name: &str) -> [usize; 5] {
    let payload = capture(name);
    let batch = decoder.decode(&payload).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(batch.skipped, Skipped::default(), "{name}");
    assert_eq!(batch.rank, Some(0), "{name}");
    assert!(batch.published > 1.79e9, "{name}");
    let mut counts = [0; 5];
    for event in batch.events() {
        match event {
            Event::Stored(stored) => (counts[0], counts[1]) = (counts[0] + 1, counts[1] + stored.names.len()),
            Event::Removed { names, .. } => (counts[2], counts[3]) = (counts[2] + 1, counts[3] + names.len()),
            Event::Cleared => counts[4] += 1,
        }
    }
    counts
}

#[test]
fn every_capture_is_read_whole() {
    let expected: [(&str, [usize; 5]); 45] = [
        ("sglang0523_seq0", [0, 0, 0, 0, 1]),
        ("sglang0523_seq1", [2, 62, 0, 0, 0]),
        ("sglang0523_seq2", [0, 0, 0, 0, 1]),
        ("sglang0523_seq3", [2, 62, 0, 0, 0]),
        ("sglang0523_seq4", [1, 31, 0, 0, 0]),
        ("sglang0523_seq5", [1, 31, 0, 0, 0]),
        ("sglang0523_seq6", [1, 31, 0, 0, 0]),
        ("sglang0523_seq7", [1, 31, 0, 0, 0]),
        ("vllm0320_bytes_cbor_seq0", [1, 2, 0, 0, 0]),
        ("vllm0320_bytes_cbor_seq1", [1, 2, 0, 0, 0]),
        ("vllm0320_bytes_cbor_seq2", [1, 2, 0, 0, 0]),
        ("vllm0320_hybrid_seq0", [64, 97, 0, 0, 0]),
        ("vllm0320_hybrid_seq1", [4, 3, 0, 0, 0]),
        ("vllm0320_hybrid_seq2", [2, 1, 0, 0, 0]),
        ("vllm0320_hybrid_seq3", [2, 35, 0, 0, 1]),
        ("vllm0320_int_seq0", [1, 3, 0, 0, 0]),
        ("vllm0320_int_seq1", [1, 1, 0, 0, 0]),
        ("vllm0320_int_seq2", [1, 3, 0, 0, 0]),
        ("vllm0320_int_seq5", [1, 15, 14, 14, 0]),
        ("vllm0320_int_seq6", [1, 15, 15, 15, 0]),
        ("vllm0320_int_seq7", [1, 1, 0, 0, 1]),
        ("vllm0320_tier_plain_seq0", [1, 9, 0, 0, 0]),
        ("vllm0320_tier_plain_seq1", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_plain_seq2", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_plain_seq3", [1, 9, 0, 0, 0]),
        ("vllm0320_tier_plain_seq4", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_plain_seq5", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_plain_seq6", [1, 9, 1, 7, 0]),
        ("vllm0320_tier_plain_seq7", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_plain_seq8", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_plain_seq9", [1, 9, 1, 9, 0]),
        ("vllm0320_tier_plain_seq10", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_plain_seq11", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_selfdesc_seq0", [1, 9, 0, 0, 0]),
        ("vllm0320_tier_selfdesc_seq1", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_selfdesc_seq2", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_selfdesc_seq3", [1, 9, 0, 0, 0]),
        ("vllm0320_tier_selfdesc_seq4", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_selfdesc_seq5", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_selfdesc_seq6", [1, 9, 1, 7, 0]),
        ("vllm0320_tier_selfdesc_seq7", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_selfdesc_seq8", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_selfdesc_seq9", [1, 9, 1, 9, 0]),
        ("vllm0320_tier_selfdesc_seq10", [9, 9, 0, 0, 0]),
        ("vllm0320_tier_selfdesc_seq11", [9, 9, 0, 0, 0]),
    ];
    let mut streams = std::collections::BTreeMap::new();
    for (name, counts) in expected {
        let stream = name.rsplit_once("_seq").expect("a number").0;
        let decoder = streams.entry(stream).or_insert_with(decoder);
        assert_eq!(tally(decoder, name), counts, "{name}");
    }
    assert_eq!(captures().len(), expected.len(), "a capture without expectations");
}

#[test]
fn vllm_hashes_as_integers_name_blocks_of_known_tokens() {
    let payload = capture("vllm0320_int_seq7");
    let mut decoder = decoder();
    let events: Vec<Event> = decoder.decode(&payload).unwrap().events().collect();
    assert_eq!(events[0], Event::Cleared);
    let block = stored(&events[1]);
    assert_eq!((block.parent, block.names), (None, &[BlockName(702757842669265042)][..]));
    assert_eq!((block.medium, block.block_tokens, block.attention), (Medium::Device, 32, Some(Attention::Full)));
    assert_eq!(block.locals, locals(100..132, 32, "", ""));
}

#[test]
fn vllm_hashes_as_bytes_are_named_by_their_last_eight_and_salted_throughout() {
    let payload = capture("vllm0320_bytes_cbor_seq2");
    let mut decoder = decoder();
    let events: Vec<Event> = decoder.decode(&payload).unwrap().events().collect();
    let blocks = stored(&events[0]);
    assert_eq!(blocks.names, [BlockName(0xda97_f89b_1fd6_a059), BlockName(0x6b51_b2d3_1c30_9904)]);
    assert_eq!(blocks.locals, locals(300..364, 32, "ad1", "s1"));
}

#[test]
fn blocks_of_an_adapter_hash_with_its_name() {
    let payload = capture("vllm0320_bytes_cbor_seq1");
    let mut decoder = decoder();
    let events: Vec<Event> = decoder.decode(&payload).unwrap().events().collect();
    let with = stored(&events[0]).locals.to_vec();
    let plain = locals(300..364, 32, "", "");
    assert_eq!(with.len(), plain.len());
    assert!(with.iter().zip(&plain).all(|(with, plain)| with != plain));
}

#[test]
fn a_sliding_window_group_finds_its_place_through_the_full_group() {
    let payload = capture("vllm0320_hybrid_seq0");
    let mut decoder = decoder();
    let events: Vec<Event> = decoder.decode(&payload).unwrap().events().collect();
    let (sliding, full) = (stored(&events[0]), stored(&events[1]));
    assert_eq!((sliding.group, sliding.attention), (0, Some(Attention::Window { tokens: 128 })));
    assert_eq!((full.group, full.attention), (1, Some(Attention::Full)));
    assert_eq!((sliding.names.len(), full.names.len()), (4, 31));
    assert_eq!(sliding.parent, Some(full.names[26]));
    assert_eq!(sliding.names, &full.names[27..]);
    assert_eq!(sliding.locals, &full.locals[27..]);
}

#[test]
fn a_sliding_window_group_without_hashes_stores_nothing() {
    let payload = capture("vllm0320_hybrid_seq1");
    let mut decoder = decoder();
    let batch = decoder.decode(&payload).unwrap();
    let events: Vec<Event> = batch.events().collect();
    assert_eq!(stored(&events[0]).names, []);
    assert_eq!(stored(&events[1]).names, [BlockName(11102032218545828418)]);
    assert_eq!(stored(&events[1]).parent, Some(BlockName(2868793517335738570)));
    assert_eq!(batch.skipped, Skipped::default());
}

#[test]
fn tiers_that_describe_themselves_agree_with_the_gpu_on_content() {
    let mut decoder = decoder();
    let payload = capture("vllm0320_tier_selfdesc_seq0");
    let known: Vec<(BlockName, LocalHash)> = decoder.decode(&payload).unwrap().events().flat_map(|event| pairs(&event)).collect();
    for (name, medium) in [("vllm0320_tier_selfdesc_seq1", Medium::Host), ("vllm0320_tier_selfdesc_seq2", Medium::Disk)] {
        let payload = capture(name);
        for event in decoder.decode(&payload).unwrap().events() {
            assert_eq!(stored(&event).medium, medium);
            assert!(pairs(&event).iter().all(|pair| known.contains(pair)), "{name}");
        }
    }
}

fn pairs(event: &Event<'_>) -> Vec<(BlockName, LocalHash)> {
    let stored = stored(event);
    stored.names.iter().copied().zip(stored.locals.iter().copied()).collect()
}

#[test]
fn tiers_that_do_not_describe_themselves_tell_names_alone() {
    let payload = capture("vllm0320_tier_plain_seq1");
    let mut decoder = decoder();
    for event in decoder.decode(&payload).unwrap().events() {
        let block = stored(&event);
        assert_eq!((block.names.len(), block.locals.len(), block.medium, block.block_tokens), (1, 0, Medium::Host, 0));
    }
}

#[test]
fn sglang_tells_the_salt_with_each_event() {
    let mut decoder = decoder();
    let (plain, salted) = (capture("sglang0523_seq4"), capture("sglang0523_seq6"));
    let plain: Vec<LocalHash> = decoder.decode(&plain).unwrap().events().flat_map(|event| stored(&event).locals.to_vec()).collect();
    let batch = decoder.decode(&salted).unwrap();
    let events: Vec<Event> = batch.events().collect();
    assert_eq!(stored(&events[0]).medium, Medium::Device);
    assert_eq!(stored(&events[0]).locals.len(), 31);
    assert_ne!(stored(&events[0]).locals[0], plain[0]);
}

#[test]
fn hashes_may_not_change_their_form_within_a_stream() {
    let mut decoder = decoder();
    decoder.decode(&capture("vllm0320_int_seq0")).unwrap();
    let error = decoder.decode(&capture("vllm0320_bytes_cbor_seq0")).unwrap_err();
    assert_eq!(error, WireError::HashForm { was: HashForm::Integer, now: HashForm::Bytes(32) });
    decoder.forget();
    decoder.decode(&capture("vllm0320_bytes_cbor_seq0")).unwrap();
}

#[test]
fn a_payload_cut_anywhere_is_refused() {
    for (name, payload) in captures() {
        for length in 0..payload.len() {
            assert!(decoder().decode(&payload[..length]).is_err(), "{name} cut to {length} bytes");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bits_never_panic(which in any::<proptest::sample::Index>(), flips in proptest::collection::vec((any::<proptest::sample::Index>(), 0u8..8), 1..16)) {
        let all = captures();
        let (_, mut payload) = all[which.index(all.len())].clone();
        for (place, bit) in flips {
            let place = place.index(payload.len());
            payload[place] ^= 1 << bit;
        }
        let mut decoder = decoder();
        if let Ok(batch) = decoder.decode(&payload) {
            for event in batch.events() {
                if let Event::Stored(stored) = event {
                    assert!(stored.locals.is_empty() || stored.locals.len() == stored.names.len());
                }
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = decoder().decode(&payload);
    }
}
