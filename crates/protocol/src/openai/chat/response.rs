//! The body and the chunks that answer.

use serde::Serialize;

use crate::{
    inference::{Delta, FinishReason, TokenLogprob, Usage},
    openai::{TokenUsage, finite},
};

/// One answer on its way to the client: what all its chunks repeat.
#[derive(Debug, Clone)]
pub struct Reply {
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
}

/// The body of an answer that is not streamed.
#[derive(Serialize)]
pub struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [Choice<'a>; 1],
    usage: TokenUsage,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    message: OutputMessage<'a>,
    logprobs: Option<Logprobs<'a>>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct OutputMessage<'a> {
    role: &'static str,
    content: &'a str,
    /// DeepSeek's name, which vLLM, SGLang and llama-server took over.
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning_content: &'a str,
    refusal: Option<&'static str>,
}

/// One event of a stream.
#[derive(Serialize)]
pub struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChunkChoice<'a>>,
    /// Absent unless asked for; then `null` in every chunk but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<TokenUsage>>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: ChunkDelta<'a>,
    logprobs: Option<Logprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct ChunkDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
}

#[derive(Serialize)]
struct Logprobs<'a> {
    content: Vec<Token<'a>>,
    refusal: Option<&'static str>,
}

#[derive(Serialize)]
struct Token<'a> {
    #[serde(flatten)]
    chosen: Alternative<'a>,
    top_logprobs: Vec<Alternative<'a>>,
}

#[derive(Serialize)]
struct Alternative<'a> {
    /// Replacement characters stand for the halves of a character; `bytes` has what was there.
    token: std::borrow::Cow<'a, str>,
    logprob: f32,
    bytes: &'a [u8],
}

impl<'a> Alternative<'a> {
    fn new(bytes: &'a [u8], logprob: f32) -> Self {
        Self { token: String::from_utf8_lossy(bytes), logprob: finite(logprob), bytes }
    }
}

/// `None` where no log-probabilities were asked for.
fn logprobs(tokens: &[TokenLogprob]) -> Option<Logprobs<'_>> {
    let content = tokens.iter().map(|token| Token {
        chosen: Alternative::new(&token.bytes, token.logprob),
        top_logprobs: token.top.iter().map(|(bytes, logprob)| Alternative::new(bytes, *logprob)).collect(),
    });
    (!tokens.is_empty()).then(|| Logprobs { content: content.collect(), refusal: None })
}

impl Reply {
    /// `request_id` is the node's, `created` in Unix seconds, `model` the served name.
    #[must_use]
    pub fn new(request_id: &crate::RequestId, created: u64, model: String, include_usage: bool) -> Self {
        Self { id: format!("chatcmpl-{request_id}"), created, model, include_usage }
    }

    /// The whole answer; `answer` is the sum of its deltas.
    #[must_use]
    pub fn completion<'a>(&'a self, answer: &'a Delta, reason: FinishReason, usage: Usage) -> Completion<'a> {
        Completion {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: &self.model,
            choices: [Choice {
                index: 0,
                message: OutputMessage {
                    role: "assistant",
                    content: &answer.text,
                    reasoning_content: &answer.reasoning,
                    refusal: None,
                },
                logprobs: logprobs(&answer.logprobs),
                finish_reason: reason.as_str(),
            }],
            usage: usage.into(),
        }
    }

    /// The first chunk.
    #[must_use]
    pub fn first(&self) -> Chunk<'_> {
        let delta = ChunkDelta { role: Some("assistant"), content: Some(""), ..ChunkDelta::default() };
        self.chunk(vec![ChunkChoice { index: 0, delta, logprobs: None, finish_reason: None }])
    }

    /// More of the answer; `None` where there is nothing to tell yet.
    #[must_use]
    pub fn delta<'a>(&'a self, delta: &'a Delta) -> Option<Chunk<'a>> {
        let some = |text: &'a str| (!text.is_empty()).then_some(text);
        let logprobs = logprobs(&delta.logprobs);
        let delta = ChunkDelta { role: None, content: some(&delta.text), reasoning_content: some(&delta.reasoning) };
        if delta.content.is_none() && delta.reasoning_content.is_none() && logprobs.is_none() {
            return None;
        }
        Some(self.chunk(vec![ChunkChoice { index: 0, delta, logprobs, finish_reason: None }]))
    }

    /// A chunk that adds nothing: around what is ours, for clients that read every event as a chunk.
    #[must_use]
    pub fn nothing(&self) -> Chunk<'_> {
        self.chunk(vec![ChunkChoice { index: 0, delta: ChunkDelta::default(), logprobs: None, finish_reason: None }])
    }

    /// The chunk that says why the answer ended.
    #[must_use]
    pub fn last(&self, reason: FinishReason) -> Chunk<'_> {
        let finish_reason = Some(reason.as_str());
        self.chunk(vec![ChunkChoice { index: 0, delta: ChunkDelta::default(), logprobs: None, finish_reason }])
    }

    /// The chunk with the usage, after the last one; `None` where the client did not ask for it.
    #[must_use]
    pub fn usage(&self, usage: Usage) -> Option<Chunk<'_>> {
        self.include_usage.then(|| Chunk { usage: Some(Some(usage.into())), ..self.chunk(Vec::new()) })
    }

    fn chunk<'a>(&'a self, choices: Vec<ChunkChoice<'a>>) -> Chunk<'a> {
        Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices,
            usage: self.include_usage.then_some(None),
        }
    }
}
