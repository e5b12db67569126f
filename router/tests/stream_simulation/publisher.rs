//! A publisher with a few chains of blocks, which remembers what it had after each of its messages.

use crate::support::payload;
use bytes::Bytes;
use kvd_block::LocalHash;
use kvd_block::digest::{Digest, mix, term};
use kvd_proto::admin::{Layout, SnapshotBlock, SnapshotLayout, SnapshotPart};
use kvd_router::hash::{PromptIdentity, hash_prompt};
use kvd_router::ingest::stream::Means;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap, VecDeque};

pub const CHAINS: u32 = 6;
pub const LENGTH: u32 = 12;
pub const LAYOUT: [u8; 16] = [3; 16];

/// What helps followers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Digests, snapshots and replays.
    Kvd,
    /// Replays.
    Engine,
    /// Nothing.
    Mute,
}

impl Kind {
    pub fn means(self) -> Means {
        Means { replay: self != Kind::Mute, snapshot: self == Kind::Kvd }
    }
}

/// (chain, position, medium)
pub type Resident = BTreeSet<(u32, u32, u8)>;

/// A message of a life; numbers after the last of a life never occur.
pub type Moment = (u64, u64);

pub struct Publisher {
    pub kind: Kind,
    pub life: u64,
    /// Of the next message.
    pub number: u64,
    pub clock: f64,
    pub resident: Resident,
    ring: VecDeque<(u64, Bytes)>,
    ring_messages: usize,
    pub moments: HashMap<Bytes, Moment>,
    pub history: HashMap<Moment, Resident>,
}

fn tokens(chain: u32, position: u32) -> [u32; 2] {
    [chain * 1000 + position * 2 + 1, chain * 1000 + position * 2 + 2]
}

/// Local hashes of a whole chain.
pub fn chain_locals(chain: u32) -> Vec<LocalHash> {
    let all: Vec<u32> = (0..LENGTH).flat_map(|position| tokens(chain, position)).collect();
    let mut hashes = Vec::new();
    hash_prompt(&all, 2, &PromptIdentity::default(), &[], &mut hashes);
    hashes
}

fn name(chain: u32, position: u32) -> u64 {
    mix(u64::from(chain * 1000 + position + 1))
}

fn sixteen_bytes(name: u64) -> Vec<u8> {
    let mut bytes = name.to_le_bytes().to_vec();
    bytes.extend([7; 8]);
    bytes
}

impl Publisher {
    pub fn new(kind: Kind, ring_messages: usize) -> Publisher {
        Publisher {
            kind,
            life: 1,
            number: 0,
            clock: 100.0,
            resident: Resident::new(),
            ring: VecDeque::new(),
            ring_messages,
            moments: HashMap::new(),
            history: HashMap::new(),
        }
    }

    /// What it has now, as kvd's digests say it.
    pub fn digest(&self) -> Digest {
        digest(self.kind, &self.resident)
    }

    /// A new life, which kvd begins with a word and with what it recovered from disk.
    pub fn restart(&mut self, rng: &mut StdRng) -> Option<(u64, Bytes)> {
        self.life += 1;
        self.number = 0;
        self.clock += 1.0;
        self.ring.clear();
        self.resident.clear();
        (self.kind == Kind::Kvd).then(|| {
            let mut events = vec![json!({"type": "AllBlocksCleared"})];
            self.store(rng, &mut events);
            self.send(events)
        })
    }

    /// The next message.
    pub fn publish(&mut self, rng: &mut StdRng) -> (u64, Bytes) {
        if self.kind == Kind::Kvd && self.number == 0 {
            return self.send(vec![json!({"type": "AllBlocksCleared"})]);
        }
        let mut events = Vec::new();
        for _ in 0..rng.random_range(1..4u32) {
            match rng.random_range(0..20u32) {
                0 if self.kind != Kind::Kvd => {
                    self.resident.clear();
                    events.push(json!({"type": "AllBlocksCleared"}));
                }
                0..8 => self.remove(rng, &mut events),
                _ => self.store(rng, &mut events),
            }
        }
        self.send(events)
    }

    /// A message that does not say what happened: nobody can read it, or, of a kvd, its events are gone.
    pub fn publish_wrongly(&mut self, rng: &mut StdRng) -> (u64, Bytes) {
        self.store(rng, &mut Vec::new());
        if self.kind == Kind::Kvd && once_in(rng, 2) {
            return self.send(Vec::new());
        }
        self.send(vec![json!({"type": "BlockStored", "block_hashes": [[]]})])
    }

    fn hash(&self, chain: u32, position: u32) -> Value {
        let name = name(chain, position);
        match self.kind {
            Kind::Kvd => json!(format!("0x{}", sixteen_bytes(name).iter().map(|byte| format!("{byte:02x}")).collect::<String>())),
            _ => json!(name),
        }
    }

    fn medium(&self, rng: &mut StdRng) -> (u8, &'static str) {
        let known = if self.kind == Kind::Kvd { [(1, "CPU"), (2, "STORAGE")] } else { [(0, "GPU"), (1, "CPU")] };
        known[rng.random_range(0..2)]
    }

    fn store(&mut self, rng: &mut StdRng, events: &mut Vec<Value>) {
        let (number, medium) = self.medium(rng);
        let chain = rng.random_range(0..CHAINS);
        let held = |position| (0..4).any(|medium| self.resident.contains(&(chain, position, medium)));
        let begins: Vec<u32> = (0..LENGTH).filter(|position| *position == 0 || held(position - 1)).collect();
        let from = begins[rng.random_range(0..begins.len())];
        let most = rng.random_range(1..5u32);
        let run: Vec<u32> =
            (from..LENGTH.min(from + most)).take_while(|position| !self.resident.contains(&(chain, *position, number))).collect();
        if run.is_empty() {
            return;
        }
        let parent = if from == 0 { Value::Null } else { self.hash(chain, from - 1) };
        let hashes: Vec<Value> = run.iter().map(|position| self.hash(chain, *position)).collect();
        let mut event = json!({"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent, "block_size": 2, "medium": medium, "group_idx": 0});
        if self.kind == Kind::Kvd {
            let locals = chain_locals(chain);
            event["kvd_local"] = run.iter().map(|position| locals[*position as usize].0).collect();
            event["kvd_layout"] = json!("03".repeat(16));
        } else {
            event["token_ids"] = run.iter().flat_map(|position| tokens(chain, *position)).collect();
        }
        events.push(event);
        self.resident.extend(run.iter().map(|position| (chain, *position, number)));
    }

    fn remove(&mut self, rng: &mut StdRng, events: &mut Vec<Value>) {
        let (number, medium) = self.medium(rng);
        let held: Vec<(u32, u32, u8)> = self.resident.iter().filter(|(.., medium)| *medium == number).copied().collect();
        if held.is_empty() {
            return;
        }
        let gone: BTreeSet<(u32, u32, u8)> = (0..rng.random_range(1..4u32)).map(|_| held[rng.random_range(0..held.len())]).collect();
        let hashes: Vec<Value> = gone.iter().map(|(chain, position, _)| self.hash(*chain, *position)).collect();
        let mut event = json!({"type": "BlockRemoved", "block_hashes": hashes, "medium": medium, "group_idx": 0});
        if self.kind == Kind::Kvd {
            event["kvd_layout"] = json!("03".repeat(16));
        }
        events.push(event);
        self.resident.retain(|entry| !gone.contains(entry));
    }

    fn send(&mut self, mut events: Vec<Value>) -> (u64, Bytes) {
        self.clock += 0.01;
        if self.kind == Kind::Kvd {
            if events.is_empty() {
                events.push(json!({"type": "BlockRemoved", "block_hashes": [], "medium": "CPU", "group_idx": 0, "kvd_layout": ""}));
            }
            let digest = self.digest();
            let last = events.last_mut().expect("not empty");
            last["kvd_digest"] = json!([digest.sum, digest.count]);
            last["kvd_incarnation"] = json!(self.life);
        }
        let payload = Bytes::from(payload(self.clock, &Value::Array(events)));
        let number = self.number;
        self.number += 1;
        self.moments.insert(payload.clone(), (self.life, number));
        self.history.insert((self.life, number), self.resident.clone());
        self.ring.push_back((number, payload.clone()));
        if self.ring.len() > self.ring_messages {
            self.ring.pop_front();
        }
        (number, payload)
    }

    /// What it still has of its messages from `from` on.
    pub fn replay(&self, from: u64) -> Vec<(u64, Bytes)> {
        self.ring.iter().filter(|(number, _)| *number >= from).cloned().collect()
    }

    /// What is resident of some chains.
    pub fn snapshot(&self, chains: std::ops::Range<u32>) -> SnapshotPart {
        let block = |(chain, position, medium): &(u32, u32, u8)| SnapshotBlock {
            layout: 0,
            hash: sixteen_bytes(name(*chain, *position)),
            parent: if *position == 0 { vec![0; 16] } else { sixteen_bytes(name(*chain, position - 1)) },
            local: chain_locals(*chain)[*position as usize].0,
            position: *position,
            medium: ["GPU", "CPU", "STORAGE"][usize::from(*medium)].into(),
        };
        SnapshotPart {
            incarnation: self.life,
            next_event: self.number,
            layouts: vec![SnapshotLayout { handle: 0, id: LAYOUT.to_vec(), block_tokens: 2, group: 0, model: "m".into() }],
            blocks: self.resident.iter().filter(|(chain, ..)| chains.contains(chain)).map(block).collect(),
            digest: None,
        }
    }
}

/// The one layout of every simulated kvd.
pub fn layouts() -> Vec<Layout> {
    let layout =
        Layout { id: LAYOUT.to_vec(), model: "m".into(), block_tokens: 2, attention: "full_attention".into(), ..Layout::default() };
    vec![layout]
}

/// As the index computes it.
pub fn digest(kind: Kind, resident: &Resident) -> Digest {
    let salt = if kind == Kind::Kvd { u64::from_le_bytes([3; 8]) } else { 0 };
    let mut digest = Digest::default();
    resident.iter().for_each(|(chain, position, medium)| digest.add(term(name(*chain, *position), salt, *medium)));
    digest
}

/// True once in `times`, on average.
pub fn once_in(rng: &mut impl Rng, times: u32) -> bool {
    rng.random_range(0..times) == 0
}
