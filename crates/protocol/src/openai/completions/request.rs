//! The request.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::prompt::PromptText;
use crate::{
    ApiError,
    inference::{InferenceRequest, Prompt, ResponseFormat},
    openai::options::{Options, Stop, StreamOptions, Streaming, validate},
};

/// Tokens of an answer when the request does not say: OpenAI's own default for this API.
pub const MAX_TOKENS_DEFAULT: u32 = 16;
/// Most alternatives a token (OpenAI's own limit for this API).
pub const LOGPROBS_MAX: u8 = 5;

/// The body of `POST /v1/completions`. Fields that change nothing here (`user`, …) are ignored like unknown ones.
#[derive(Deserialize)]
pub struct Request {
    model: String,
    prompt: PromptText,
    max_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    seed: Option<i64>,
    repeat_penalty: Option<f32>,
    repetition_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    stop: Option<Stop>,
    logprobs: Option<u8>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<u32>,
    best_of: Option<u32>,
    echo: Option<bool>,
    suffix: Option<String>,
}

impl Request {
    /// How to stream, if at all.
    #[must_use]
    pub fn streaming(&self) -> Option<Streaming> {
        Streaming::of(self.stream, self.stream_options)
    }

    /// The request in the node's own vocabulary, every range checked.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with the field's name, `EMPTY_PROMPT`.
    pub fn into_inference(self) -> Result<InferenceRequest, ApiError> {
        self.refuse_unsupported()?;
        let spellings = [("repeat_penalty", self.repetition_penalty.map(|_| "repetition_penalty"))];
        let request = InferenceRequest {
            model: self.model,
            prompt: Prompt::Text(self.prompt.0),
            max_tokens: Some(self.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT)),
            sampling: Options {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                min_p: self.min_p,
                seed: self.seed,
                repeat_penalty: self.repeat_penalty,
                repetition_penalty: self.repetition_penalty,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: self.presence_penalty,
                logit_bias: self.logit_bias,
            }
            .into_sampling()?,
            stop: self.stop.unwrap_or_default().0,
            response_format: ResponseFormat::Text,
            logprobs: self.logprobs,
        };
        validate(&request, &spellings)?;
        Ok(request)
    }

    /// What would change the answer, and that this node cannot do, must not be ignored.
    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let refuse = |param: &str, message: &str| Err(ApiError::invalid(param, message));
        for (param, count) in [("n", self.n), ("best_of", self.best_of)] {
            if count.is_some_and(|count| count != 1) {
                return refuse(param, &format!("{param} must be 1: this node gives one choice a request."));
            }
        }
        if self.echo == Some(true) {
            return refuse("echo", "echo is not supported: put the prompt before the answer yourself.");
        }
        if self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return refuse("suffix", "suffix is not supported: this node continues text and does not fill it in.");
        }
        if self.logprobs.is_some_and(|top| top > LOGPROBS_MAX) {
            return refuse("logprobs", &format!("logprobs must be at most {LOGPROBS_MAX}."));
        }
        Ok(())
    }
}
