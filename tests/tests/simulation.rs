//! Many whole nodes, each from a seed.

#[test]
fn five_hundred_nodes_serve_no_wrong_byte_and_lose_nothing() {
    let (mut accepted, mut crashes, mut hand_overs) = (0, 0, 0);
    for seed in 0..500 {
        let outcome = kvd_tests::sim::run(seed);
        accepted += outcome.accepted;
        crashes += outcome.crashes;
        hand_overs += outcome.hand_overs;
    }
    // A simulation in which nothing happens finds nothing.
    assert!(accepted > 10_000 && crashes > 100 && hand_overs > 100, "{accepted} {crashes} {hand_overs}");
}
