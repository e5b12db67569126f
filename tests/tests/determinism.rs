//! A seed is a whole run.

use kvd_tests::sim;

fn story(seed: u64) -> (sim::Outcome, Vec<String>) {
    let mut lines = Vec::new();
    let outcome = sim::run_watched(seed, &mut |at, line| lines.push(format!("{at} {line:?}")));
    (outcome, lines)
}

#[test]
fn a_seed_gives_the_same_inputs_and_actions_twice() {
    for seed in [1, 5, 403] {
        let (first, second) = (story(seed), story(seed));
        assert_eq!(first.0, second.0);
        assert!(first.1 == second.1, "seed {seed} tells two stories");
        assert!(first.1.len() > 500);
    }
}
