//! The body and the chunks that answer, which have one shape.

use serde::Serialize;

use super::logprobs::Logprobs;
use crate::{
    inference::{Delta, FinishReason, Usage},
    openai::TokenUsage,
};

/// One answer on its way to the client: what all its chunks repeat.
#[derive(Debug, Clone)]
pub struct Reply {
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    /// Where the next token begins, in characters.
    offset: usize,
}

/// The body of an answer, or one event of its stream.
#[derive(Serialize)]
pub struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    /// In a stream: absent unless asked for; then `null` in every event but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<TokenUsage>>,
}

#[derive(Serialize)]
struct Choice<'a> {
    text: &'a str,
    index: u32,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

impl Reply {
    /// `request_id` is the node's, `created` in Unix seconds, `model` the served name.
    #[must_use]
    pub fn new(request_id: &crate::RequestId, created: u64, model: String, include_usage: bool) -> Self {
        Self { id: format!("cmpl-{request_id}"), created, model, include_usage, offset: 0 }
    }

    /// The whole answer; `answer` is the sum of its deltas.
    #[must_use]
    pub fn completion<'a>(&'a mut self, answer: &'a Delta, reason: FinishReason, usage: Usage) -> Completion<'a> {
        let logprobs = Logprobs::new(&answer.logprobs, &mut self.offset);
        let choice = Choice { text: &answer.text, index: 0, logprobs, finish_reason: Some(reason.as_str()) };
        Completion { usage: Some(Some(usage.into())), ..self.event(vec![choice]) }
    }

    /// More of the answer; `None` where there is nothing to tell yet.
    #[must_use]
    pub fn delta<'a>(&'a mut self, delta: &'a Delta) -> Option<Completion<'a>> {
        let logprobs = Logprobs::new(&delta.logprobs, &mut self.offset);
        if delta.text.is_empty() && logprobs.is_none() {
            return None;
        }
        Some(self.event(vec![Choice { text: &delta.text, index: 0, logprobs, finish_reason: None }]))
    }

    /// An event that adds nothing: around what is ours, for clients that read every event alike.
    #[must_use]
    pub fn nothing(&self) -> Completion<'_> {
        self.event(vec![Choice { text: "", index: 0, logprobs: None, finish_reason: None }])
    }

    /// The event that says why the answer ended.
    #[must_use]
    pub fn last(&self, reason: FinishReason) -> Completion<'_> {
        self.event(vec![Choice { text: "", index: 0, logprobs: None, finish_reason: Some(reason.as_str()) }])
    }

    /// The event with the usage, after the last one; `None` where the client did not ask for it.
    #[must_use]
    pub fn usage(&self, usage: Usage) -> Option<Completion<'_>> {
        self.include_usage.then(|| Completion { usage: Some(Some(usage.into())), ..self.event(Vec::new()) })
    }

    fn event<'a>(&'a self, choices: Vec<Choice<'a>>) -> Completion<'a> {
        Completion {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model,
            choices,
            usage: self.include_usage.then_some(None),
        }
    }
}
