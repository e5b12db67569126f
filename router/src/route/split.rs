//! Whether the prefill of a request goes to another worker than its decode, and to which.
//!
//! The decode worker is chosen as for a whole request. Its own prefill is then compared with the best of the others: what they
//! need until the first token, plus the time that the blocks take to the decode worker. A prefill at home also stops the
//! answers being generated there, which is charged to it.

use super::price::Terms;
use super::request::{Candidate, Role, RouteRequest, WorkerProfile};
use super::router::{Choice, Refusal, Router};
use crate::settings::section::section;
use kvd_block::LocalHash;
use serde::{Deserialize, Serialize};

section! {
    #[derive(Copy)]
    /// Whether a prompt is computed by another worker than the one that decodes it: only with workers of `role = "prefill"`.
    SplitSettings in "route.split" {
        /// A prompt with fewer tokens to compute is computed where it is decoded.
        least_uncached_tokens: u32 = 1_024, "1024";
        /// So is one of which more than this part is there.
        most_hit_rate: f64 = 0.9, "0.9";
        /// Going elsewhere must save so many milliseconds.
        least_gain_ms: f64 = 10.0, "10.0";
        /// What a millisecond during which other answers stand still is charged with, in milliseconds.
        stall_weight: f64 = 0.5, "0.5";
        /// GB per second between workers of one node.
        node_gb_per_s: f64 = 50.0, "50.0";
        /// Between nodes of one rack.
        rack_gb_per_s: f64 = 25.0, "25.0";
        /// Between racks.
        far_gb_per_s: f64 = 12.0, "12.0";
    }
}

impl SplitSettings {
    /// Milliseconds that `bytes` take between two workers.
    fn transfer_ms(&self, from: &WorkerProfile, to: &WorkerProfile, bytes: u64) -> f64 {
        let same = |a: &str, b: &str| !a.is_empty() && a == b;
        let gb_per_s = match () {
            () if same(&from.node, &to.node) => self.node_gb_per_s,
            () if same(&from.rack, &to.rack) => self.rack_gb_per_s,
            () => self.far_gb_per_s,
        };
        bytes as f64 / (gb_per_s.max(1e-3) * 1e6)
    }
}

/// Why the prefill goes where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitReason {
    /// Nobody else prefills.
    NoPrefillWorker,
    /// Too little to compute.
    Short,
    /// Most of it is there.
    HighHitRate,
    /// The decode worker has its first token sooner, or not late enough.
    HomeIsQuicker,
    /// Another worker has it sooner, transfer included.
    ElsewhereIsQuicker,
}

/// Where both parts of a request go.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// Who decodes, and prefills unless `prefill` says otherwise.
    pub decode: Choice,
    /// Who prefills, when that is another.
    pub prefill: Option<Choice>,
    /// Why.
    pub reason: SplitReason,
    /// Until the first token at home, answers that stand still included, in milliseconds.
    pub home_ms: f64,
    /// Until the first token elsewhere, transfer included; none when nobody was asked.
    pub elsewhere_ms: Option<f64>,
    /// Of it, the transfer.
    pub transfer_ms: f64,
}

impl Router {
    /// Chooses who decodes and who prefills. Reserves nothing: reserve the prefill at `prefill`, if any, and the decode at `decode`.
    ///
    /// # Errors
    /// When nobody can decode.
    pub fn select_split(
        &mut self,
        now_ms: f64,
        request: &RouteRequest,
        blocks: &[LocalHash],
        candidates: &[Candidate],
    ) -> Result<Split, Refusal> {
        let settings = self.settings.split;
        let decode = self.select_part(now_ms, request, blocks, candidates, Role::Decode)?;
        let stands_still = if self.loads.of(decode.worker).decoding > 0 { settings.stall_weight } else { 0.0 };
        let home_ms = decode.terms.expected_ms() + stands_still * decode.terms.prefill_ms;
        let at_home = |reason, elsewhere_ms, transfer_ms| Ok(Split { decode, prefill: None, reason, home_ms, elsewhere_ms, transfer_ms });
        let hit_rate = 1.0 - f64::from(decode.terms.uncached_tokens) / f64::from(request.prompt_tokens.max(1));
        if decode.terms.uncached_tokens < settings.least_uncached_tokens {
            return at_home(SplitReason::Short, None, 0.0);
        }
        if hit_rate > settings.most_hit_rate {
            return at_home(SplitReason::HighHitRate, None, 0.0);
        }
        let Some((prefill, transfer_ms)) = self.quickest_elsewhere(now_ms, request, candidates, &decode) else {
            return at_home(SplitReason::NoPrefillWorker, None, 0.0);
        };
        let elsewhere_ms = prefill.terms.expected_ms() + transfer_ms;
        if home_ms - elsewhere_ms < settings.least_gain_ms {
            return at_home(SplitReason::HomeIsQuicker, Some(elsewhere_ms), transfer_ms);
        }
        let reason = SplitReason::ElsewhereIsQuicker;
        Ok(Split { decode, prefill: Some(prefill), reason, home_ms, elsewhere_ms: Some(elsewhere_ms), transfer_ms })
    }

    /// The other worker that has the first token soonest, and what the transfer takes of that.
    fn quickest_elsewhere(&self, now_ms: f64, request: &RouteRequest, candidates: &[Candidate], decode: &Choice) -> Option<(Choice, f64)> {
        let home = &self.worker(decode.worker)?.profile;
        let block_tokens = request.block_tokens.max(1);
        let missing = (request.prompt_tokens / block_tokens).saturating_sub(decode.terms.used_blocks);
        let priced = candidates.iter().filter(|candidate| candidate.worker != decode.worker).filter_map(|candidate| {
            let trail = self.trails.get(candidate.worker.0 as usize).copied().unwrap_or_default();
            let priced = self.price_one(now_ms, request, candidate, trail, Role::Prefill, None);
            let from = &self.worker(candidate.worker)?.profile;
            let transfer_ms = self.settings.split.transfer_ms(from, home, u64::from(missing) * home.block_bytes);
            priced.excluded.is_none().then_some((priced, transfer_ms))
        });
        let until = |terms: &Terms, transfer_ms: f64| terms.expected_ms() + transfer_ms;
        let (best, transfer_ms) = priced
            .min_by(|(a, a_ms), (b, b_ms)| until(&a.terms, *a_ms).total_cmp(&until(&b.terms, *b_ms)).then(a.worker.cmp(&b.worker)))?;
        let choice =
            Choice { request: request.id, worker: best.worker, terms: best.terms, evidence: best.evidence, fallback: decode.fallback };
        Some((choice, transfer_ms))
    }
}
