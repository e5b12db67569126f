//! Forms of messages that no capture has: old vLLM, TensorRT-LLM, kvd, and what is wrong.

mod support;

use kvd_block::LocalHash;
use kvd_block::digest::Digest;
use kvd_router::hash::{MediaSpan, PromptIdentity, hash_prompt};
use kvd_router::index::{BlockName, Medium};
use kvd_router::ingest::wire::{Decoder, Event, Naming, StoredEvent, WireError, media_hash};
use serde_json::{Value, json};
use support::payload;

fn decode(naming: Naming, events: &Value) -> Result<Decoder, WireError> {
    let mut decoder = Decoder::new(naming);
    decoder.decode(&payload(1.0, events))?;
    Ok(decoder)
}

fn first(naming: Naming, events: &Value, check: impl Fn(StoredEvent<'_>)) {
    let mut decoder = Decoder::new(naming);
    let payload = payload(1.0, events);
    let batch = decoder.decode(&payload).unwrap();
    match batch.events().next().unwrap() {
        Event::Stored(stored) => check(stored),
        other => panic!("{other:?}"),
    }
}

fn locals(tokens: &[u32], lora: &str, salt: &str, media: &[MediaSpan]) -> Vec<LocalHash> {
    let mut hashes = Vec::new();
    hash_prompt(tokens, 2, &PromptIdentity { lora: lora.into(), salt: salt.into() }, media, &mut hashes);
    hashes
}

fn block(hash: u64, parent: Value, tokens: [u32; 2]) -> Value {
    json!({"type": "BlockStored", "block_hashes": [hash], "parent_block_hash": parent, "token_ids": tokens, "block_size": 2})
}

#[test]
fn an_event_may_be_an_array() {
    let events = json!([["BlockStored", [7, 8], 6, [1, 2, 3, 4], 2, null, "CPU", "ad", null, 3, "mamba", null, "future"]]);
    first(Naming::Engine, &events, |stored| {
        assert_eq!((stored.parent, stored.names), (Some(BlockName(6)), &[BlockName(7), BlockName(8)][..]));
        assert_eq!((stored.medium, stored.group), (Medium::Host, 3));
        assert_eq!(stored.locals, locals(&[1, 2, 3, 4], "ad", "", &[]));
    });
    first(Naming::Engine, &json!([["BlockStored", [7], null, [1, 2], 2, null]]), |stored| assert_eq!(stored.medium, Medium::Device));
}

#[test]
fn removals_and_clears_may_be_arrays() {
    let mut decoder = Decoder::new(Naming::Engine);
    let payload = payload(1.0, &json!([["BlockRemoved", [-1], "GPU"], ["AllBlocksCleared"]]));
    let events: Vec<Event> = decoder.decode(&payload).unwrap().events().collect();
    let names = &[BlockName(u64::MAX)][..];
    assert_eq!(events[0], Event::Removed { group: 0, layout: None, medium: Medium::Device, names });
    assert_eq!(events[1], Event::Cleared);
}

#[test]
fn tensorrt_llm_may_write_tokens_as_text() {
    let events = json!([{"type": "BlockStored", "block_hashes": [1], "token_ids": ["10", "20"], "block_size": 2, "mm_keys": [null]}]);
    first(Naming::Engine, &events, |stored| assert_eq!(stored.locals, locals(&[10, 20], "", "", &[])));
}

#[test]
fn an_image_extends_the_blocks_it_covers() {
    let image = "00000000000000ff".repeat(4);
    let span = MediaSpan { hash: media_hash(&image), from_token: 2, to_token: 4 };
    assert_eq!(span.hash, 255);
    for keys in ["extra_keys", "mm_keys"] {
        let mut event = json!({"type": "BlockStored", "block_hashes": [1, 2, 3], "token_ids": [1, 2, 3, 4, 5, 6], "block_size": 2});
        event[keys] = json!([null, [[image, 0]], []]);
        first(Naming::Engine, &json!([event]), |stored| {
            assert_eq!(stored.locals, locals(&[1, 2, 3, 4, 5, 6], "", "", &[span]), "{keys}");
        });
    }
}

#[test]
fn a_salt_reaches_the_blocks_that_continue_its_sequence() {
    let mut start = block(1, Value::Null, [1, 2]);
    start["extra_keys"] = json!([["tenant"]]);
    let mut decoder = Decoder::new(Naming::Engine);
    decoder.decode(&payload(1.0, &json!([start]))).unwrap();
    let next = payload(2.0, &json!([block(2, json!(1), [3, 4])]));
    let events: Vec<Event> = decoder.decode(&next).unwrap().events().collect();
    let Event::Stored(stored) = events[0] else { panic!() };
    assert_eq!(stored.locals, &locals(&[1, 2, 3, 4], "", "tenant", &[])[1..]);
}

#[test]
fn an_adapter_without_a_name_is_known_by_its_number() {
    let mut event = block(1, Value::Null, [1, 2]);
    event["lora_id"] = json!(5);
    first(Naming::Engine, &json!([event]), |stored| assert_eq!(stored.locals, locals(&[1, 2], "5", "", &[])));
}

#[test]
fn kvd_tells_local_hashes_layout_and_digest() {
    let events = json!([
        {"type": "AllBlocksCleared", "kvd_incarnation": 9},
        {"type": "BlockStored", "block_hashes": ["0x0100000000000000ffffffffffffffff"], "parent_block_hash": null, "token_ids": [],
         "block_size": 16, "medium": "STORAGE", "group_idx": 1, "kvd_layout": "000102030405060708090a0b0c0d0e0f", "kvd_local": [77],
         "kvd_position": 0, "kvd_digest": [5, 1]},
    ]);
    let mut decoder = Decoder::new(Naming::Kvd);
    let payload = payload(1.0, &events);
    let batch = decoder.decode(&payload).unwrap();
    assert_eq!((batch.digest, batch.incarnation), (Some(Digest { sum: 5, count: 1 }), Some(9)));
    let events: Vec<Event> = batch.events().collect();
    assert_eq!(events[0], Event::Cleared);
    let Event::Stored(stored) = events[1] else { panic!() };
    assert_eq!((stored.names, stored.locals), (&[BlockName(1)][..], &[LocalHash(77)][..]));
    assert_eq!((stored.medium, stored.group, stored.layout.unwrap().0[15]), (Medium::Disk, 1, 15));
}

#[test]
fn unknown_events_keys_and_media_are_passed_over_and_counted() {
    let mut stored = block(1, Value::Null, [1, 2]);
    stored["future"] = json!({"a": [1, {"b": null}]});
    let mut elsewhere = block(2, Value::Null, [3, 4]);
    elsewhere["medium"] = json!("TAPE");
    let mut decoder = Decoder::new(Naming::Engine);
    let payload = payload(1.0, &json!([{"type": "BlockMoved", "x": [1]}, elsewhere, stored, ["Later", 5]]));
    let batch = decoder.decode(&payload).unwrap();
    assert_eq!((batch.skipped.events, batch.skipped.media, batch.events().count()), (2, 1, 1));
}

#[test]
fn a_sliding_window_without_a_full_group_is_not_placed() {
    let mut decoder = Decoder::new(Naming::Engine);
    let event = json!({"type": "BlockStored", "block_hashes": [9], "token_ids": [1, 2, 3, 4], "block_size": 2});
    let payload = payload(1.0, &json!([event]));
    let batch = decoder.decode(&payload).unwrap();
    assert_eq!(batch.skipped.unplaced, 1);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let wrong = |event: Value| decode(Naming::Engine, &json!([event])).expect_err("nonsense");
    let event = |size: u64| json!({"type": "BlockStored", "block_hashes": [1], "token_ids": [1, 2, 3], "block_size": size});
    assert_eq!(wrong(event(2)), WireError::UnevenTokens { tokens: 3, block_tokens: 2 });
    assert_eq!(wrong(event(0)), WireError::UnevenTokens { tokens: 3, block_tokens: 0 });
    assert_eq!(wrong(event(1 << 20)), WireError::OutOfRange { what: "block_size" });
    assert_eq!(wrong(event(1 << 40)), WireError::OutOfRange { what: "block_size" });
    let many = json!({"type": "BlockStored", "block_hashes": [1, 2], "token_ids": [1, 2], "block_size": 2});
    assert_eq!(wrong(many), WireError::TooManyHashes { hashes: 2, blocks: 1 });
    assert_eq!(wrong(json!({"type": "BlockRemoved", "block_hashes": ["0x0102"]})), WireError::HashWidth { bytes: 2 });
    assert_eq!(wrong(json!({"type": "BlockRemoved", "block_hashes": [true]})), WireError::OutOfRange { what: "a block hash" });
    assert_eq!(wrong(json!(5)), WireError::Missing { event: "an event", what: "a map or an array" });
    let kvd = json!([{"type": "BlockRemoved", "block_hashes": ["0x000102030405060708"]}]);
    assert_eq!(decode(Naming::Kvd, &kvd).expect_err("9 bytes"), WireError::HashWidth { bytes: 9 });
}
