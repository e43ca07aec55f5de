//! What a stream says, over SSE and WebSocket alike.

use std::sync::Arc;

use serde::Serialize;

use super::{Logprob, OutputItem, Part, Response};
use crate::receipt::Receipt;

/// One event on its way to a client.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerEvent {
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// Counts the events of one response, from 0.
    pub sequence_number: u64,
    /// The WebSocket lane, where the request named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<Arc<str>>,
}

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $text:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        /// What happened.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "type")]
        pub enum Event {
            $($(#[$doc])* #[serde(rename = $text)] $name { $($(#[$field_doc])* $field: $type,)* },)*
        }

        impl Event {
            /// The event's type on the wire, also its SSE name.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name { .. } => $text,)* }
            }
        }
    };
}

events! {
    /// Accepted; an id exists.
    Created = "response.created" {
        /// So far.
        response: Box<Response>,
    }
    /// The prompt is being read.
    InProgress = "response.in_progress" {
        /// So far.
        response: Box<Response>,
    }
    /// An item begins.
    OutputItemAdded = "response.output_item.added" {
        /// Its place in the output.
        output_index: usize,
        /// Still empty.
        item: OutputItem,
    }
    /// A part begins.
    ContentPartAdded = "response.content_part.added" {
        /// The item's id.
        item_id: Arc<str>,
        /// The item's place.
        output_index: usize,
        /// The part's place in the item.
        content_index: usize,
        /// Still empty.
        part: Part,
    }
    /// More answer text.
    OutputTextDelta = "response.output_text.delta" {
        /// The item's id.
        item_id: Arc<str>,
        /// The item's place.
        output_index: usize,
        /// The part's place in the item.
        content_index: usize,
        /// The text.
        delta: String,
        /// One entry a token, where asked for.
        logprobs: Vec<Logprob>,
    }
    /// The answer text is whole.
    OutputTextDone = "response.output_text.done" {
        /// The item's id.
        item_id: Arc<str>,
        /// The item's place.
        output_index: usize,
        /// The part's place in the item.
        content_index: usize,
        /// All of it.
        text: String,
        /// One entry a token, where asked for.
        logprobs: Vec<Logprob>,
    }
    /// More reasoning.
    ReasoningTextDelta = "response.reasoning_text.delta" {
        /// The item's id.
        item_id: Arc<str>,
        /// The item's place.
        output_index: usize,
        /// The part's place in the item.
        content_index: usize,
        /// The text.
        delta: String,
    }
    /// The reasoning is whole.
    ReasoningTextDone = "response.reasoning_text.done" {
        /// The item's id.
        item_id: Arc<str>,
        /// The item's place.
        output_index: usize,
        /// The part's place in the item.
        content_index: usize,
        /// All of it.
        text: String,
    }
    /// A part is whole.
    ContentPartDone = "response.content_part.done" {
        /// The item's id.
        item_id: Arc<str>,
        /// The item's place.
        output_index: usize,
        /// The part's place in the item.
        content_index: usize,
        /// All of it.
        part: Part,
    }
    /// An item is whole.
    OutputItemDone = "response.output_item.done" {
        /// Its place in the output.
        output_index: usize,
        /// All of it.
        item: OutputItem,
    }
    /// Ours, before the end: what the node signs about the answer. Named as the Open Responses specification asks of
    /// extensions; clients ignore types that they do not know.
    Receipt = "llm-node:receipt" {
        /// The receipt.
        receipt: Box<Receipt>,
    }
    /// The end: the model ended its turn.
    Completed = "response.completed" {
        /// All of it.
        response: Box<Response>,
    }
    /// The end: a limit, or a cancel.
    Incomplete = "response.incomplete" {
        /// What there is.
        response: Box<Response>,
    }
    /// The end: an error.
    Failed = "response.failed" {
        /// What there is.
        response: Box<Response>,
    }
    /// What went wrong; over SSE only, before [`Event::Failed`].
    Error = "error" {
        /// Stable code.
        code: String,
        /// What happened and what to do.
        message: String,
        /// The request field at fault.
        param: Option<String>,
    }
}

impl Event {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed { .. } | Self::Incomplete { .. } | Self::Failed { .. })
    }
}

/// A request that was refused over a WebSocket, which stays usable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorFrame {
    /// Always `error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The HTTP status that says the same.
    pub status: u16,
    /// The lane, where the request named a valid one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<Arc<str>>,
    /// What is wrong.
    pub error: ErrorObject,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorObject {
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error`, `server_error`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// What clients key their recovery on.
    pub code: String,
    /// What happened and what to do.
    pub message: String,
    /// The request field at fault.
    pub param: Option<String>,
}
