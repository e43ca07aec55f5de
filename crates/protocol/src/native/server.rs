use serde::Serialize;
use serde_json::{Map, Value};

use super::MessageId;
use crate::{
    ApiError, ErrorCode, JobId, SessionId,
    inference::{FinishReason, Usage},
    receipt::Receipt,
};

/// What the node sends. `id` is the request's, `null` where it had none.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage<'a> {
    /// The first frame.
    Connected {
        /// The node's version.
        version: &'a str,
        /// The model that `default` means, once one is loaded.
        model: Option<&'a str>,
        /// The node's clock, seconds since the epoch: clients that sign or check expiries see their skew.
        server_time: u64,
        /// A token must come before anything else.
        auth_required: bool,
        /// 64 hexadecimal digits that signatures on this connection cover, and on no other.
        nonce: &'a str,
        /// Signed messages only (`signature.required`).
        signature_required: bool,
        /// The node's name in its receipts: the thumbprint of its first key.
        node_id: &'a str,
    },
    /// The token was accepted.
    AuthAck {
        /// Always `success`.
        status: &'a str,
        /// When the token expires, seconds since the epoch.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<u64>,
        /// The request's.
        id: Option<&'a MessageId>,
    },
    /// The session is open.
    SessionInitAck {
        /// Always `success`.
        status: &'a str,
        /// The session.
        session_id: &'a SessionId,
        /// The job that its prompts are charged to.
        job_id: Option<&'a JobId>,
        /// As the client said.
        chain_id: Option<u64>,
        /// For people.
        message: &'a str,
        /// A token for this session, where the node issues tokens.
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<&'a str>,
        /// When that token expires, seconds since the epoch.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<u64>,
        /// The request's.
        id: Option<&'a MessageId>,
    },
    /// The session is open and holds the conversation.
    SessionResumeAck {
        /// Always `success`.
        status: &'a str,
        /// The session.
        session_id: &'a SessionId,
        /// The job that its prompts are charged to.
        job_id: Option<&'a JobId>,
        /// As the client said.
        chain_id: Option<u64>,
        /// Messages of the conversation so far.
        message_count: u64,
        /// The request's.
        id: Option<&'a MessageId>,
    },
    /// The session is forgotten.
    SessionEndAck {
        /// Always `success`.
        status: &'a str,
        /// The session.
        session_id: &'a SessionId,
        /// The request's.
        id: Option<&'a MessageId>,
    },
    /// A piece of an answer.
    StreamChunk(StreamChunk<'a>),
    /// The end of a stream.
    StreamEnd(StreamEnd<'a>),
    /// What the node signs about the answer that ends with the next frame.
    Receipt {
        /// The receipt.
        receipt: &'a Receipt,
        /// The request's.
        id: Option<&'a MessageId>,
        /// The session.
        session_id: &'a SessionId,
    },
    /// A whole answer (`stream: false`).
    Response {
        /// The answer.
        content: &'a str,
        /// Text of a `<think>` part.
        #[serde(skip_serializing_if = "str::is_empty")]
        reasoning: &'a str,
        /// Tokens generated.
        tokens_used: u32,
        /// Place of the answer in the conversation.
        message_index: u64,
        /// From the prompt's arrival to the end.
        completion_time_ms: u64,
        /// Why generation ended.
        finish_reason: FinishReason,
        /// What was counted.
        usage: UsageFrame,
        /// What `max_tokens` was lowered to, where it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        max_tokens: Option<u32>,
        /// The node's own id of the request, for its operator's log.
        request_id: &'a str,
        /// The request's.
        id: Option<&'a MessageId>,
        /// The session.
        session_id: &'a SessionId,
        /// What the node signs about it. Not a frame of its own here: clients wait for one reply.
        #[serde(skip_serializing_if = "Option::is_none")]
        receipt: Option<&'a Receipt>,
    },
    /// Something failed.
    Error(ErrorFrame<'a>),
    /// A fresh token.
    TokenRefreshed {
        /// `null` where the node issues no tokens.
        token: Option<&'a str>,
        /// When it expires, seconds since the epoch.
        expires_at: Option<u64>,
        /// The session, where one was named.
        #[serde(skip_serializing_if = "Option::is_none")]
        session_id: Option<&'a SessionId>,
        /// The request's.
        id: Option<&'a MessageId>,
    },
    /// The connection's token ends soon, or has just ended: a `token_refresh` keeps the connection.
    TokenExpiring {
        /// When it ends, seconds since the epoch.
        expires_at: u64,
        /// When the connection is closed without a fresh one, seconds since the epoch.
        closes_at: u64,
    },
    /// The node ended a session that the client did not end. Not a reply.
    SessionEnded {
        /// The session.
        session_id: &'a SessionId,
        /// `operator`, `replaced`, `resumed`, `idle_timeout` or `lifetime`.
        reason: &'a str,
        /// For people.
        message: &'a str,
    },
    /// A sign of life.
    Pong {
        /// The request's.
        id: Option<&'a MessageId>,
    },
}

/// See [`ServerMessage::StreamChunk`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamChunk<'a> {
    /// Answer text; empty in the final chunk.
    pub content: &'a str,
    /// Text of a `<think>` part.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reasoning: &'a str,
    /// Tokens that this chunk accounts for.
    pub tokens: u32,
    /// From 0.
    pub chunk_index: u32,
    /// No chunk follows.
    pub r#final: bool,
    /// The request's.
    pub id: Option<&'a MessageId>,
    /// The session.
    pub session_id: &'a SessionId,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamEndReason {
    /// The answer is whole, or at its limit.
    Complete,
    /// As the client wished.
    Cancelled,
    /// An `error` frame came before.
    Error,
}

/// See [`ServerMessage::StreamEnd`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamEnd<'a> {
    /// How.
    pub reason: StreamEndReason,
    /// Why generation ended; none after an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// Tokens generated.
    pub tokens_used: u32,
    /// What was counted; none where nothing was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageFrame>,
    /// Place of the answer in the conversation, where it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_index: Option<u64>,
    /// What `max_tokens` was lowered to, where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The node's own id of the request, for its operator's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    /// The request's.
    pub id: Option<&'a MessageId>,
    /// The session, where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<&'a SessionId>,
}

/// Token counts of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct UsageFrame {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    context_window_size: Option<u32>,
    cached_tokens: u32,
}

impl UsageFrame {
    /// Counts as a client reads them; the context where the model's is known.
    #[must_use]
    pub const fn new(usage: &Usage, context_window_size: Option<u32>) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.total_tokens(),
            context_window_size,
            cached_tokens: usage.cached_tokens,
        }
    }

    /// Tokens generated (`tokens_used` of the frames).
    #[must_use]
    pub const fn completion_tokens(&self) -> u32 {
        self.completion_tokens
    }
}

/// An error with every field that some client reads: `code` and `error_code`, `message` and `error` say the same.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorFrame<'a> {
    id: Option<&'a MessageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    code: ErrorCode,
    error_code: ErrorCode,
    message: &'a str,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_secs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_window_size: Option<&'a Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    details: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<&'a Receipt>,
}

impl<'a> ErrorFrame<'a> {
    /// The frame of `error`. Clients read the two token counts beside the code, so they stand there too.
    #[must_use]
    pub fn new(
        error: &'a ApiError,
        id: Option<&'a MessageId>,
        session_id: Option<&'a SessionId>,
        request_id: Option<&'a str>,
    ) -> Self {
        Self {
            id,
            session_id,
            request_id,
            code: error.code,
            error_code: error.code,
            message: &error.message,
            error: &error.message,
            param: error.param.as_deref(),
            retry_after_secs: error.retry_after_secs,
            prompt_tokens: error.details.get("prompt_tokens"),
            context_window_size: error.details.get("context_window_size"),
            details: &error.details,
            receipt: None,
        }
    }

    /// With the receipt of an answer that had begun, where no frame follows that could bring it.
    #[must_use]
    pub fn with_receipt(self, receipt: Option<&'a Receipt>) -> Self {
        Self { receipt, ..self }
    }
}
