//! Many whole nodes, each from a seed.

use kvd_tests::sim::{self, Coverage, Situation};

const SEEDS: u64 = 500;
/// A simulation in which something happens once in a while by luck finds nothing reliably.
const LEAST: u64 = 5;

#[test]
fn five_hundred_nodes_serve_no_wrong_byte_lose_nothing_and_meet_everything() {
    let mut coverage = Coverage::default();
    let (mut accepted, mut crashes, mut hand_overs) = (0, 0, 0);
    for seed in 0..SEEDS {
        let outcome = sim::run(seed);
        coverage += outcome.coverage;
        accepted += outcome.accepted;
        crashes += outcome.crashes;
        hand_overs += outcome.hand_overs;
    }
    assert!(accepted > 10_000 && crashes > 100 && hand_overs > 100, "{accepted} {crashes} {hand_overs}");
    let rare: Vec<_> = Situation::ALL.iter().filter(|situation| coverage.count(**situation) < LEAST).collect();
    assert!(rare.is_empty(), "these situations are hardly met: {rare:?}");
}
