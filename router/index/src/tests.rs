//! The index against the naive one, step by step.

use super::*;
use kvd_block::LocalHash;
use kvd_block::digest::mix;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

/// What a publisher of `domain` calls the block that ends `path`.
fn name(domain: u16, path: &[LocalHash]) -> BlockName {
    BlockName(path.iter().fold(u64::from(domain), |name, local| mix(name ^ local.0.wrapping_mul(31)).wrapping_add(1)))
}

fn names(domain: u16, path: &[LocalHash], from: usize) -> Vec<BlockName> {
    (from..path.len()).map(|at| name(domain, &path[..=at])).collect()
}

/// Prompts that share prefixes: few different blocks, so paths meet again and again.
fn prompt(rng: &mut SmallRng) -> Vec<LocalHash> {
    let length = rng.random_range(1..24);
    (0..length).map(|_| LocalHash(if rng.random_ratio(5, 6) { 1 } else { rng.random_range(2..4) })).collect()
}

struct Pair {
    rng: SmallRng,
    fast: Index,
    naive: NaiveIndex,
    holders: Vec<(HolderId, u16)>,
    told: Vec<Vec<LocalHash>>,
    /// Whether names are misused.
    odd: bool,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let mut pair = Pair {
            rng: SmallRng::seed_from_u64(seed),
            fast: Index::default(),
            naive: NaiveIndex::default(),
            holders: Vec::new(),
            told: Vec::new(),
            odd: seed % 2 == 1,
        };
        // Who misuses names has a domain to itself: what others then make of them is anybody's guess.
        for domain in if pair.odd { [0, 1, 2, 3, 4] } else { [0, 0, 0, 1, 1] } {
            pair.add_holder(domain);
        }
        pair
    }

    fn add_holder(&mut self, domain: u16) {
        let salt = self.rng.next_u64();
        let id = self.fast.add_holder(NameDomain(domain), salt).unwrap();
        assert_eq!(self.naive.add_holder(NameDomain(domain), salt), Ok(id));
        self.holders.push((id, domain));
    }

    fn path(&mut self) -> Vec<LocalHash> {
        if !self.told.is_empty() && self.rng.random_bool(0.7) {
            let at = self.rng.random_range(0..self.told.len());
            let path = self.told[at].clone();
            let keep = self.rng.random_range(1..=path.len());
            return path[..keep].to_vec();
        }
        let path = prompt(&mut self.rng);
        self.told.push(path.clone());
        path
    }

    fn step(&mut self) {
        let at = self.rng.random_range(0..self.holders.len());
        let (id, domain) = self.holders[at];
        let medium = Medium::ALL[self.rng.random_range(0..3)];
        let path = self.path();
        // Misused names and unknown parents at once: which block an orphan is to follow is anybody's guess, too.
        let from = if self.odd || self.rng.random_bool(0.5) { 0 } else { self.rng.random_range(0..path.len()) };
        let called = names(domain, &path, from);
        match self.rng.random_range(0..100) {
            0..50 => {
                let parent = (from > 0).then(|| name(domain, &path[..from]));
                let stored = self.fast.store(id, medium, parent, &called, &path[from..]);
                assert_eq!(stored, self.naive.store(id, medium, parent, &called, &path[from..]));
            }
            50..52 => {
                // Names that nobody else uses, or that mean another block: what an engine with finer hashes, or a broken one, says.
                let odd = |(at, name): (u64, &BlockName)| BlockName(if self.odd { name.0 % 3 * 100 + at } else { name.0 });
                let odd: Vec<BlockName> = (0..).zip(&called).map(odd).collect();
                let parent = (from > 0).then(|| name(domain, &path[..from]));
                let stored = self.fast.store(id, medium, parent, &odd, &path[from..]);
                assert_eq!(stored, self.naive.store(id, medium, parent, &odd, &path[from..]));
            }
            52..54 if self.odd => {
                let odd: Vec<BlockName> = (0..24).map(|at| BlockName(at % 3 * 100 + at / 3)).collect();
                assert_eq!(self.fast.remove(id, medium, &odd), self.naive.remove(id, medium, &odd));
            }
            52..70 => {
                let removed = self.fast.remove(id, medium, &called);
                assert_eq!(removed, self.naive.remove(id, medium, &called));
            }
            70..90 => {
                let backwards: Vec<BlockName> = called.into_iter().rev().collect();
                assert_eq!(self.fast.remove(id, medium, &backwards), self.naive.remove(id, medium, &backwards));
            }
            90..96 => assert_eq!(self.fast.store_known(id, medium, &called), self.naive.store_known(id, medium, &called)),
            96..99 => {
                self.fast.clear(id);
                self.naive.clear(id);
            }
            _ => {
                self.fast.remove_holder(id);
                self.naive.remove_holder(id);
                self.holders.remove(at);
                self.add_holder(domain);
            }
        }
    }

    fn compare(&mut self) {
        self.fast.check();
        assert_eq!(self.fast.stats().blocks as usize, self.naive.placed_blocks());
        for (id, _) in &self.holders {
            assert_eq!(self.fast.digest(*id), self.naive.digest(*id));
        }
        let path = if self.rng.random_bool(0.5) { prompt(&mut self.rng) } else { self.path() };
        let expected = self.naive.covered(&path);
        let (mut walk, mut plain) = (Walk::default(), Walk::default());
        self.fast.find_spans(&path, &mut walk);
        self.fast.find(&path, &mut plain);
        for (id, _) in &self.holders {
            let spans = expected.get(id).cloned().unwrap_or_default();
            assert_eq!(joined(walk.covered(*id)), spans);
            let reach = WorkerShape::simple(*id).reach(|_| spans.clone());
            assert_eq!((plain.alone(*id), walk.alone(*id)), (reach, reach));
        }
        let both = WorkerShape {
            groups: vec![
                Group { holders: self.holders[..2].iter().map(|(id, _)| *id).collect(), window: None },
                Group { holders: self.holders[1..4].iter().map(|(id, _)| *id).collect(), window: Some(3) },
            ],
        };
        assert_eq!(walk.reach(&both), both.reach(|id| expected.get(&id).cloned().unwrap_or_default()));
    }
}

/// Stretches of two runs that follow one another are one.
fn joined(spans: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut all: Vec<Span> = Vec::new();
    for span in spans {
        match all.last_mut() {
            Some(last) if last.to == span.from && last.media == span.media => last.to = span.to,
            _ => all.push(span),
        }
    }
    all
}

#[test]
fn every_answer_is_the_naive_one() {
    for seed in 0..300 {
        let mut pair = Pair::new(seed);
        for step in 0..200 {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pair.step();
                pair.compare();
            }));
            assert!(outcome.is_ok(), "seed {seed}, step {step}");
        }
    }
}

#[test]
fn names_misused_in_a_shared_domain_break_nothing() {
    let mut rng = SmallRng::seed_from_u64(9);
    let mut index = Index::default();
    let holders = [(); 3].map(|()| index.add_holder(NameDomain(0), 0).unwrap());
    for _ in 0..20_000 {
        let (holder, medium) = (holders[rng.random_range(0..3)], Medium::ALL[rng.random_range(0..2)]);
        let path = prompt(&mut rng);
        let called: Vec<BlockName> = path.iter().map(|_| BlockName(rng.random_range(0..12))).collect();
        match rng.random_range(0..10) {
            0..5 => drop(index.store(holder, medium, rng.random_bool(0.5).then_some(called[0]), &called, &path)),
            5..8 => drop(index.remove(holder, medium, &called)),
            8 => drop(index.store_known(holder, medium, &called)),
            _ => index.clear(holder),
        }
        index.check();
    }
    holders.iter().for_each(|holder| index.remove_holder(*holder));
    index.check();
    assert_eq!((index.stats().runs, index.stats().blocks, index.stats().orphans), (0, 0, 0));
}

#[test]
fn a_snapshot_is_the_same_index_and_goes_on_as_it() {
    for seed in 1000..1040 {
        let mut pair = Pair::new(seed);
        (0..150).for_each(|_| pair.step());
        let mut bytes = Vec::new();
        pair.fast.write_to(&mut bytes).unwrap();
        pair.fast = Index::read_from(&mut bytes.as_slice(), IndexLimits::default()).unwrap();
        for _ in 0..100 {
            pair.compare();
            pair.step();
        }
    }
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let mut pair = Pair::new(7);
    (0..150).for_each(|_| pair.step());
    let mut bytes = Vec::new();
    pair.fast.write_to(&mut bytes).unwrap();
    for cut in 0..bytes.len() {
        assert!(Index::read_from(&mut &bytes[..cut], IndexLimits::default()).is_err(), "cut at {cut}");
        let mut flipped = bytes.clone();
        flipped[cut] ^= 1 << (cut % 8);
        assert!(Index::read_from(&mut flipped.as_slice(), IndexLimits::default()).is_err(), "flipped at {cut}");
    }
}

#[test]
fn what_all_have_left_costs_nothing() {
    let mut index = Index::default();
    let empty = index.bytes();
    let id = index.add_holder(NameDomain(0), 0).unwrap();
    let with_holder = index.bytes();
    let mut rng = SmallRng::seed_from_u64(1);
    let paths: Vec<Vec<LocalHash>> = (0..200).map(|_| (0..100).map(|_| LocalHash(rng.next_u64())).collect()).collect();
    for path in &paths {
        index.store(id, Medium::Device, None, &names(0, path, 0), path);
    }
    assert_eq!(index.stats().memberships, 20_000);
    for path in &paths {
        index.remove(id, Medium::Device, &names(0, path, 0));
    }
    assert_eq!((index.stats().blocks, index.stats().runs, index.digest(id).count), (0, 0, 0));
    assert!(index.bytes() - with_holder < 300_000 && with_holder - empty < 200_000, "{} bytes stay", index.bytes() - with_holder);
}

#[test]
fn beyond_the_memory_limit_what_was_not_asked_for_goes_first_and_is_counted() {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut index = Index::new(IndexLimits { most_bytes: 1 << 20, ..IndexLimits::default() });
    let id = index.add_holder(NameDomain(0), 0).unwrap();
    let asked: Vec<LocalHash> = (0..100).map(|_| LocalHash(rng.next_u64())).collect();
    index.store(id, Medium::Device, None, &names(0, &asked, 0), &asked);
    let mut walk = Walk::default();
    for _ in 0..2_000 {
        let path: Vec<LocalHash> = (0..50).map(|_| LocalHash(rng.next_u64())).collect();
        index.store(id, Medium::Device, None, &names(0, &path, 0), &path);
        index.find(&asked, &mut walk);
        assert_eq!(walk.alone(id).blocks, 100);
    }
    index.check();
    assert!(index.bytes() <= 1 << 20);
    assert_eq!(index.evicted(id), index.stats().evicted);
    assert_eq!(index.stats().memberships + index.evicted(id), 100_100);
}

#[test]
fn two_names_for_one_block_are_two_memberships() {
    let mut index = Index::default();
    let id = index.add_holder(NameDomain(0), 0).unwrap();
    let locals = [7, 8, 9].map(LocalHash);
    index.store(id, Medium::Device, None, &[1, 2, 3].map(BlockName), &locals);
    assert_eq!(index.store(id, Medium::Device, None, &[4, 5, 6].map(BlockName), &locals).added, 3);
    let mut walk = Walk::default();
    for (name, left) in [(3, 3), (2, 3), (1, 3), (6, 2), (5, 1), (4, 0)] {
        assert_eq!(index.remove(id, Medium::Device, &[BlockName(name)]).removed, 1);
        index.check();
        index.find(&locals, &mut walk);
        assert_eq!(walk.alone(id).blocks, left);
    }
    assert_eq!((index.digest(id), index.stats().runs), (kvd_block::digest::Digest::default(), 0));
}

#[test]
fn one_name_for_two_blocks_is_what_its_holder_says() {
    let mut index = Index::default();
    let [a, b] = [(); 2].map(|()| index.add_holder(NameDomain(0), 0).unwrap());
    let (mine, yours) = ([LocalHash(1)], [LocalHash(2)]);
    index.store(a, Medium::Device, None, &[BlockName(7)], &mine);
    index.store(b, Medium::Device, None, &[BlockName(7)], &yours);
    index.store(b, Medium::Device, Some(BlockName(7)), &[BlockName(8)], &[LocalHash(3)]);
    let mut walk = Walk::default();
    index.find(&[LocalHash(2), LocalHash(3)], &mut walk);
    assert_eq!((walk.alone(a).blocks, walk.alone(b).blocks), (0, 2));
    assert_eq!(index.remove(b, Medium::Device, &[BlockName(7)]).removed, 1);
    index.find(&mine, &mut walk);
    assert_eq!((walk.alone(a).blocks, walk.alone(b).blocks), (1, 0));
    assert_eq!(index.stats().name_conflicts, 1);
    index.check();
}

#[test]
fn orphans_are_bounded_and_the_lost_ones_counted() {
    let mut index = Index::new(IndexLimits { most_orphans: 2, ..IndexLimits::default() });
    let id = index.add_holder(NameDomain(0), 0).unwrap();
    let stored = index.store(
        id,
        Medium::Host,
        Some(BlockName(1)),
        &[BlockName(2), BlockName(3), BlockName(4)],
        &[LocalHash(2), LocalHash(3), LocalHash(4)],
    );
    assert_eq!((stored.orphaned, index.stats().lost_orphans, index.evicted(id)), (3, 1, 1));
    index.store(id, Medium::Host, None, &[BlockName(1)], &[LocalHash(1)]);
    let mut walk = Walk::default();
    index.find(&[1, 2, 3, 4].map(LocalHash), &mut walk);
    assert_eq!(walk.alone(id).blocks, 3);
}
