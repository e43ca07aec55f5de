//! One prompt and its answer: what the pipeline reports, as frames of the protocol.

use std::time::Instant;

use protocol::{
    ApiError, RequestId, SessionId,
    inference::{Delta, FinishReason, Usage},
    native::{ErrorFrame, MessageId, ServerMessage, StreamChunk, StreamEnd, StreamEndReason, UsageFrame},
    receipt::Receipt,
};
use tokio_util::sync::CancellationToken;

use super::history::History;

/// A prompt that is being answered.
pub(super) struct Turn {
    /// Cancelling this stops the generation; the end still comes.
    pub(super) cancel: CancellationToken,
    pub(super) id: Option<MessageId>,
    pub(super) session_id: SessionId,
    pub(super) request_id: RequestId,
    /// The client wants chunks.
    stream: bool,
    /// The question, for the history.
    prompt: String,
    /// The conversation that the client sent with it, in place of the session's.
    context: Option<History>,
    /// Place of the answer in the conversation.
    answer_index: u64,
    arrived: Instant,
    content: String,
    reasoning: String,
    chunks_sent: u32,
    /// Tokens that no chunk accounts for yet: their text was held back.
    owed_tokens: u32,
    /// Messages that the engine left out to make the prompt fit.
    trimmed_messages: u32,
    context_tokens: Option<u32>,
    /// What `max_tokens` was lowered to.
    lowered_max_tokens: Option<u32>,
}

/// What [`Turn::new`] needs to know.
pub(super) struct Asked {
    pub(super) id: Option<MessageId>,
    pub(super) session_id: SessionId,
    pub(super) request_id: RequestId,
    pub(super) stream: bool,
    pub(super) prompt: String,
    pub(super) context: Option<History>,
    pub(super) answer_index: u64,
}

/// What a finished turn adds to its session.
#[derive(PartialEq)]
pub(super) struct Kept {
    /// Replaces the session's history first.
    pub(super) context: Option<History>,
    /// Messages to drop from the oldest.
    pub(super) trimmed_messages: u32,
    pub(super) prompt: String,
    pub(super) answer: String,
}

impl Turn {
    pub(super) fn new(asked: Asked) -> Self {
        Self {
            cancel: CancellationToken::new(),
            id: asked.id,
            session_id: asked.session_id,
            request_id: asked.request_id,
            stream: asked.stream,
            prompt: asked.prompt,
            context: asked.context,
            answer_index: asked.answer_index,
            arrived: Instant::now(),
            content: String::new(),
            reasoning: String::new(),
            chunks_sent: 0,
            owed_tokens: 0,
            trimmed_messages: 0,
            context_tokens: None,
            lowered_max_tokens: None,
        }
    }

    /// The pipeline took the prompt.
    pub(super) fn accepted(&mut self, requested: Option<u32>, granted: u32, context_tokens: Option<u32>) {
        self.lowered_max_tokens = requested.filter(|requested| *requested > granted).map(|_| granted);
        self.context_tokens = context_tokens;
    }

    /// The engine began.
    pub(super) fn started(&mut self, trimmed_messages: u32) {
        self.trimmed_messages = trimmed_messages;
    }

    /// A piece of the answer; a frame where there is something to show.
    pub(super) fn delta<'a>(&'a mut self, delta: &'a Delta) -> Option<ServerMessage<'a>> {
        self.content.push_str(&delta.text);
        self.owed_tokens += delta.tokens;
        if !self.stream {
            self.reasoning.push_str(&delta.reasoning);
            return None;
        }
        if delta.text.is_empty() && delta.reasoning.is_empty() {
            return None;
        }
        let (tokens, index) = self.next_chunk();
        Some(ServerMessage::StreamChunk(StreamChunk {
            content: &delta.text,
            reasoning: &delta.reasoning,
            ..self.chunk(tokens, index)
        }))
    }

    /// The frames of a regular end, in order.
    pub(super) fn finished<'a>(
        &'a mut self,
        reason: FinishReason,
        usage: &Usage,
        receipt: Option<&'a Receipt>,
    ) -> Vec<ServerMessage<'a>> {
        let usage = UsageFrame::new(usage, self.context_tokens);
        let tokens_used = usage.completion_tokens();
        if !self.stream {
            return vec![ServerMessage::Response {
                content: &self.content,
                reasoning: &self.reasoning,
                tokens_used,
                message_index: self.answer_index,
                completion_time_ms: u64::try_from(self.arrived.elapsed().as_millis()).unwrap_or(u64::MAX),
                finish_reason: reason,
                usage,
                max_tokens: self.lowered_max_tokens,
                request_id: self.request_id.as_str(),
                id: self.id.as_ref(),
                session_id: &self.session_id,
                receipt,
            }];
        }
        let (tokens, index) = self.next_chunk();
        let this = &*self;
        let last = StreamChunk { r#final: true, ..this.chunk(tokens, index) };
        let end = StreamEnd {
            reason: match reason {
                FinishReason::Stop | FinishReason::Length => StreamEndReason::Complete,
                FinishReason::Cancelled => StreamEndReason::Cancelled,
            },
            finish_reason: Some(reason),
            message_index: this.is_kept(reason).then_some(this.answer_index),
            ..this.end(tokens_used, Some(usage))
        };
        let mut frames = vec![ServerMessage::StreamChunk(last)];
        frames.extend(this.receipt(receipt));
        frames.push(ServerMessage::StreamEnd(end));
        frames
    }

    /// The frames of a failure, in order. `usage` where something was counted.
    pub(super) fn failed<'a>(
        &'a self,
        error: &'a ApiError,
        usage: Option<&Usage>,
        receipt: Option<&'a Receipt>,
    ) -> Vec<ServerMessage<'a>> {
        let frame = ErrorFrame::new(error, self.id.as_ref(), Some(&self.session_id), Some(self.request_id.as_str()));
        if !self.stream {
            return vec![ServerMessage::Error(frame.with_receipt(receipt))];
        }
        let mut frames = vec![ServerMessage::Error(frame)];
        frames.extend(self.receipt(receipt));
        let usage = usage.map(|usage| UsageFrame::new(usage, self.context_tokens));
        let tokens_used = usage.map_or(0, |usage| usage.completion_tokens());
        frames.push(ServerMessage::StreamEnd(self.end(tokens_used, usage)));
        frames
    }

    /// What the session remembers: an answer that is whole, or was cancelled after some text.
    pub(super) fn kept(self, reason: FinishReason) -> Option<Kept> {
        self.is_kept(reason).then_some(Kept {
            context: self.context,
            trimmed_messages: self.trimmed_messages,
            prompt: self.prompt,
            answer: self.content,
        })
    }

    fn is_kept(&self, reason: FinishReason) -> bool {
        reason != FinishReason::Cancelled || !self.content.is_empty()
    }

    fn receipt<'a>(&'a self, receipt: Option<&'a Receipt>) -> Option<ServerMessage<'a>> {
        let (id, session_id) = (self.id.as_ref(), &self.session_id);
        receipt.map(|receipt| ServerMessage::Receipt { receipt, id, session_id })
    }

    /// Tokens and index of the chunk that is sent now.
    fn next_chunk(&mut self) -> (u32, u32) {
        let index = self.chunks_sent;
        self.chunks_sent += 1;
        (std::mem::take(&mut self.owed_tokens), index)
    }

    fn chunk(&self, tokens: u32, chunk_index: u32) -> StreamChunk<'_> {
        StreamChunk {
            content: "",
            reasoning: "",
            tokens,
            chunk_index,
            r#final: false,
            id: self.id.as_ref(),
            session_id: &self.session_id,
        }
    }

    fn end(&self, tokens_used: u32, usage: Option<UsageFrame>) -> StreamEnd<'_> {
        StreamEnd {
            reason: StreamEndReason::Error,
            finish_reason: None,
            tokens_used,
            usage,
            message_index: None,
            max_tokens: self.lowered_max_tokens,
            request_id: Some(self.request_id.as_str()),
            id: self.id.as_ref(),
            session_id: Some(&self.session_id),
        }
    }
}

#[cfg(test)]
mod tests;
