//! A seed is a whole run.

use kvd_tests::sim::{self, Line, Outcome};

fn story(seed: u64) -> (Outcome, Vec<String>) {
    let mut lines = Vec::new();
    let outcome = sim::run_watched(seed, &mut |at, line| lines.push(format!("{at} {line:?}")));
    (outcome, lines)
}

#[test]
fn a_seed_gives_the_same_inputs_and_actions_twice() {
    for seed in [1, 5, 77, 403, 1009, 4009] {
        let (first, second) = (story(seed), story(seed));
        let differs = first.1.iter().zip(&second.1).find(|(a, b)| a != b);
        assert!(differs.is_none(), "seed {seed} tells two stories: {differs:?}");
        assert_eq!(first.1.len(), second.1.len(), "seed {seed} ends twice");
        assert_eq!(first.0, second.0, "seed {seed} comes to two outcomes");
        assert!(first.1.len() > 500, "seed {seed} is a whole run");
    }
}

#[test]
fn another_seed_is_another_run() {
    assert_ne!(sim::run(1).digest, sim::run(2).digest);
}

#[test]
fn a_story_has_inputs_actions_and_every_life_of_the_daemon() {
    let (mut inputs, mut actions, mut lives) = (0, 0, 0);
    let outcome = sim::run_watched(5, &mut |_, line| match line {
        Line::Input(_) => inputs += 1,
        Line::Action(_) => actions += 1,
        Line::Life(..) => lives += 1,
    });
    assert_eq!(inputs, outcome.steps);
    assert_eq!(lives, outcome.crashes + outcome.hand_overs + 1);
    assert!(actions > inputs);
}
