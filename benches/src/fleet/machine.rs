//! How fast engines, links and drives are: the timing model and where its constants come from.
//!
//! | constant | source |
//! |---|---|
//! | 989 TFLOP/s dense bf16 of an H100 SXM | NVIDIA's data sheet |
//! | 41 % of it in use while computing prompts | Llama 3 (arXiv 2407.21783, table 4): 38 to 43 % measured on 8k to 16k H100s |
//! | FLOPs of a token: 2 · parameters; of a pair: 4 · layers · width | arithmetic of the transformer, parameters and shapes from `config.json` |
//! | KV of a token: 2 · layers · KV heads · head width · 2 bytes | the same: 128 KiB for 8B, 320 KiB for 70B |
//! | 50 GB/s from host memory to one H100 | vLLM's measurements of its offloading connector (blog.vllm.ai, January 2026) |
//! | 7 GB/s a drive, two drives a node | data sheets of PCIe 4 x4 NVMe drives |
//! | 70B decode: 17 ms a step, 0.17 ms more for each further request | Oracle's benchmark of Llama 3.3 70B: 58.6 tokens/s alone, 35.7 with 64 |
//! | 8B decode: 7 ms, 0.07 ms more | the 70B figures by size of the weights that a GPU reads |

use kvd_router::route::Work;

const H100_FLOPS: f64 = 989e12;
const UTILISATION: f64 = 0.41;
/// Times vary by so much either way.
const NOISE: f64 = 0.05;

/// One kind of worker and the node it runs in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// What tables call it.
    pub name: &'static str,
    /// Workers of one node.
    pub workers_per_node: usize,
    /// Bytes of KV of a token, over all ranks.
    pub token_bytes: u64,
    /// Bytes of KV that the devices of a worker hold.
    pub device_bytes: u64,
    /// Bytes of kvd's arena on a node; 0 for engines without kvd.
    pub host_bytes: u64,
    /// Bytes of kvd's slot files on a node.
    pub disk_bytes: u64,
    /// Milliseconds any prefill takes.
    pub fixed_ms: f64,
    /// Milliseconds a token.
    pub token_ms: f64,
    /// Milliseconds a pair of a token and one it attends to.
    pub pair_ms: f64,
    /// Bytes a millisecond from the host to a worker.
    pub host_rate: f64,
    /// Bytes a millisecond from the drives of a node.
    pub disk_rate: f64,
    /// Milliseconds of a decode step.
    pub step_ms: f64,
    /// Milliseconds that a request adds to one.
    pub request_ms: f64,
    /// Tokens of a prefill step.
    pub chunk_tokens: u32,
    /// Milliseconds from a change of residency until the router's index has it.
    pub event_delay_ms: f64,
}

impl Machine {
    /// Llama-3.1-8B on one H100 each, eight to a node.
    pub fn small() -> Machine {
        Machine {
            name: "8B on one H100",
            workers_per_node: 8,
            token_bytes: 128 << 10,
            // 80 GB, of which vLLM takes 90 % and the weights 16 GB.
            device_bytes: 54_000_000_000,
            ..Machine::of(1.0, 8.03e9, 32.0, 4_096.0, 7.0, 0.07)
        }
    }

    /// Llama-3.1-70B on four H100 each, two to a node.
    pub fn large() -> Machine {
        Machine {
            name: "70B on four H100",
            workers_per_node: 2,
            token_bytes: 320 << 10,
            // 4 · 80 GB, of which vLLM takes 90 % and the weights 141 GB.
            device_bytes: 140_000_000_000,
            ..Machine::of(4.0, 70.6e9, 80.0, 8_192.0, 17.0, 0.17)
        }
    }

    fn of(gpus: f64, parameters: f64, layers: f64, width: f64, step_ms: f64, request_ms: f64) -> Machine {
        let flops_per_ms = gpus * H100_FLOPS * UTILISATION / 1e3;
        Machine {
            name: "",
            workers_per_node: 1,
            token_bytes: 0,
            device_bytes: 0,
            host_bytes: 1_000_000_000_000,
            disk_bytes: 15_000_000_000_000,
            fixed_ms: 15.0,
            token_ms: 2.0 * parameters / flops_per_ms,
            pair_ms: 4.0 * layers * width / flops_per_ms,
            host_rate: gpus * 50e6,
            disk_rate: 2.0 * 7e6,
            step_ms,
            request_ms,
            chunk_tokens: 8_192,
            event_delay_ms: 20.0,
        }
    }

    /// The same without kvd: engines with their own caches only.
    pub fn bare(self) -> Machine {
        Machine { host_bytes: 0, disk_bytes: 0, ..self }
    }

    /// How long computing `work` takes while `decoding` answers are generated, noise aside.
    pub fn prefill_ms(&self, work: Work, decoding: usize) -> f64 {
        let steps = work.tokens.div_ceil(self.chunk_tokens.into()) as f64;
        let own_ms = self.fixed_ms + self.token_ms * work.tokens as f64 + self.pair_ms * work.pairs as f64;
        own_ms + steps * self.request_ms * decoding as f64
    }

    /// How long a token of an answer takes.
    pub fn token_out_ms(&self, batch: usize) -> f64 {
        self.step_ms + self.request_ms * batch as f64
    }

    /// Around 1, the same for the same `seed`.
    pub fn noise(seed: u64) -> f64 {
        let mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let uniform = (mixed >> 11) as f64 / (1u64 << 53) as f64;
        1.0 - NOISE + 2.0 * NOISE * uniform
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_give_the_speeds_that_the_sources_imply() {
        let tokens_per_s = |machine: Machine| (1000.0 / machine.token_ms).round();
        assert!((25_000.0..26_000.0).contains(&tokens_per_s(Machine::small())), "{}", tokens_per_s(Machine::small()));
        assert!((11_000.0..12_000.0).contains(&tokens_per_s(Machine::large())), "{}", tokens_per_s(Machine::large()));
    }

    #[test]
    fn noise_is_small_and_repeatable() {
        let all: Vec<f64> = (0..1_000).map(Machine::noise).collect();
        assert!(all.iter().all(|noise| (noise - 1.0).abs() <= NOISE));
        assert!((all.iter().sum::<f64>() / 1_000.0 - 1.0).abs() < 0.01);
        assert_eq!(Machine::noise(7), Machine::noise(7));
    }
}
