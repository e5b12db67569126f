//! How long it takes to read one message of 128 blocks, and to apply it to an index that holds them already: `cargo run --release -p kvd-router --example decode_speed`.

use kvd_router::ingest::apply::{Applier, Publisher};
use kvd_router::ingest::namespaces::Namespaces;
use kvd_router::ingest::wire::{Decoder, Naming};
use std::hint::black_box;
use std::time::Instant;

const BLOCKS: u32 = 128;
const MESSAGES: u32 = 20_000;

/// What vLLM 0.32 sends for one prompt.
fn payload(block_tokens: u32) -> Vec<u8> {
    let mut out = vec![0x93, 0xcb];
    out.extend(1.0f64.to_be_bytes());
    out.push(0x91);
    let entry = |out: &mut Vec<u8>, key: &str| rmp::encode::write_str(out, key).expect("into memory");
    rmp::encode::write_map_len(&mut out, 6).expect("into memory");
    entry(&mut out, "type");
    entry(&mut out, "BlockStored");
    entry(&mut out, "block_hashes");
    rmp::encode::write_array_len(&mut out, BLOCKS).expect("into memory");
    (0..u64::from(BLOCKS)).for_each(|block| drop(rmp::encode::write_uint(&mut out, u64::MAX - block)));
    entry(&mut out, "parent_block_hash");
    rmp::encode::write_nil(&mut out).expect("into memory");
    entry(&mut out, "token_ids");
    rmp::encode::write_array_len(&mut out, BLOCKS * block_tokens).expect("into memory");
    // A vocabulary of 128k tokens: most take five bytes, some three.
    (0..BLOCKS * block_tokens).for_each(|at| drop(rmp::encode::write_uint(&mut out, u64::from(at.wrapping_mul(2_654_435_761) % 128_000))));
    entry(&mut out, "block_size");
    rmp::encode::write_uint(&mut out, block_tokens.into()).expect("into memory");
    entry(&mut out, "extra_keys");
    rmp::encode::write_array_len(&mut out, BLOCKS).expect("into memory");
    (0..BLOCKS).for_each(|_| rmp::encode::write_nil(&mut out).expect("into memory"));
    out.push(0);
    out
}

/// Nanoseconds a block that `work` takes for a message.
fn measure(mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..MESSAGES).for_each(|_| work());
    start.elapsed().as_secs_f64() * 1e9 / f64::from(MESSAGES) / f64::from(BLOCKS)
}

fn main() {
    for block_tokens in [16, 32, 64] {
        let payload = payload(block_tokens);
        let mut decoder = Decoder::new(Naming::Engine);
        let read = measure(|| {
            let batch = decoder.decode(black_box(&payload)).expect("a sound payload");
            black_box(batch.events().count());
        });
        let engine = Publisher::Engine { model: "m".into(), block_tokens: None, rank: 0 };
        let mut applier = Applier::new(engine, Namespaces::default().into());
        let applied = measure(|| {
            black_box(applier.apply(black_box(&payload), true));
        });
        println!(
            "{BLOCKS} blocks of {block_tokens} tokens, {} bytes: read {read:.0} ns, read and applied {applied:.0} ns a block",
            payload.len()
        );
    }
}
