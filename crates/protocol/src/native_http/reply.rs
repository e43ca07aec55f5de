//! The body, and the events of a stream.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    ApiError, ErrorCode, RequestId,
    inference::{Delta, FinishReason, Usage},
    native::{StreamEndReason, UsageFrame},
    receipt::Receipt,
};

/// One answer on its way to the client.
#[derive(Debug, Clone)]
pub struct Reply {
    request_id: RequestId,
    model: String,
    context_tokens: Option<u32>,
    chunks: u32,
}

/// The body of an answer that is not streamed.
#[derive(Serialize)]
pub struct Body<'a> {
    model: &'a str,
    content: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning: &'a str,
    tokens_used: u32,
    finish_reason: FinishReason,
    request_id: &'a RequestId,
    usage: UsageFrame,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<&'a Receipt>,
}

/// One event of a stream, with the native frames' names.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent<'a> {
    /// More of the answer; the last has no content and `final`.
    StreamChunk {
        /// Answer text.
        content: &'a str,
        /// Text of a `<think>` part.
        #[serde(skip_serializing_if = "str::is_empty")]
        reasoning: &'a str,
        /// Tokens that this chunk accounts for.
        tokens: u32,
        /// From 0.
        chunk_index: u32,
        /// No chunk follows.
        r#final: bool,
        /// The node's id of the request.
        request_id: &'a RequestId,
    },
    /// The end.
    StreamEnd {
        /// How.
        reason: StreamEndReason,
        /// Why generation ended; none after an error.
        #[serde(skip_serializing_if = "Option::is_none")]
        finish_reason: Option<FinishReason>,
        /// Tokens generated; none after an error.
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens_used: Option<u32>,
        /// What was counted; none after an error.
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<UsageFrame>,
        /// The served name.
        model: &'a str,
        /// The node's id of the request.
        request_id: &'a RequestId,
    },
    /// A failure; `stream_end` follows.
    Error {
        /// Its stable code.
        error_type: ErrorCode,
        /// What happened and what to do.
        message: &'a str,
        /// The node's id of the request.
        request_id: &'a RequestId,
        /// Numbers to act on.
        details: &'a Map<String, Value>,
    },
}

impl Reply {
    /// `request_id` is the node's, `model` the served name, `context_tokens` its context where known.
    #[must_use]
    pub const fn new(request_id: RequestId, model: String, context_tokens: Option<u32>) -> Self {
        Self { request_id, model, context_tokens, chunks: 0 }
    }

    /// The whole answer; `answer` is the sum of its deltas.
    #[must_use]
    pub fn body<'a>(
        &'a self,
        answer: &'a Delta,
        reason: FinishReason,
        usage: &Usage,
        receipt: Option<&'a Receipt>,
    ) -> Body<'a> {
        Body {
            model: &self.model,
            content: &answer.text,
            reasoning: &answer.reasoning,
            tokens_used: usage.completion_tokens,
            finish_reason: reason,
            request_id: &self.request_id,
            usage: UsageFrame::new(usage, self.context_tokens),
            receipt,
        }
    }

    /// More of the answer; `None` where there is nothing to tell.
    #[must_use]
    pub fn chunk<'a>(&'a mut self, delta: &'a Delta) -> Option<StreamEvent<'a>> {
        let nothing = delta.text.is_empty() && delta.reasoning.is_empty() && delta.tokens == 0;
        (!nothing).then(|| self.next_chunk(delta, false))
    }

    /// The final chunk.
    #[must_use]
    pub fn final_chunk(&mut self) -> StreamEvent<'_> {
        const NOTHING: &Delta =
            &Delta { text: String::new(), reasoning: String::new(), tokens: 0, logprobs: Vec::new() };
        self.next_chunk(NOTHING, true)
    }

    /// The end of a whole answer.
    #[must_use]
    pub fn end(&self, reason: FinishReason, usage: &Usage) -> StreamEvent<'_> {
        StreamEvent::StreamEnd {
            reason: StreamEndReason::Complete,
            finish_reason: Some(reason),
            tokens_used: Some(usage.completion_tokens),
            usage: Some(UsageFrame::new(usage, self.context_tokens)),
            model: &self.model,
            request_id: &self.request_id,
        }
    }

    /// A failure, and the end after it.
    #[must_use]
    pub fn failure<'a>(&'a self, error: &'a ApiError) -> [StreamEvent<'a>; 2] {
        let event = StreamEvent::Error {
            error_type: error.code,
            message: &error.message,
            request_id: &self.request_id,
            details: &error.details,
        };
        let end = StreamEvent::StreamEnd {
            reason: StreamEndReason::Error,
            finish_reason: None,
            tokens_used: None,
            usage: None,
            model: &self.model,
            request_id: &self.request_id,
        };
        [event, end]
    }

    fn next_chunk<'a>(&'a mut self, delta: &'a Delta, r#final: bool) -> StreamEvent<'a> {
        let chunk_index = self.chunks;
        self.chunks += 1;
        StreamEvent::StreamChunk {
            content: &delta.text,
            reasoning: &delta.reasoning,
            tokens: delta.tokens,
            chunk_index,
            r#final,
            request_id: &self.request_id,
        }
    }
}
