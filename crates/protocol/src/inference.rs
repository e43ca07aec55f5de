//! The inference request and its events, as every transport, backend and the worker understand them.

use serde::{Deserialize, Serialize};

use crate::{ApiError, ErrorCode};

/// Who said a message (the roles that chat templates know).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions; kept when history is trimmed. OpenAI's `developer` is read as this.
    #[serde(alias = "developer")]
    System,
    /// The client.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

/// One turn of a conversation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: String,
}

impl std::fmt::Debug for Message {
    /// Never prints the content: prompts do not reach logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Message({:?}, {} bytes)", self.role, self.content.len())
    }
}

/// What the model is to continue.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum Prompt {
    /// A conversation, rendered with the model's own chat template.
    Chat {
        /// The turns, oldest first; never empty.
        messages: Vec<Message>,
        /// When the conversation does not fit, drop the oldest turns (never a system message or the last turn)
        /// in place of failing. For transports where the node keeps the history.
        trim_oldest: bool,
    },
    /// Text that is continued as it is (`/v1/completions`).
    Text(String),
}

impl std::fmt::Debug for Prompt {
    /// Never prints the content: prompts do not reach logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Chat { messages, trim_oldest } => write!(f, "Chat({messages:?}, trim_oldest: {trim_oldest})"),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
        }
    }
}

/// How the next token is chosen. Defaults are OpenAI's where OpenAI has one, else "off".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 is greedy; up to 2.
    pub temperature: f32,
    /// Nucleus: the smallest set with this probability; 1 is off.
    pub top_p: f32,
    /// The k most likely; 0 is off.
    pub top_k: u32,
    /// Tokens at least this likely relative to the best; 0 is off.
    pub min_p: f32,
    /// Seed of the random choice; `None` lets the engine draw one.
    pub seed: Option<u64>,
    /// Multiplicative penalty on repeated tokens (llama.cpp's `repeat_penalty`); 1 is off.
    pub repeat_penalty: f32,
    /// OpenAI's `frequency_penalty`, -2 to 2; 0 is off.
    pub frequency_penalty: f32,
    /// OpenAI's `presence_penalty`, -2 to 2; 0 is off.
    pub presence_penalty: f32,
    /// Token id to bias, -100 to 100.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: None,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
        }
    }
}

/// Most entries of `logit_bias` (OpenAI's own limit).
pub const LOGIT_BIAS_MAX: usize = 300;
/// Most stop strings.
pub const STOP_STRINGS_MAX: usize = 16;
/// Longest stop string in bytes.
pub const STOP_STRING_BYTES_MAX: usize = 256;
/// Most alternatives a token (OpenAI's own limit).
pub const TOP_LOGPROBS_MAX: u8 = 20;
/// Largest JSON schema in bytes.
pub const JSON_SCHEMA_BYTES_MAX: usize = 64 * 1024;

/// The form that the answer must have, enforced by a grammar while sampling.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub enum ResponseFormat {
    /// Free text.
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that fits this schema (JSON text of the schema).
    JsonSchema(String),
}

/// A request that a backend can answer. Valid once [`InferenceRequest::validate`] passed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InferenceRequest {
    /// Model name as the client wrote it; `default` is the loaded model.
    pub model: String,
    /// What to continue.
    pub prompt: Prompt,
    /// Most tokens to generate; `None` is "as many as fit" until the pipeline clamps it.
    pub max_tokens: Option<u32>,
    /// How to choose.
    pub sampling: Sampling,
    /// Strings at which to stop; the string itself is not part of the answer.
    pub stop: Vec<String>,
    /// The form of the answer.
    pub response_format: ResponseFormat,
    /// Report log-probabilities: the chosen token's and this many alternatives.
    pub logprobs: Option<u8>,
}

impl InferenceRequest {
    /// A request with default sampling.
    #[must_use]
    pub fn new(model: impl Into<String>, prompt: Prompt) -> Self {
        Self {
            model: model.into(),
            prompt,
            max_tokens: None,
            sampling: Sampling::default(),
            stop: Vec::new(),
            response_format: ResponseFormat::Text,
            logprobs: None,
        }
    }

    /// Checks every range. One place for all transports.
    ///
    /// # Errors
    /// `EMPTY_PROMPT` or `INVALID_REQUEST` with the field's name.
    pub fn validate(&self) -> Result<(), ApiError> {
        let empty = match &self.prompt {
            Prompt::Chat { messages, .. } => {
                messages.is_empty() || messages.iter().all(|message| message.content.trim().is_empty())
            }
            Prompt::Text(text) => text.is_empty(),
        };
        if empty {
            return Err(ApiError::new(
                ErrorCode::EmptyPrompt,
                "The prompt is empty. Send at least one non-empty message.",
            ));
        }
        if self.max_tokens == Some(0) {
            return Err(ApiError::invalid("max_tokens", "max_tokens must be at least 1."));
        }
        let s = &self.sampling;
        range("temperature", s.temperature, 0.0, 2.0)?;
        range("top_p", s.top_p, 0.0, 1.0)?;
        range("min_p", s.min_p, 0.0, 1.0)?;
        range("repeat_penalty", s.repeat_penalty, 0.01, 10.0)?;
        range("frequency_penalty", s.frequency_penalty, -2.0, 2.0)?;
        range("presence_penalty", s.presence_penalty, -2.0, 2.0)?;
        if s.logit_bias.len() > LOGIT_BIAS_MAX {
            return Err(ApiError::invalid(
                "logit_bias",
                format!("logit_bias may have at most {LOGIT_BIAS_MAX} entries."),
            ));
        }
        for (_, bias) in &s.logit_bias {
            range("logit_bias", *bias, -100.0, 100.0)?;
        }
        if self.stop.len() > STOP_STRINGS_MAX {
            return Err(ApiError::invalid("stop", format!("stop may have at most {STOP_STRINGS_MAX} strings.")));
        }
        if self.stop.iter().any(|stop| stop.is_empty() || stop.len() > STOP_STRING_BYTES_MAX) {
            return Err(ApiError::invalid(
                "stop",
                format!("A stop string must have 1 to {STOP_STRING_BYTES_MAX} bytes."),
            ));
        }
        if self.logprobs.is_some_and(|top| top > TOP_LOGPROBS_MAX) {
            return Err(ApiError::invalid("top_logprobs", format!("top_logprobs must be at most {TOP_LOGPROBS_MAX}.")));
        }
        if let ResponseFormat::JsonSchema(schema) = &self.response_format
            && schema.len() > JSON_SCHEMA_BYTES_MAX
        {
            return Err(ApiError::invalid(
                "response_format",
                format!("The JSON schema must have at most {JSON_SCHEMA_BYTES_MAX} bytes."),
            ));
        }
        Ok(())
    }
}

fn range(name: &str, value: f32, min: f32, max: f32) -> Result<(), ApiError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(ApiError::invalid(name, format!("{name} must be between {min} and {max}.")))
    }
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended its turn, or a stop string was met.
    Stop,
    /// `max_tokens`, the job's budget or the context was reached.
    Length,
    /// The client cancelled or went away.
    Cancelled,
}

impl FinishReason {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the rendered prompt.
    pub prompt_tokens: u32,
    /// Of those, tokens that the prefix cache already held.
    pub cached_tokens: u32,
    /// Tokens generated, the end-of-turn token not counted.
    pub completion_tokens: u32,
    /// Of those, tokens of a `<think>` part.
    pub reasoning_tokens: u32,
}

impl Usage {
    /// Prompt and completion.
    #[must_use]
    pub const fn total_tokens(&self) -> u32 {
        self.prompt_tokens + self.completion_tokens
    }
}

/// Log-probability of one chosen token, with alternatives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token's bytes (a token may be part of a character).
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability before temperature and filters.
    pub logprob: f32,
    /// The most likely tokens at this place, best first.
    pub top: Vec<(Vec<u8>, f32)>,
}

/// A piece of an answer: whole characters only, possibly of several tokens.
#[derive(Clone, PartialEq, Default)]
pub struct Delta {
    /// Answer text.
    pub text: String,
    /// Text of a `<think>` part, its tags removed.
    pub reasoning: String,
    /// Tokens that this piece accounts for (0 where text was only held back before).
    pub tokens: u32,
    /// One entry a token, where asked for.
    pub logprobs: Vec<TokenLogprob>,
}

impl std::fmt::Debug for Delta {
    /// Never prints the text: answers do not reach logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Delta({} bytes, {} reasoning bytes, {} tokens)", self.text.len(), self.reasoning.len(), self.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> InferenceRequest {
        let messages = vec![Message { role: Role::User, content: "hi".into() }];
        InferenceRequest::new("default", Prompt::Chat { messages, trim_oldest: false })
    }

    #[test]
    fn a_plain_request_is_valid() {
        assert_eq!(request().validate(), Ok(()));
    }

    #[test]
    fn absurd_values_are_refused_by_name() {
        let check = |param: &str, change: fn(&mut InferenceRequest)| {
            let mut request = request();
            change(&mut request);
            let error = request.validate().expect_err(param);
            assert_eq!(error.param.as_deref(), Some(param));
            assert_eq!(error.code, ErrorCode::InvalidRequest);
        };
        check("max_tokens", |r| r.max_tokens = Some(0));
        check("temperature", |r| r.sampling.temperature = -0.1);
        check("temperature", |r| r.sampling.temperature = 2.1);
        check("temperature", |r| r.sampling.temperature = f32::NAN);
        check("temperature", |r| r.sampling.temperature = f32::INFINITY);
        check("top_p", |r| r.sampling.top_p = 1.5);
        check("min_p", |r| r.sampling.min_p = -1.0);
        check("repeat_penalty", |r| r.sampling.repeat_penalty = 0.0);
        check("frequency_penalty", |r| r.sampling.frequency_penalty = 3.0);
        check("presence_penalty", |r| r.sampling.presence_penalty = -3.0);
        check("logit_bias", |r| r.sampling.logit_bias = vec![(1, 101.0)]);
        check("logit_bias", |r| r.sampling.logit_bias = vec![(1, 0.0); LOGIT_BIAS_MAX + 1]);
        check("stop", |r| r.stop = vec![String::new()]);
        check("stop", |r| r.stop = vec!["x".into(); STOP_STRINGS_MAX + 1]);
        check("top_logprobs", |r| r.logprobs = Some(21));
        check("response_format", |r| {
            r.response_format = ResponseFormat::JsonSchema("x".repeat(JSON_SCHEMA_BYTES_MAX + 1))
        });
    }

    #[test]
    fn nothing_to_answer_is_its_own_code() {
        for messages in [vec![], vec![Message { role: Role::User, content: " \n".into() }]] {
            let mut request = request();
            request.prompt = Prompt::Chat { messages, trim_oldest: false };
            assert_eq!(request.validate().expect_err("empty").code, ErrorCode::EmptyPrompt);
        }
    }

    #[test]
    fn debug_output_holds_no_content() {
        let mut request = request();
        request.prompt = Prompt::Text("the secret words".into());
        assert!(!format!("{request:?}").contains("secret"));
        let delta = Delta { text: "the secret words".into(), ..Delta::default() };
        assert!(!format!("{delta:?}").contains("secret"));
    }
}
