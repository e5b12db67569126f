//! A consumer of the event stream as `docs/formats/events.md` describes it, in the plainest way.

use super::support::Kvd;
use kvd_block::digest::{self, Digest};
use kvd_block::{LayoutId, SequenceHash, TierKind};
use kvd_proto::admin::SnapshotRequest;
use kvd_proto::wire::kv_event::{self, KvEvent};
use kvd_proto::wire::replay;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tokio::time::timeout;
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend, SubSocket, ZmqMessage};

/// Medium, layout and name of every block.
pub type Resident = BTreeSet<(String, String, [u8; 16])>;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Took {
    /// It was the next one.
    Applied,
    /// It was applied before.
    Seen,
    /// Messages before it are missing.
    Gap,
}

/// What a subscriber believes. Panics when what it believes is not what the daemon says.
#[derive(Debug, Default)]
pub struct Follower {
    pub life: Option<u64>,
    pub next: u64,
    pub resident: Resident,
    pub digest: Digest,
    pub events: Vec<KvEvent>,
    pub snapshots: usize,
    /// Messages before this one may repeat what a snapshot said.
    pub fuzzy_until: u64,
}

impl Follower {
    pub fn take(&mut self, number: u64, payload: &[u8]) -> Took {
        let events = kv_event::decode(payload).unwrap().1;
        let (last, others) = events.split_last().expect("at least one event");
        assert!(others.iter().all(|event| event.stamped().is_none()), "only the last event is stamped");
        let (life, digest) = last.stamped().expect("the last event is stamped");
        if self.life != Some(life) {
            *self = Follower { life: Some(life), snapshots: self.snapshots, ..Follower::default() };
        }
        if number != self.next {
            return if number < self.next { Took::Seen } else { Took::Gap };
        }
        events.iter().for_each(|event| self.apply(event));
        self.events.extend(events);
        self.next += 1;
        if self.next >= self.fuzzy_until {
            assert_eq!(self.digest, digest, "message {number}");
        }
        Took::Applied
    }

    fn apply(&mut self, event: &KvEvent) {
        let is_fuzzy = self.next < self.fuzzy_until;
        match event {
            KvEvent::AllBlocksCleared { .. } => (self.resident, self.digest) = Default::default(),
            KvEvent::BlockStored(run) => run.block_hashes.iter().for_each(|hash| {
                let is_new = self.add(&run.medium, &run.kvd_layout, *hash);
                assert!(is_new || is_fuzzy, "stored twice");
            }),
            KvEvent::BlockRemoved(run) => run.block_hashes.iter().for_each(|hash| {
                let was_there = self.resident.remove(&(run.medium.clone(), run.kvd_layout.clone(), hash.0));
                assert!(was_there || is_fuzzy, "removed twice");
                if was_there {
                    self.digest.remove(term(&run.medium, &run.kvd_layout, hash));
                }
            }),
        }
    }

    fn add(&mut self, medium: &str, layout: &str, hash: SequenceHash) -> bool {
        let is_new = self.resident.insert((medium.to_owned(), layout.to_owned(), hash.0));
        if is_new {
            self.digest.add(term(medium, layout, &hash));
        }
        is_new
    }

    /// Asks for what is missing. False when it is not kept any more.
    pub async fn replay(&mut self, kvd: &Kvd) -> bool {
        let mut is_whole = true;
        for (number, payload) in replayed(kvd, self.next).await {
            is_whole = is_whole && self.take(number, &payload) != Took::Gap;
        }
        is_whole
    }

    /// Forgets everything and reads the snapshot. Returns how many parts it had.
    pub async fn snapshot(&mut self, kvd: &Kvd) -> usize {
        let mut client = kvd::client::connect(&kvd.addresses.admin).await.unwrap();
        let mut parts = client.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
        *self = Follower { snapshots: self.snapshots + 1, ..Follower::default() };
        let (mut layouts, mut read, mut digest) = (HashMap::new(), 0, None);
        while let Some(part) = parts.message().await.unwrap() {
            assert_eq!(*self.life.get_or_insert(part.incarnation), part.incarnation);
            if read == 0 {
                self.next = part.next_event;
            }
            assert!(digest.is_none() && part.next_event >= self.fuzzy_until);
            (self.fuzzy_until, digest) = (part.next_event, part.digest);
            read += 1;
            layouts.extend(part.layouts.into_iter().map(|layout| (layout.handle, LayoutId(layout.id.try_into().unwrap()).to_string())));
            for block in part.blocks {
                self.add(&block.medium, &layouts[&block.layout], SequenceHash(block.hash.try_into().unwrap()));
            }
        }
        let digest = digest.expect("the last part has the digest");
        if self.next == self.fuzzy_until {
            assert_eq!(self.digest, Digest { sum: digest.sum, count: digest.count });
        }
        read
    }

    /// Mends whatever is missing, until the view is exact as of a message at or after the next one of now.
    pub async fn catch_up(&mut self, kvd: &Kvd) {
        let mut client = kvd::client::connect(&kvd.addresses.admin).await.unwrap();
        let status = client.status(kvd_proto::admin::StatusRequest {}).await.unwrap().into_inner();
        for _ in 0..200 {
            let knows_this_life = self.life == Some(status.incarnation);
            if knows_this_life && self.next >= status.next_event.max(self.fuzzy_until) {
                return;
            }
            if !self.replay(kvd).await {
                self.snapshot(kvd).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("waited too long for message {}, the next is {}", status.next_event, self.next);
    }
}

fn term(medium: &str, layout: &str, hash: &SequenceHash) -> u64 {
    let tier = TierKind::ALL.into_iter().find(|tier| tier.medium() == medium).unwrap();
    digest::term_in(*hash, LayoutId::from_hex(layout).unwrap(), tier)
}

/// What the daemon answers who asks for messages from number `first` on.
pub async fn replayed(kvd: &Kvd, first: u64) -> Vec<(u64, bytes::Bytes)> {
    let mut socket = DealerSocket::new();
    socket.connect(&kvd.addresses.replay).await.unwrap();
    let question = vec![bytes::Bytes::new(), bytes::Bytes::copy_from_slice(&first.to_be_bytes())];
    socket.send(ZmqMessage::try_from(question).unwrap()).await.unwrap();
    let mut answers = Vec::new();
    loop {
        let answer = timeout(Duration::from_secs(10), socket.recv()).await.expect("an answer").unwrap().into_vec();
        let [empty, topic, number, payload] = &answer[..] else { panic!("{answer:?}") };
        assert!(empty.is_empty());
        if number[..] == replay::END {
            assert!(topic.is_empty() && payload.is_empty());
            return answers;
        }
        assert_eq!(&topic[..], b"kvd");
        answers.push((u64::from_be_bytes(number[..].try_into().unwrap()), payload.clone()));
    }
}

/// A subscription that has begun.
pub struct Subscription(SubSocket);

impl Subscription {
    /// Returns once a first message came: from then on nothing is missed but what the line loses.
    pub async fn begin(kvd: &Kvd) -> Subscription {
        let mut socket = SubSocket::new();
        socket.connect(&kvd.addresses.events).await.unwrap();
        socket.subscribe("kvd").await.unwrap();
        let mut subscription = Subscription(socket);
        subscription.next().await;
        subscription
    }

    /// The next message: a beat at the latest.
    pub async fn next(&mut self) -> (u64, bytes::Bytes) {
        let message = timeout(Duration::from_secs(10), self.0.recv()).await.expect("a message").unwrap().into_vec();
        assert_eq!(&message[0][..], b"kvd");
        (u64::from_be_bytes(message[1][..].try_into().unwrap()), message[2].clone())
    }
}
