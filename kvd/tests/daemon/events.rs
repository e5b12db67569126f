//! The event stream tells exactly what is resident, and whoever loses some of it finds out.

use super::follower::{Follower, Subscription, Took, replayed};
use super::support::{Engine, Home, Kvd, eventually, hashes, runtime, sequence};
use kvd_proto::wire::kv_event::{self, KvEvent};
use std::time::Duration;

/// Stores pieces of 100 blocks, and waits until each is on storage too.
fn store_and_write(home: &Home, kvd: &Kvd, pieces: u32) -> Engine {
    let mut engine = Engine::connect(&home.socket(), "e");
    for piece in 0..pieces {
        let before = kvd.counter("written");
        engine.store(&sequence(1 + piece * 10_000, 100));
        eventually("a piece is written", || (kvd.counter("written") >= before + 100).then_some(()));
    }
    engine
}

/// Stores more than the arena and the slot file hold, so that blocks come and go in both tiers.
fn churn(home: &Home, kvd: &Kvd) {
    store_and_write(home, kvd, 50);
    assert!(kvd.counter("evicted_cpu") > 0 && kvd.counter("evicted_nvme") > 0);
}

/// Holds a view to a snapshot, once nothing happens any more.
fn compare(kvd: &Kvd, follower: &mut Follower) {
    let mut before = None;
    eventually("nothing changes", || {
        std::thread::sleep(Duration::from_millis(100));
        let status = kvd.status();
        let is_quiet = status.open_transfers == 0 && before == status.digest;
        before = status.digest;
        is_quiet.then_some(())
    });
    runtime().block_on(async {
        follower.catch_up(kvd).await;
        let mut other = Follower::default();
        other.snapshot(kvd).await;
        other.catch_up(kvd).await;
        // Thousands of blocks: not to be printed.
        assert!(!other.resident.is_empty() && follower.resident == other.resident);
    });
}

#[test]
fn a_cold_start_from_the_first_message_ends_in_the_snapshot() {
    let home = Home::new();
    let kvd = home.start(&[]);
    churn(&home, &kvd);
    let mut follower = Follower::default();
    compare(&kvd, &mut follower);
    assert_eq!(follower.snapshots, 0);
}

#[test]
fn a_gap_is_mended_by_a_replay() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let mut engine = Engine::connect(&home.socket(), "e");
    let mut follower = Follower::default();
    runtime().block_on(async {
        let mut subscription = Subscription::begin(&kvd).await;
        follower.catch_up(&kvd).await;
        let (mut gaps, mut heard) = (0, 0);
        for first in 0..20u32 {
            engine.store(&sequence(1 + first * 10_000, 100));
            let (number, payload) = subscription.next().await;
            heard += 1;
            // The line loses every third message.
            if heard % 3 > 0 && follower.take(number, &payload) == Took::Gap {
                assert!(follower.replay(&kvd).await);
                gaps += 1;
            }
        }
        assert!(gaps > 0);
    });
    compare(&kvd, &mut follower);
    assert_eq!(follower.snapshots, 0);
}

#[test]
fn what_is_not_kept_any_more_takes_a_snapshot() {
    let home = Home::new();
    home.write_config("events.buffer = 3");
    let kvd = home.start(&[]);
    churn(&home, &kvd);
    let mut follower = Follower::default();
    assert!(!runtime().block_on(follower.replay(&kvd)), "the first message is gone");
    compare(&kvd, &mut follower);
    assert!(follower.snapshots > 0);
}

#[test]
fn a_snapshot_read_while_blocks_come_and_go_is_exact_with_the_events_since() {
    let home = Home::new();
    home.write_config("");
    let text = std::fs::read_to_string(home.config()).unwrap();
    std::fs::write(home.config(), text.replace("nvme.bytes = \"64MiB\"", "nvme.bytes = \"256MiB\"")).unwrap();
    let kvd = home.start(&[]);
    let mut engine = store_and_write(&home, &kvd, 60);
    let busy = std::thread::spawn(move || {
        for piece in 60..260 {
            engine.store(&sequence(1 + piece * 10_000, 100));
        }
    });
    let mut follower = Follower::default();
    runtime().block_on(async {
        while !busy.is_finished() {
            assert!(follower.snapshot(&kvd).await > 1, "several parts");
            follower.catch_up(&kvd).await;
        }
    });
    busy.join().unwrap();
    compare(&kvd, &mut follower);
}

#[test]
fn whoever_lost_the_last_message_finds_out_while_nothing_happens() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let runtime = runtime();
    let mut subscription = runtime.block_on(Subscription::begin(&kvd));
    store_and_write(&home, &kvd, 1);
    runtime.block_on(async {
        let mut follower = Follower::default();
        follower.catch_up(&kvd).await;
        let expected = follower.next;
        let beat = loop {
            let (number, payload) = subscription.next().await;
            if number >= expected {
                break (number, payload);
            }
        };
        let events = kv_event::decode(&beat.1).unwrap().1;
        assert!(matches!(&events[..], [KvEvent::BlockRemoved(nothing)] if nothing.block_hashes.is_empty()));
        let mut deaf = Follower { life: follower.life, next: expected - 1, ..Follower::default() };
        assert_eq!(deaf.take(beat.0, &beat.1), Took::Gap);
        assert_eq!(follower.take(beat.0, &beat.1), Took::Applied);
    });
}

#[test]
fn nothing_is_replayed_from_the_future() {
    let home = Home::new();
    let kvd = home.start(&[]);
    runtime().block_on(async {
        Follower::default().catch_up(&kvd).await;
        assert!(replayed(&kvd, u64::MAX).await.is_empty());
        assert_eq!(replayed(&kvd, 0).await[0].0, 0, "and the daemon goes on");
    });
}

#[test]
fn an_asker_that_does_not_read_delays_no_message_and_no_other_asker() {
    use std::io::Write;
    let home = Home::new();
    let kvd = home.start(&[]);
    churn(&home, &kvd);
    let address = kvd.addresses.replay.strip_prefix("tcp://").unwrap();
    let mut stuck = std::net::TcpStream::connect(address).unwrap();
    stuck.write_all(b"\xff\0\0\0\0\0\0\0\x01\x7fnonsense").unwrap();
    runtime().block_on(async {
        let mut follower = Follower::default();
        follower.catch_up(&kvd).await;
        let mut subscription = Subscription::begin(&kvd).await;
        subscription.next().await;
    });
}

#[test]
fn a_subscriber_hears_blocks_with_their_tokens() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let runtime = runtime();
    let mut subscription = runtime.block_on(Subscription::begin(&kvd));
    let blocks = sequence(1, 5);
    Engine::connect(&home.socket(), "e").store(&blocks);
    let heard = runtime.block_on(async {
        let mut heard = Vec::new();
        while heard.len() < 2 {
            let events = kv_event::decode(&subscription.next().await.1).unwrap().1;
            heard.extend(events.into_iter().filter_map(|event| if let KvEvent::BlockStored(run) = event { Some(run) } else { None }));
        }
        heard
    });
    assert_eq!(heard[0].block_hashes, hashes(&blocks));
    assert_eq!(heard[0].token_ids, (1..21).collect::<Vec<u32>>());
    assert_eq!((heard[0].medium.as_str(), heard[0].block_size, heard[0].kvd_position), ("CPU", 4, 0));
    assert_eq!(heard[0].kvd_local, blocks.iter().map(|block| block.local.0).collect::<Vec<_>>());
    assert_eq!((heard[1].medium.as_str(), heard[1].token_ids.first()), ("STORAGE", Some(&1)), "tokens come from the header");
}

#[test]
fn a_restart_begins_with_a_clear_and_what_was_recovered() {
    let home = Home::new();
    let kvd = home.start(&[]);
    Engine::connect(&home.socket(), "e").store(&sequence(1, 40));
    kvd.stop();
    let kvd = home.start(&[]);
    let life = kvd.status().incarnation;
    let mut follower = Follower::default();
    compare(&kvd, &mut follower);
    assert!(matches!(follower.events[0], KvEvent::AllBlocksCleared { kvd_incarnation, .. } if kvd_incarnation == Some(life)));
    assert_eq!(follower.resident.len(), 40);
}

#[test]
fn a_subscriber_of_a_killed_daemon_follows_the_next_one_from_its_beginning() {
    let home = Home::new();
    let kvd = home.start(&[]);
    let mut engine = Engine::connect(&home.socket(), "e");
    engine.store(&sequence(1, 40));
    eventually("it is written", || (kvd.counter("written") == 40).then_some(()));
    let mut follower = Follower::default();
    runtime().block_on(follower.catch_up(&kvd));
    let (life, before) = (follower.life, follower.resident.clone());
    kvd.kill();
    let kvd = home.start(&[]);
    runtime().block_on(async {
        // It never hears the first messages of the new life: they were sent before it came back.
        let mut subscription = Subscription::begin(&kvd).await;
        loop {
            let (number, payload) = subscription.next().await;
            match follower.take(number, &payload) {
                Took::Gap => assert!(follower.replay(&kvd).await),
                Took::Applied | Took::Seen => break,
            }
        }
        assert!(follower.life > life);
    });
    compare(&kvd, &mut follower);
    assert!(follower.resident.len() < before.len(), "memory is gone, storage came back");
}
