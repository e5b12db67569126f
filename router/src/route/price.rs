//! What a request costs on a worker, in milliseconds, term by term. Pure.
//!
//! ```text
//! total = queue + room + decode + prefill + onboard + scarcity − affinity − labels
//! ```
//! A prefix is used as far as that is quicker than computing it: the cut lies where one medium ends and a slower one begins.

use super::learn::{Speeds, Work};
use crate::index::Reach;
use serde::{Deserialize, Serialize};

/// The terms of one candidate, in milliseconds unless named otherwise. All but `total_ms` are positive.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Terms {
    /// Until the prefills sent there before are done.
    pub queue_ms: f64,
    /// Beyond that, until answers have ended whose blocks it needs.
    pub room_ms: f64,
    /// What the requests decoding there take from this prefill.
    pub decode_ms: f64,
    /// Computing what is not there.
    pub prefill_ms: f64,
    /// Loading what is there but not on the device, as far as it does not hide behind the queue.
    pub onboard_ms: f64,
    /// What weights above 1 add to prefill and onboarding.
    pub scarcity_ms: f64,
    /// Taken off for the session's last worker.
    pub affinity_ms: f64,
    /// Taken off for preferred labels.
    pub labels_ms: f64,
    /// The sum, by which candidates are compared.
    pub total_ms: f64,
    /// Blocks of the prefix that will be used.
    pub used_blocks: u32,
    /// Of them, those to be loaded from the host, disk and elsewhere.
    pub load_blocks: [u32; 3],
    /// Tokens that have to be computed.
    pub uncached_tokens: u32,
}

impl Terms {
    /// Milliseconds that pass until the first token, without bonuses and weights.
    pub fn expected_ms(&self) -> f64 {
        self.queue_ms + self.room_ms + self.decode_ms + self.prefill_ms + self.onboard_ms
    }

    /// The worker's time that this request takes.
    pub fn work_ms(&self) -> f64 {
        self.decode_ms + self.prefill_ms
    }
}

/// What is priced, the same for all candidates.
#[derive(Debug, Clone, Copy)]
pub struct Prompt {
    /// Its tokens.
    pub tokens: u32,
    /// Tokens of a block.
    pub block_tokens: u32,
    /// Milliseconds that one of own work counts for.
    pub weight: f64,
    /// Part of the queue behind which loading hides.
    pub onboard_overlap: f64,
    /// Tokens that an engine computes in one step.
    pub chunk_tokens: u32,
}

/// The state of one candidate.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// What it has of the prompt.
    pub reach: Reach,
    /// How fast it is.
    pub speeds: &'a Speeds,
    /// Until what it has to do is done, in milliseconds.
    pub queue_ms: f64,
    /// Until there is room for the request's blocks, in milliseconds.
    pub room_ms: f64,
    /// Requests it is decoding.
    pub decoding: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Taken off for the session.
    pub affinity_ms: f64,
    /// Taken off for labels.
    pub labels_ms: f64,
}

/// What `prompt` costs there.
pub fn price(prompt: &Prompt, offer: &Offer<'_>) -> Terms {
    let mut best: Option<Terms> = None;
    let mut blocks = 0;
    for medium in 0..4 {
        // The device's part is always worth using; where a medium has nothing the cut is the one before.
        if medium > 0 && offer.reach.by_medium[medium] == 0 {
            continue;
        }
        blocks += offer.reach.by_medium[medium];
        let terms = cut(prompt, offer, blocks, medium);
        if best.is_none_or(|best| terms.total_ms < best.total_ms) {
            best = Some(terms);
        }
    }
    best.unwrap_or_default()
}

/// The price when the first `blocks` are used, which are in media up to `slowest`.
fn cut(prompt: &Prompt, offer: &Offer<'_>, blocks: u32, slowest: usize) -> Terms {
    // With sliding windows fewer blocks have to be there than the prefix is long.
    let shared: u32 = offer.reach.by_medium.iter().sum();
    let used_blocks = if blocks == shared { offer.reach.blocks } else { blocks.min(offer.reach.blocks) };
    // An engine computes at least the last token, whatever it has.
    let used_tokens = u64::from(used_blocks).saturating_mul(prompt.block_tokens.into());
    let used_tokens = used_tokens.min(u64::from(prompt.tokens).saturating_sub(1));
    let work = Work::of(prompt.tokens.into(), used_tokens);
    let mut terms = Terms {
        queue_ms: offer.queue_ms,
        room_ms: (offer.room_ms - offer.queue_ms).max(0.0),
        prefill_ms: offer.speeds.prefill_ms(1, work),
        affinity_ms: offer.affinity_ms,
        labels_ms: offer.labels_ms,
        used_blocks,
        uncached_tokens: work.tokens.try_into().unwrap_or(u32::MAX),
        ..Terms::default()
    };
    let mut load_ms = 0.0;
    for medium in 1..=slowest {
        terms.load_blocks[medium - 1] = offer.reach.by_medium[medium];
        load_ms += offer.speeds.onboard_ms(medium, u64::from(offer.reach.by_medium[medium]).saturating_mul(offer.block_bytes));
    }
    terms.onboard_ms = (load_ms - prompt.onboard_overlap * offer.queue_ms).max(0.0);
    terms.decode_ms = interference_ms(offer.speeds, work.tokens, prompt.chunk_tokens, offer.decoding);
    terms.scarcity_ms = (prompt.weight - 1.0) * (terms.work_ms() + terms.onboard_ms);
    terms.total_ms = terms.expected_ms() + terms.scarcity_ms - terms.affinity_ms - terms.labels_ms;
    terms
}

/// What decodes in progress add to computing `tokens`: each step of a prefill carries a token of every one of them.
pub fn interference_ms(speeds: &Speeds, tokens: u64, chunk_tokens: u32, decoding: u64) -> f64 {
    tokens.div_ceil(chunk_tokens.max(1).into()) as f64 * speeds.decode_share_ms(decoding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::learn::StartSpeeds;
    use proptest::prelude::*;

    fn prompt(tokens: u32) -> Prompt {
        Prompt { tokens, block_tokens: 16, weight: 1.0, onboard_overlap: 1.0, chunk_tokens: 8_192 }
    }

    fn reach(by_medium: [u32; 4]) -> Reach {
        Reach { blocks: by_medium.iter().sum(), by_medium }
    }

    fn offer(speeds: &Speeds, reach: Reach) -> Offer<'_> {
        Offer { reach, speeds, queue_ms: 0.0, room_ms: 0.0, decoding: 0, block_bytes: 2 << 20, affinity_ms: 0.0, labels_ms: 0.0 }
    }

    fn speeds() -> Speeds {
        Speeds::new(&StartSpeeds::default())
    }

    #[test]
    fn a_prefix_on_the_device_is_not_computed() {
        let speeds = speeds();
        let cold = price(&prompt(1_600), &offer(&speeds, reach([0; 4])));
        let warm = price(&prompt(1_600), &offer(&speeds, reach([50, 0, 0, 0])));
        assert_eq!((cold.uncached_tokens, warm.uncached_tokens), (1_600, 800));
        assert!(warm.total_ms < cold.total_ms && warm.onboard_ms == 0.0);
    }

    #[test]
    fn a_prefix_that_loads_slower_than_it_computes_is_computed() {
        let slow = Speeds::new(&StartSpeeds { onboard_gb_per_s: [0.0, 50.0, 0.1, 0.1], ..StartSpeeds::default() });
        let terms = price(&prompt(1_600), &offer(&slow, reach([10, 20, 70, 0])));
        assert_eq!((terms.used_blocks, terms.load_blocks), (30, [20, 0, 0]));
    }

    #[test]
    fn loading_hides_behind_the_queue() {
        let speeds = speeds();
        let busy = Offer { queue_ms: 1_000.0, ..offer(&speeds, reach([0, 90, 0, 0])) };
        assert_eq!(price(&prompt(1_600), &busy).onboard_ms, 0.0);
        assert!(price(&Prompt { onboard_overlap: 0.0, ..prompt(1_600) }, &busy).onboard_ms > 3.0);
    }

    #[test]
    fn a_prompt_that_is_all_there_still_computes_its_last_token() {
        let speeds = speeds();
        assert_eq!(price(&prompt(1_600), &offer(&speeds, reach([100, 0, 0, 0]))).uncached_tokens, 1);
    }

    #[test]
    fn decodes_in_progress_cost_a_step_a_chunk() {
        let speeds = speeds();
        let busy = Offer { decoding: 100, ..offer(&speeds, reach([0; 4])) };
        assert!((price(&prompt(16_000), &busy).decode_ms - 2.0 * 100.0 * 0.05).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn more_reuse_never_makes_a_worker_costlier(
            rest in 1u32..50_000, counts in proptest::array::uniform4(0u32..3_000), grown in 0usize..4, by in 0u32..500, queue in 0f64..5_000.0,
        ) {
            let speeds = speeds();
            let tokens = (counts.iter().sum::<u32>() + by) * 16 + rest;
            let at = |by_medium| price(&prompt(tokens), &Offer { queue_ms: queue, ..offer(&speeds, reach(by_medium)) });
            let before = at(counts);
            let mut after = counts;
            after[grown] += by;
            let after = at(after);
            prop_assert!(after.total_ms <= before.total_ms + 1e-6, "{before:?} {after:?}");
        }

        #[test]
        fn the_terms_add_up(tokens in 1u32..200_000, counts in proptest::array::uniform4(0u32..3_000), weight in 0f64..5.0) {
            let speeds = speeds();
            let offer = Offer { affinity_ms: 3.0, labels_ms: 2.0, queue_ms: 7.0, room_ms: 9.0, ..offer(&speeds, reach(counts)) };
            let terms = price(&Prompt { weight, ..prompt(tokens) }, &offer);
            let sum = terms.queue_ms + terms.room_ms + terms.decode_ms + terms.prefill_ms + terms.onboard_ms + terms.scarcity_ms - 5.0;
            prop_assert!((terms.total_ms - sum).abs() < 1e-6 && terms.total_ms.is_finite());
        }
    }
}
