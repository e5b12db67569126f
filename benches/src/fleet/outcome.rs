//! What a run showed.

use crate::percentile;

/// Mean and percentiles of a series, in its unit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Percentiles {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// One in a hundred is above.
    pub p99: f64,
}

impl Percentiles {
    /// Of `values`.
    pub fn of(values: &[f64]) -> Percentiles {
        if values.is_empty() {
            return Percentiles::default();
        }
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Percentiles { mean, p50: percentile(values, 0.5), p99: percentile(values, 0.99) }
    }
}

/// What a run showed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// Time to the first token of each request, in milliseconds, by request.
    pub ttft_ms: Vec<f64>,
    /// Prompt tokens found on the device, in the host and on disk.
    pub found_tokens: [u64; 3],
    /// Prompt tokens in all.
    pub prompt_tokens: u64,
    /// Milliseconds that each worker computed prompts.
    pub busy_ms: Vec<f64>,
    /// From the first arrival to the last, in milliseconds.
    pub span_ms: f64,
    /// Requests that no worker took.
    pub refused: u64,
    /// Decisions without a usable index.
    pub fallbacks: u64,
}

impl Outcome {
    /// Times to the first token.
    pub fn ttft(&self) -> Percentiles {
        Percentiles::of(&self.ttft_ms)
    }

    /// Share of the prompts' tokens that was not computed.
    pub fn reuse(&self) -> f64 {
        self.found_tokens.iter().sum::<u64>() as f64 / self.prompt_tokens.max(1) as f64
    }

    /// Share found on the device, in the host and on disk.
    pub fn reuse_by_tier(&self) -> [f64; 3] {
        self.found_tokens.map(|tokens| tokens as f64 / self.prompt_tokens.max(1) as f64)
    }

    /// Work of the busiest worker beside that of the average.
    pub fn imbalance(&self) -> f64 {
        let mean = self.busy_ms.iter().sum::<f64>() / self.busy_ms.len().max(1) as f64;
        self.busy_ms.iter().copied().fold(0.0, f64::max) / mean.max(f64::MIN_POSITIVE)
    }

    /// Share of the time in which an average worker computed prompts.
    pub fn utilisation(&self) -> f64 {
        self.busy_ms.iter().sum::<f64>() / (self.busy_ms.len().max(1) as f64 * self.span_ms.max(1.0))
    }
}
