//! Where the two indexes answer differently, and who is right: the naive index decides.
//!
//! Each scene is one thing that real event streams do. Prompts are whole sequences; an answer is the prefix of one worker.

use crate::inputs::Message;
use crate::ours::Ours;
use crate::peer::Peer;
use crate::report::{Report, Row};
use dynamo_kv_router::protocols::LocalBlockHash;
use kvd_block::LocalHash;
use kvd_index::{BlockName, HolderId, Medium, NaiveIndex, NameDomain, Walk, WorkerShape};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

const WORKERS: usize = 8;
const SEQUENCES: usize = 400;
const BLOCKS: usize = 24;

/// What happens to the stream of a sequence.
#[derive(Debug, Clone, Copy)]
enum Scene {
    /// Stored in pieces, in order.
    InOrder,
    /// A piece comes before the one it continues.
    ChildFirst,
    /// A block in the middle is evicted, and computed again.
    HoleFilled,
    /// Everything is told twice.
    Twice,
}

const SCENES: [(Scene, &str); 4] = [
    (Scene::InOrder, "in order"),
    (Scene::ChildFirst, "a child before its parent"),
    (Scene::HoleFilled, "a block evicted and stored again"),
    (Scene::Twice, "every message twice"),
];

/// Adds a row for each scene: answers that are not the naive index's, of ours and of the peer's.
pub fn count(report: &mut Report) {
    for (scene, name) in SCENES {
        let (ours, peer, answers) = wrong(scene);
        let metric = format!("wrong prefixes of {answers}: {name}");
        report.push(Row { metric, unit: String::new(), ours: ours as f64, reference: Some(peer as f64), ratio: None, runs: 1 });
    }
}

fn wrong(scene: Scene) -> (usize, usize, usize) {
    let mut rng = SmallRng::seed_from_u64(3);
    let (ours, peer, mut oracle) = (Ours::new(WORKERS), Peer::new(1, 16), NaiveIndex::default());
    let holders: Vec<HolderId> = (0..WORKERS).map(|_| oracle.add_holder(NameDomain(0), 0).expect("room")).collect();
    let sequences: Vec<(usize, Vec<LocalHash>)> =
        (0..SEQUENCES).map(|_| (rng.random_range(0..WORKERS), (0..BLOCKS).map(|_| LocalHash(rng.next_u64())).collect())).collect();
    for (worker, locals) in &sequences {
        for message in stream(scene, *worker, locals, &mut rng) {
            ours.apply(&message);
            peer.apply(vec![Peer::event(&message)]);
            match message.locals.is_empty() {
                true => drop(oracle.remove(holders[message.worker], Medium::Device, &message.names)),
                false => drop(oracle.store(holders[message.worker], Medium::Device, message.parent, &message.names, &message.locals)),
            }
        }
    }
    let mut walk = Walk::default();
    let (mut ours_wrong, mut peer_wrong) = (0, 0);
    for (worker, locals) in &sequences {
        let covered = oracle.covered(locals);
        let reach = WorkerShape::simple(holders[*worker]).reach(|holder| covered.get(&holder).cloned().unwrap_or_default());
        let expected = reach.blocks;
        let of = |scores: Vec<(usize, u32)>| scores.into_iter().find(|(found, _)| found == worker).map_or(0, |(_, blocks)| blocks);
        ours_wrong += usize::from(of(ours.scores(locals, &mut walk)) != expected);
        let asked: Vec<LocalBlockHash> = locals.iter().map(|local| LocalBlockHash(local.0)).collect();
        peer_wrong += usize::from(of(peer.scores(&asked)) != expected);
    }
    (ours_wrong, peer_wrong, SEQUENCES)
}

fn stream(scene: Scene, worker: usize, locals: &[LocalHash], rng: &mut SmallRng) -> Vec<Message> {
    let names: Vec<BlockName> = (0..locals.len()).map(|_| BlockName(rng.next_u64())).collect();
    let piece = |from: usize, to: usize| Message {
        worker,
        parent: from.checked_sub(1).map(|before| names[before]),
        names: names[from..to].to_vec(),
        locals: locals[from..to].to_vec(),
    };
    let middle = rng.random_range(1..BLOCKS - 1);
    let pieces = vec![piece(0, middle), piece(middle, BLOCKS)];
    match scene {
        Scene::InOrder => pieces,
        Scene::ChildFirst => pieces.into_iter().rev().collect(),
        Scene::HoleFilled => {
            let gone = Message { worker, parent: None, names: vec![names[middle]], locals: Vec::new() };
            pieces.into_iter().chain([gone, piece(middle, middle + 1)]).collect()
        }
        Scene::Twice => pieces.iter().flat_map(|message| [message.clone(), message.clone()]).collect(),
    }
}
