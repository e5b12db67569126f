//! Local hashes of an engine's blocks, from its tokens, adapter, cache salt and images.
//!
//! vLLM says a sequence's salt with its first block alone, yet every block of the sequence is hashed with it, as the prompt will
//! be ([`crate::hash`]). So the seeds of salted blocks are remembered by name for as long as the engine has them somewhere.

use super::error::WireError;
use super::fields::Fields;
use super::reader::{Reader, Value};
use crate::index::{BlockName, Medium};
use kvd_block::{LocalHash, route};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Most salted blocks remembered for one stream. Children of a forgotten one hash as if they had no salt, so that no prompt
/// finds them.
const MOST_SALTED: usize = 1 << 20;

/// Seeds of the blocks of salted sequences.
#[derive(Debug, Default)]
pub(super) struct Salted {
    seeds: HashMap<BlockName, (u64, u8)>,
}

impl Salted {
    pub(super) fn clear(&mut self) {
        self.seeds = HashMap::new();
    }

    pub(super) fn all(&self) -> Vec<(u64, u64, u8)> {
        self.seeds.iter().map(|(name, (seed, media))| (name.0, *seed, *media)).collect()
    }

    pub(super) fn resume(&mut self, all: &[(u64, u64, u8)]) {
        self.seeds = all.iter().map(|(name, seed, media)| (BlockName(*name), (*seed, *media))).collect();
    }

    fn seed_of(&self, name: BlockName) -> Option<u64> {
        if self.seeds.is_empty() { None } else { self.seeds.get(&name).map(|(seed, _)| *seed) }
    }

    fn stored(&mut self, name: BlockName, seed: u64, medium: Medium) {
        let room = self.seeds.len() < MOST_SALTED;
        match self.seeds.entry(name) {
            Entry::Occupied(mut known) => known.get_mut().1 |= 1 << medium as u8,
            Entry::Vacant(place) if room => drop(place.insert((seed, 1 << medium as u8))),
            Entry::Vacant(_) => {}
        }
    }

    /// Forgets what left its last medium.
    pub(super) fn removed(&mut self, names: &[BlockName], medium: Medium) {
        if self.seeds.is_empty() {
            return;
        }
        for name in names {
            if let Entry::Occupied(mut known) = self.seeds.entry(*name) {
                known.get_mut().1 &= !(1 << medium as u8);
                if known.get().1 == 0 {
                    known.remove();
                }
            }
        }
    }
}

/// Images and the like that extend a block's content: one list of hashes per block.
#[derive(Debug, Default)]
pub(super) struct Extras {
    /// (block, hash), in the order of blocks.
    media: Vec<(usize, u64)>,
    bytes: Vec<u8>,
}

/// Blocks of one event: `blocks` of them, of which the last `names.len()` have names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocks<'b> {
    pub names: &'b [BlockName],
    pub medium: Medium,
    pub tokens: &'b [u8],
    pub block_tokens: usize,
}

/// Appends the local hash of every named block.
pub(super) fn hash(
    fields: &Fields<'_>,
    blocks: Blocks<'_>,
    salted: &mut Salted,
    extras: &mut Extras,
    out: &mut Vec<LocalHash>,
) -> Result<(), WireError> {
    let all = blocks.tokens.len() / 4 / blocks.block_tokens;
    let first = all - blocks.names.len();
    let lora_id;
    let lora = match (fields.lora, fields.lora_id) {
        (Some(name), _) => name,
        (None, Some(id)) => {
            lora_id = id.to_string();
            &lora_id
        }
        (None, None) => "",
    };
    let begins = fields.parent.is_none();
    let salt = extras.read(fields, lora, begins, all, first)?.or(fields.salt).unwrap_or("");
    let plain = route::seed(lora, "");
    let seed = if salt.is_empty() { inherited(fields, blocks, salted).unwrap_or(plain) } else { route::seed(lora, salt) };
    if seed != plain {
        blocks.names.iter().for_each(|name| salted.stored(*name, seed, blocks.medium));
    }
    let named = &blocks.tokens[first * blocks.block_tokens * 4..];
    if extras.media.is_empty() {
        out.extend(named.chunks_exact(blocks.block_tokens * 4).map(|block| LocalHash(route::local(block, seed))));
    } else {
        out.extend(named.chunks_exact(blocks.block_tokens * 4).enumerate().map(|(block, tokens)| extras.hash(first + block, tokens, seed)));
    }
    Ok(())
}

/// The seed of a salted sequence that these blocks continue, or that they were told to belong to before.
fn inherited(fields: &Fields<'_>, blocks: Blocks<'_>, salted: &Salted) -> Option<u64> {
    let parent = fields.parent.and_then(|parent| salted.seed_of(parent));
    parent.or_else(|| blocks.names.first().and_then(|name| salted.seed_of(*name)))
}

impl Extras {
    /// Reads `extra_keys` and `mm_keys`; gives the salt, if they have one.
    fn read<'a>(&mut self, fields: &Fields<'a>, lora: &str, begins: bool, all: usize, first: usize) -> Result<Option<&'a str>, WireError> {
        self.media.clear();
        let mut salt = None;
        for (raw, may_salt) in [(fields.extra_keys, begins), (fields.media_keys, false)] {
            if raw.is_empty() {
                continue;
            }
            let mut reader = Reader::new(raw);
            let Value::Array(lists) = reader.value()? else { continue };
            // One list for each block, or for each that has a name.
            let offset = if lists == all { 0 } else { first };
            for block in 0..lists {
                let Value::Array(keys) = reader.value()? else { continue };
                let mut lora_left = !lora.is_empty();
                for _ in 0..keys {
                    let Some(text) = self.key(&mut reader, offset + block)? else { continue };
                    if lora_left && text == lora {
                        lora_left = false;
                    } else if may_salt && offset + block == 0 {
                        salt = Some(text);
                    } else {
                        self.media.push((offset + block, media_hash(text)));
                    }
                }
            }
        }
        self.media.sort_unstable();
        Ok(salt)
    }

    /// One key of a block: a text that means what its place says, or an image, noted at once.
    fn key<'a>(&mut self, reader: &mut Reader<'a>, block: usize) -> Result<Option<&'a str>, WireError> {
        let mut look = *reader;
        let raw = reader.raw()?;
        let hash = match look.value()? {
            Value::Nil => return Ok(None),
            Value::Text(text) => return Ok(Some(text)),
            // An image and where it begins.
            Value::Array(1..) => match look.value()? {
                Value::Text(text) => media_hash(text),
                Value::Integer(hash) => hash,
                Value::Bytes(bytes) => bytes.first_chunk().map_or_else(|| opaque(raw), |first| u64::from_be_bytes(*first)),
                _ => opaque(raw),
            },
            _ => opaque(raw),
        };
        self.media.push((block, hash));
        Ok(None)
    }

    fn hash(&mut self, block: usize, tokens: &[u8], seed: u64) -> LocalHash {
        self.bytes.clear();
        self.bytes.extend_from_slice(tokens);
        let from = self.media.partition_point(|(at, _)| *at < block);
        for (_, hash) in self.media[from..].iter().take_while(|(at, _)| *at == block) {
            self.bytes.extend_from_slice(&hash.to_le_bytes());
        }
        LocalHash(route::local(&self.bytes, seed))
    }
}

/// The 64-bit hash of an image that an engine knows by `name`: of a digest in 64 hexadecimal digits the first 16, as NVIDIA
/// Dynamo takes them; of any other text its XXH3.
pub fn media_hash(name: &str) -> u64 {
    let digits = name.get(..16).filter(|_| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_else(|| opaque(name.as_bytes()))
}

/// What sets a block apart in a way that prompts cannot name: no prompt will match it, which is only a miss.
fn opaque(raw: &[u8]) -> u64 {
    xxh3_64_with_seed(raw, 0)
}
