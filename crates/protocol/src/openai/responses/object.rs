//! The response object and what it is made of.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{TextConfig, Truncation};
use crate::inference::{TokenLogprob, Usage};

/// A response. Fields that the SDKs declare as required are always there; those without a value are `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Response {
    /// `resp_<hex>`.
    pub id: String,
    /// Always `response`.
    pub object: &'static str,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds, once completed.
    pub completed_at: Option<u64>,
    /// Where it stands.
    pub status: Status,
    /// Always false: nothing is answered in the background.
    pub background: bool,
    /// Why it failed.
    pub error: Option<ResponseError>,
    /// Why it is incomplete.
    pub incomplete_details: Option<IncompleteDetails>,
    /// As requested.
    pub instructions: Option<String>,
    /// As requested.
    pub max_output_tokens: Option<u32>,
    /// As requested.
    pub metadata: BTreeMap<String, String>,
    /// The served model's name.
    pub model: String,
    /// Items so far.
    pub output: Vec<OutputItem>,
    /// As requested, true when not.
    pub parallel_tool_calls: bool,
    /// As requested.
    pub previous_response_id: Option<String>,
    /// As requested.
    pub reasoning: Value,
    /// Whether it can be continued later.
    pub store: bool,
    /// In force.
    pub temperature: f32,
    /// In force.
    pub text: TextConfig,
    /// As requested, `auto` when not.
    pub tool_choice: Value,
    /// Always empty: tools are not served.
    pub tools: [(); 0],
    /// In force.
    pub top_logprobs: u8,
    /// In force.
    pub top_p: f32,
    /// In force.
    pub truncation: Truncation,
    /// What was counted, once over.
    pub usage: Option<ResponseUsage>,
    /// As requested.
    pub user: Option<String>,
}

/// Where a response stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Being generated.
    InProgress,
    /// The model ended its turn.
    Completed,
    /// A limit ended it.
    Incomplete,
    /// The client or the operator ended it.
    Cancelled,
    /// An error ended it.
    Failed,
}

/// Where an output item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemStatus {
    /// Being generated.
    InProgress,
    /// Whole.
    Completed,
    /// Ended early.
    Incomplete,
}

/// Why a response failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResponseError {
    /// One of the API's closed set: `server_error`, `rate_limit_exceeded`, `invalid_prompt`.
    pub code: &'static str,
    /// What happened and what to do.
    pub message: String,
}

/// Why a response is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IncompleteDetails {
    /// `max_output_tokens`.
    pub reason: &'static str,
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ResponseUsage {
    /// Tokens of the rendered conversation.
    pub input_tokens: u32,
    /// Of those.
    pub input_tokens_details: InputTokensDetails,
    /// Tokens generated.
    pub output_tokens: u32,
    /// Of those.
    pub output_tokens_details: OutputTokensDetails,
    /// Both.
    pub total_tokens: u32,
}

/// Of the input tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InputTokensDetails {
    /// Those that the prefix cache already held.
    pub cached_tokens: u32,
    /// Those written to a cache that is paid for. The node sells none, so none are; the SDKs require the field.
    pub cache_write_tokens: u32,
}

/// Of the output tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OutputTokensDetails {
    /// Those of the reasoning items.
    pub reasoning_tokens: u32,
}

impl From<Usage> for ResponseUsage {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails { cached_tokens: usage.cached_tokens, cache_write_tokens: 0 },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: usage.reasoning_tokens },
            total_tokens: usage.total_tokens(),
        }
    }
}

/// One item of the output.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// What the model thought.
    Reasoning {
        /// `rs_<hex>`.
        id: String,
        /// Where it stands.
        status: ItemStatus,
        /// Always empty: the text itself is given.
        summary: [(); 0],
        /// The text.
        content: Vec<Part>,
    },
    /// What the model answers.
    Message {
        /// `msg_<hex>`.
        id: String,
        /// Where it stands.
        status: ItemStatus,
        /// Always `assistant`.
        role: &'static str,
        /// The text.
        content: Vec<Part>,
    },
}

impl OutputItem {
    /// The item's id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Reasoning { id, .. } | Self::Message { id, .. } => id,
        }
    }
}

/// A part of an item.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Answer text.
    OutputText {
        /// The text.
        text: String,
        /// Always empty: nothing is cited.
        annotations: [(); 0],
        /// One entry a token, where asked for.
        logprobs: Vec<Logprob>,
    },
    /// Reasoning text.
    ReasoningText {
        /// The text.
        text: String,
    },
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Logprob {
    /// Its text; bytes that are no text by themselves are replaced.
    pub token: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The alternatives, best first.
    pub top_logprobs: Vec<TopLogprob>,
}

/// An alternative.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopLogprob {
    /// Its text; bytes that are no text by themselves are replaced.
    pub token: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

impl From<&TokenLogprob> for Logprob {
    fn from(token: &TokenLogprob) -> Self {
        let top = |(bytes, logprob): &(Vec<u8>, f32)| TopLogprob {
            token: String::from_utf8_lossy(bytes).into_owned(),
            bytes: bytes.clone(),
            logprob: *logprob,
        };
        Self {
            token: String::from_utf8_lossy(&token.bytes).into_owned(),
            bytes: token.bytes.clone(),
            logprob: token.logprob,
            top_logprobs: token.top.iter().map(top).collect(),
        }
    }
}

/// The answer to `DELETE /v1/responses/{id}`.
#[derive(Debug, Clone, Serialize)]
pub struct Deleted {
    /// The response's id.
    pub id: String,
    /// Always `response`.
    pub object: &'static str,
    /// Always true.
    pub deleted: bool,
}
