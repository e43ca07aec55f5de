//! OpenAI's wire types: what a request may say, and the bodies and stream events that answer it.
//!
//! Requests are read leniently where that is harmless (unknown fields, `null` for "not given") and strictly where
//! silence would mislead (tools, images, several choices): those are refused with the field's name. Shapes follow
//! OpenAI's published API description, with the extensions that vLLM and llama-server share.

pub mod chat;
pub mod completions;
pub mod models;
pub(crate) mod options;
pub mod responses;

pub use options::Streaming;
use serde::Serialize;

use crate::inference::Usage;

/// `usage` of Chat Completions and Completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenUsage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptTokensDetails,
    completion_tokens_details: CompletionTokensDetails,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct PromptTokensDetails {
    cached_tokens: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct CompletionTokensDetails {
    reasoning_tokens: u32,
}

impl From<Usage> for TokenUsage {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.total_tokens(),
            prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens },
            completion_tokens_details: CompletionTokensDetails { reasoning_tokens: usage.reasoning_tokens },
        }
    }
}

/// Smallest log-probability that is written: JSON has no infinity, and OpenAI writes this number for one.
const LOGPROB_MIN: f32 = -9999.0;

/// A log-probability as JSON can hold it. `clamp` alone would pass NaN on.
fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() { LOGPROB_MIN } else { logprob.clamp(LOGPROB_MIN, 0.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_always_numbers() {
        for (logprob, expected) in
            [(f32::NEG_INFINITY, -9999.0), (f32::NAN, -9999.0), (f32::INFINITY, 0.0), (-0.5, -0.5), (0.0, 0.0)]
        {
            assert_eq!(finite(logprob), expected, "{logprob}");
        }
    }
}
