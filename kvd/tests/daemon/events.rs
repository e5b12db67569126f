//! The event stream tells exactly what is resident.

use super::support::{Engine, Home, Kvd, eventually, layout, sequence};
use kvd_block::digest::{self, Digest};
use kvd_block::{LayoutId, SequenceHash, TierKind};
use kvd_proto::admin::SnapshotRequest;
use kvd_proto::wire::kv_event::{self, KvEvent};
use kvd_proto::wire::replay;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend, SubSocket, ZmqMessage};

pub type Resident = BTreeSet<(String, String, [u8; 16])>;

/// What a subscriber believes.
#[derive(Default)]
pub struct Follower {
    pub resident: Resident,
    pub digest: Digest,
    next: u64,
    pub events: Vec<KvEvent>,
}

impl Follower {
    fn take(&mut self, number: &[u8], payload: &[u8]) {
        let number = u64::from_be_bytes(number.try_into().unwrap());
        assert_eq!(number, self.next, "a gap");
        self.next += 1;
        let events = kv_event::decode(payload).unwrap().1;
        let stamps: Vec<_> = events.iter().map(KvEvent::stamped).collect();
        for event in events {
            self.apply(&event);
            self.events.push(event);
        }
        let (last, others) = stamps.split_last().expect("at least one event");
        assert!(others.iter().all(Option::is_none), "only the last event is stamped");
        assert_eq!(last.unwrap().1, self.digest, "message {number}");
    }

    fn apply(&mut self, event: &KvEvent) {
        match event {
            KvEvent::AllBlocksCleared { .. } => {
                self.resident.clear();
                self.digest = Digest::default();
            }
            KvEvent::BlockStored(run) => run.block_hashes.iter().for_each(|hash| {
                assert!(self.resident.insert((run.medium.clone(), run.kvd_layout.clone(), hash.0)), "stored twice");
                self.digest.add(term(&run.medium, &run.kvd_layout, hash));
            }),
            KvEvent::BlockRemoved(run) => run.block_hashes.iter().for_each(|hash| {
                assert!(self.resident.remove(&(run.medium.clone(), run.kvd_layout.clone(), hash.0)), "removed twice");
                self.digest.remove(term(&run.medium, &run.kvd_layout, hash));
            }),
        }
    }
}

fn term(medium: &str, layout: &str, hash: &SequenceHash) -> u64 {
    let tier = TierKind::ALL.into_iter().find(|tier| tier.medium() == medium).unwrap();
    digest::term_in(*hash, LayoutId::from_hex(layout).unwrap(), tier)
}

pub async fn replay_all(address: &str, follower: &mut Follower) {
    let mut socket = DealerSocket::new();
    socket.connect(address).await.unwrap();
    let question = vec![bytes::Bytes::new(), bytes::Bytes::copy_from_slice(&follower.next.to_be_bytes())];
    socket.send(ZmqMessage::try_from(question).unwrap()).await.unwrap();
    loop {
        let answer = timeout(Duration::from_secs(10), socket.recv()).await.expect("an answer").unwrap().into_vec();
        let [empty, topic, number, payload] = &answer[..] else { panic!("{answer:?}") };
        assert!(empty.is_empty());
        if number[..] == replay::END {
            assert!(topic.is_empty() && payload.is_empty());
            return;
        }
        assert_eq!(&topic[..], b"kvd");
        follower.take(number, payload);
    }
}

async fn snapshot(kvd: &Kvd) -> (u64, Resident) {
    let mut client = kvd::client::connect(&kvd.addresses.admin).await.unwrap();
    let mut parts = client.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    let (mut next, mut resident) = (0, Resident::new());
    let id = layout().id().to_string();
    while let Some(part) = parts.message().await.unwrap() {
        next = part.next_event;
        resident.extend(part.blocks.into_iter().map(|block| (block.medium, id.clone(), block.hash.try_into().unwrap())));
    }
    (next, resident)
}

/// Stores more than the arena holds, so that blocks come and go in both tiers.
fn churn(home: &Home, kvd: &Kvd) {
    let mut engine = Engine::connect(&home.socket(), "e");
    for piece in 0..30 {
        let before = kvd.counter("written");
        engine.store(&sequence(1 + piece * 10_000, 100));
        eventually("a piece is written", || (kvd.counter("written") >= before + 100).then_some(()));
    }
    assert!(kvd.counter("evicted_cpu") > 0);
}

#[test]
fn a_replay_from_the_start_reproduces_the_snapshot() {
    let home = Home::new();
    let kvd = home.start(&[]);
    churn(&home, &kvd);
    super::support::runtime().block_on(async {
        let (next, resident) = snapshot(&kvd).await;
        let mut follower = Follower::default();
        while follower.next < next {
            replay_all(&kvd.addresses.replay, &mut follower).await;
        }
        assert!(!resident.is_empty());
        assert_eq!(follower.resident, resident);
    });
}

#[test]
fn a_subscriber_hears_blocks_with_their_tokens() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let runtime = super::support::runtime();
    let mut socket = runtime.block_on(async {
        let mut socket = SubSocket::new();
        socket.connect(&kvd.addresses.events).await.unwrap();
        socket.subscribe("kvd").await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        socket
    });
    let blocks = sequence(1, 5);
    Engine::connect(&home.socket(), "e").store(&blocks);
    let heard = runtime.block_on(async {
        let mut heard = Vec::new();
        while heard.len() < 2 {
            let message = timeout(Duration::from_secs(10), socket.recv()).await.expect("a message").unwrap().into_vec();
            let says_something = |event: &KvEvent| !matches!(event, KvEvent::BlockRemoved(run) if run.block_hashes.is_empty());
            heard.extend(kv_event::decode(&message[2]).unwrap().1.into_iter().filter(says_something));
        }
        heard
    });
    let KvEvent::BlockStored(run) = &heard[0] else { panic!("{heard:?}") };
    assert_eq!(run.block_hashes, super::support::hashes(&blocks));
    assert_eq!(run.token_ids, (1..21).collect::<Vec<u32>>());
    assert_eq!((run.medium.as_str(), run.block_size, run.kvd_position), ("CPU", 4, 0));
    assert_eq!(run.kvd_local, blocks.iter().map(|block| block.local.0).collect::<Vec<_>>());
    let KvEvent::BlockStored(run) = &heard[1] else { panic!("{heard:?}") };
    assert_eq!((run.medium.as_str(), run.token_ids.first()), ("STORAGE", Some(&1)), "tokens come from the header");
}

#[test]
fn a_restart_begins_with_a_clear_and_what_was_recovered() {
    let home = Home::new();
    let kvd = home.start(&[]);
    Engine::connect(&home.socket(), "e").store(&sequence(1, 40));
    kvd.stop();
    let kvd = home.start(&[]);
    let life = kvd.status().incarnation;
    super::support::runtime().block_on(async {
        let mut follower = Follower::default();
        while follower.next < kvd_next(&kvd).await {
            replay_all(&kvd.addresses.replay, &mut follower).await;
        }
        assert!(matches!(follower.events[0], KvEvent::AllBlocksCleared { kvd_incarnation, .. } if kvd_incarnation == Some(life)));
        assert_eq!(follower.resident, snapshot(&kvd).await.1);
        assert_eq!(follower.resident.len(), 40);
    });
}

async fn kvd_next(kvd: &Kvd) -> u64 {
    snapshot(kvd).await.0
}
