//! Tells an answer as the events of one response: a pure state machine that JSON, SSE and WebSocket share.
//!
//! Order of the events: `created`, `in_progress`; for each item `output_item.added`, `content_part.added`, the deltas,
//! the text's `done`, `content_part.done`, `output_item.done`; then the receipt, and one of `completed`, `incomplete`,
//! `failed`.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use protocol::{
    ApiError, ErrorCode,
    inference::{Delta, FinishReason, Usage},
    openai::responses::{
        Event, IncompleteDetails, ItemStatus, Logprob, OutputItem, Part, Response, ResponseError, ServerEvent, Status,
    },
};

use super::random_id;
use crate::{
    error::openai_code,
    pipeline::{AnswerEvent, Settled},
};

/// Where one response stands.
#[derive(Debug)]
pub(super) struct Narration {
    response: Response,
    sequence_number: u64,
    stream_id: Option<Arc<str>>,
    announce_errors: bool,
    begun: bool,
    open: Option<Open>,
    events: Vec<ServerEvent>,
}

/// The item that grows now. It has one part.
#[derive(Debug)]
struct Open {
    kind: Kind,
    id: Arc<str>,
    text: String,
    logprobs: Vec<Logprob>,
    /// How many of `logprobs` were sent: the tokens of text that is held back wait for it.
    logprobs_sent: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
}

/// Every item has one part.
const CONTENT_INDEX: usize = 0;

impl Narration {
    /// Begins to tell about `response`, on a WebSocket's lane if it has one.
    pub(super) fn new(response: Response, stream_id: Option<Arc<str>>) -> Self {
        Self {
            response,
            sequence_number: 0,
            stream_id,
            announce_errors: false,
            begun: false,
            open: None,
            events: Vec::new(),
        }
    }

    /// Also tells a failure as an event `error`, as server-sent events have it.
    pub(super) fn announcing_errors(self) -> Self {
        Self { announce_errors: true, ..self }
    }

    /// The response as far as it has come; whole after a terminal event.
    pub(super) fn response(&self) -> &Response {
        &self.response
    }

    /// The answer without what was thought; `None` where there is no answer.
    pub(super) fn answer_text(&self) -> Option<String> {
        let parts = self.response.output.iter().filter_map(|item| match item {
            OutputItem::Message { content, .. } => Some(content),
            OutputItem::Reasoning { .. } => None,
        });
        let texts = parts.flatten().filter_map(|part| match part {
            Part::OutputText { text, .. } => Some(text.as_str()),
            Part::ReasoningText { .. } => None,
        });
        texts.fold(None, |answer, text| Some(answer.unwrap_or_default() + text))
    }

    /// Whether the client has heard of it. Before that, a failure is better told as the refusal of its request.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// What `event`, which happened at `now` (Unix seconds), means to the client.
    pub(super) fn next(&mut self, event: AnswerEvent, now: u64) -> Vec<ServerEvent> {
        self.begin();
        match event {
            AnswerEvent::Started { .. } => {}
            AnswerEvent::Delta(delta) => self.delta(delta),
            AnswerEvent::Finished(settled) => self.finish(&settled, now),
            AnswerEvent::Failed { error, settled } => self.fail(&error, Some(&settled)),
        }
        std::mem::take(&mut self.events)
    }

    /// The events of a response that only prepares a conversation: nothing is generated, nothing is counted.
    pub(super) fn warmed_up(&mut self, now: u64) -> Vec<ServerEvent> {
        self.begin();
        self.complete(Usage::default(), now);
        std::mem::take(&mut self.events)
    }

    /// The end of an answer that never told its own.
    pub(super) fn broken(&mut self, error: &ApiError) -> Vec<ServerEvent> {
        self.begin();
        self.fail(error, None);
        std::mem::take(&mut self.events)
    }

    fn begin(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            self.tell(Event::Created { response: Box::new(self.response.clone()) });
            self.tell(Event::InProgress { response: Box::new(self.response.clone()) });
        }
    }

    fn delta(&mut self, delta: Delta) {
        if !delta.reasoning.is_empty() {
            self.grow(Kind::Reasoning, delta.reasoning, Vec::new());
        }
        let logprobs: Vec<Logprob> = delta.logprobs.iter().map(Logprob::from).collect();
        if !delta.text.is_empty() {
            self.grow(Kind::Message, delta.text, logprobs);
        } else if let Some(open) = self.open.as_mut().filter(|open| open.kind == Kind::Message) {
            open.logprobs.extend(logprobs);
        }
    }

    fn grow(&mut self, kind: Kind, text: String, logprobs: Vec<Logprob>) {
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.close(ItemStatus::Completed);
            self.open(kind);
        }
        let output_index = self.response.output.len();
        let Some(open) = &mut self.open else { return };
        open.text.push_str(&text);
        open.logprobs.extend(logprobs);
        let item_id = Arc::clone(&open.id);
        let event = match kind {
            Kind::Reasoning => {
                Event::ReasoningTextDelta { item_id, output_index, content_index: CONTENT_INDEX, delta: text }
            }
            Kind::Message => {
                let logprobs = open.logprobs[open.logprobs_sent..].to_vec();
                open.logprobs_sent = open.logprobs.len();
                Event::OutputTextDelta { item_id, output_index, content_index: CONTENT_INDEX, delta: text, logprobs }
            }
        };
        self.tell(event);
    }

    fn open(&mut self, kind: Kind) {
        let id: Arc<str> = random_id(if kind == Kind::Reasoning { "rs" } else { "msg" }).into();
        let output_index = self.response.output.len();
        let item = kind.item(&id, ItemStatus::InProgress, Vec::new());
        self.tell(Event::OutputItemAdded { output_index, item });
        let part = kind.part(String::new(), Vec::new());
        let item_id = Arc::clone(&id);
        self.tell(Event::ContentPartAdded { item_id, output_index, content_index: CONTENT_INDEX, part });
        self.open = Some(Open { kind, id, text: String::new(), logprobs: Vec::new(), logprobs_sent: 0 });
    }

    fn close(&mut self, status: ItemStatus) {
        let Some(Open { kind, id: item_id, text, logprobs, .. }) = self.open.take() else { return };
        let (output_index, content_index) = (self.response.output.len(), CONTENT_INDEX);
        let part = kind.part(text.clone(), logprobs.clone());
        let id = Arc::clone(&item_id);
        self.tell(match kind {
            Kind::Reasoning => Event::ReasoningTextDone { item_id: id, output_index, content_index, text },
            Kind::Message => Event::OutputTextDone { item_id: id, output_index, content_index, text, logprobs },
        });
        let item = kind.item(&item_id, status, vec![part.clone()]);
        self.tell(Event::ContentPartDone { item_id, output_index, content_index, part });
        self.tell(Event::OutputItemDone { output_index, item: item.clone() });
        self.response.output.push(item);
    }

    fn finish(&mut self, settled: &Settled, now: u64) {
        let usage = settled.usage;
        match settled.reason {
            FinishReason::Stop => {
                if self.open.is_none() && self.response.output.is_empty() {
                    // A model may say nothing. Clients read the first message all the same.
                    self.open(Kind::Message);
                }
                self.close(ItemStatus::Completed);
                self.receipt(settled);
                self.complete(usage, now);
            }
            FinishReason::Length => {
                self.close(ItemStatus::Incomplete);
                self.receipt(settled);
                self.response.incomplete_details = Some(IncompleteDetails { reason: "max_output_tokens" });
                self.end(Status::Incomplete, usage);
                self.tell(Event::Incomplete { response: Box::new(self.response.clone()) });
            }
            FinishReason::Cancelled => {
                self.close(ItemStatus::Incomplete);
                self.receipt(settled);
                // The API has no event of its own for this: the status tells it apart.
                self.end(Status::Cancelled, usage);
                self.tell(Event::Incomplete { response: Box::new(self.response.clone()) });
            }
        }
    }

    fn complete(&mut self, usage: Usage, now: u64) {
        self.response.completed_at = Some(now);
        self.end(Status::Completed, usage);
        self.tell(Event::Completed { response: Box::new(self.response.clone()) });
    }

    fn fail(&mut self, error: &ApiError, settled: Option<&Settled>) {
        self.close(ItemStatus::Incomplete);
        if let Some(settled) = settled {
            self.receipt(settled);
        }
        self.response.error = Some(ResponseError { code: failure_code(error.code), message: error.message.clone() });
        self.response.status = Status::Failed;
        self.response.usage = settled.map(|settled| settled.usage.into());
        if self.announce_errors {
            self.tell(Event::Error {
                code: openai_code(error.code),
                message: error.message.clone(),
                param: error.param.clone(),
            });
        }
        self.tell(Event::Failed { response: Box::new(self.response.clone()) });
    }

    fn receipt(&mut self, settled: &Settled) {
        if let Some(receipt) = settled.receipt() {
            self.tell(Event::Receipt { receipt: Box::new(receipt.clone()) });
        }
    }

    fn end(&mut self, status: Status, usage: Usage) {
        self.response.status = status;
        self.response.usage = Some(usage.into());
    }

    fn tell(&mut self, event: Event) {
        let stream_id = self.stream_id.clone();
        self.events.push(ServerEvent { event, sequence_number: self.sequence_number, stream_id });
        self.sequence_number += 1;
    }
}

impl Kind {
    fn item(self, id: &str, status: ItemStatus, content: Vec<Part>) -> OutputItem {
        let id = id.to_owned();
        match self {
            Self::Reasoning => OutputItem::Reasoning { id, status, summary: [], content },
            Self::Message => OutputItem::Message { id, status, role: "assistant", content },
        }
    }

    fn part(self, text: String, logprobs: Vec<Logprob>) -> Part {
        match self {
            Self::Reasoning => Part::ReasoningText { text },
            Self::Message => Part::OutputText { text, annotations: [], logprobs },
        }
    }
}

/// The code of a failed response: the API's set is closed, and SDKs with strict types refuse any other.
fn failure_code(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::RateLimit => "rate_limit_exceeded",
        ErrorCode::EmptyPrompt | ErrorCode::ContextTooLarge | ErrorCode::InvalidRequest => "invalid_prompt",
        _ => "server_error",
    }
}
