//! From token bytes to text that a client may see.
//!
//! ```text
//! bytes ─▶ Utf8Decoder ─▶ ReasoningSplitter ─▶ reasoning
//!          whole chars     <think> parts    └▶ StopMatcher ─▶ answer
//! ```
//!
//! Each stage holds back only what it cannot decide yet: the bytes of an unfinished character, the beginning of a tag,
//! the longest suffix that could begin a stop string. What comes out does not depend on how the bytes were cut into
//! tokens.
//!
//! A token is accounted for in the first delta that leaves at or after its arrival, so what was never delivered is never
//! counted. The tokens of a stop string are counted up to the one that completes it: the model generated them.

mod reasoning;
mod stop;
mod utf8;

#[cfg(test)]
mod tests;

use protocol::inference::{Delta, TokenLogprob};

use self::{reasoning::ReasoningSplitter, stop::StopMatcher, utf8::Utf8Decoder};

/// How a model marks its reasoning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasoningTags {
    /// Opens a reasoning part, for example `<think>`. Looked for at the beginning of the answer only.
    pub open: String,
    /// Closes it.
    pub close: String,
    /// The prompt already opened it.
    pub starts_inside: bool,
}

/// Whether more tokens are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// A stop string was met: the answer is over and later tokens are ignored.
    Stopped,
}

/// Tokens that the deltas so far account for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// All of them: the sum of the deltas' `tokens`.
    pub completion_tokens: u32,
    /// Of those, the ones of a reasoning part, its tags included.
    pub reasoning_tokens: u32,
}

/// Assembles one answer.
#[derive(Debug)]
pub struct Assembler {
    utf8: Utf8Decoder,
    reasoning: ReasoningSplitter,
    stop: StopMatcher,
    /// The delta under construction.
    pending: Delta,
    pending_reasoning_tokens: u32,
    counted: Counted,
}

impl Assembler {
    /// An assembler for one answer. Stop strings apply to the answer, not to its reasoning.
    #[must_use]
    pub fn new(stop: Vec<String>, tags: Option<ReasoningTags>) -> Self {
        Self {
            utf8: Utf8Decoder::default(),
            reasoning: ReasoningSplitter::new(tags),
            stop: StopMatcher::new(stop),
            pending: Delta::default(),
            pending_reasoning_tokens: 0,
            counted: Counted::default(),
        }
    }

    /// Takes one token. After [`Flow::Stopped`] every further token is ignored and not counted.
    pub fn push(&mut self, bytes: &[u8], logprob: Option<TokenLogprob>) -> Flow {
        if self.stop.is_stopped() {
            return Flow::Stopped;
        }
        let was_reasoning = self.reasoning.is_inside();
        let text = self.utf8.push(bytes);
        self.route(&text);
        self.pending.tokens += 1;
        self.pending.logprobs.extend(logprob);
        if was_reasoning || self.reasoning.is_inside() {
            self.pending_reasoning_tokens += 1;
        }
        if self.stop.is_stopped() { Flow::Stopped } else { Flow::Continue }
    }

    /// What may be delivered now; `None` while all is held back.
    pub fn take(&mut self) -> Option<Delta> {
        if self.pending.text.is_empty() && self.pending.reasoning.is_empty() { None } else { Some(self.deliver()) }
    }

    /// The answer is over: what was held back is part of it (an unfinished character becomes U+FFFD). After a stop
    /// string nothing is held.
    pub fn finish(&mut self) -> Option<Delta> {
        if !self.stop.is_stopped() {
            let tail = self.utf8.finish();
            self.route(&tail);
            let (reasoning, answer) = self.reasoning.finish();
            self.pending.reasoning.push_str(&reasoning);
            self.pending.text.push_str(&self.stop.push(&answer));
            self.pending.text.push_str(&self.stop.finish());
        }
        let is_empty = self.pending.text.is_empty() && self.pending.reasoning.is_empty() && self.pending.tokens == 0;
        if is_empty { None } else { Some(self.deliver()) }
    }

    /// What the deltas so far account for.
    #[must_use]
    pub fn counted(&self) -> Counted {
        self.counted
    }

    fn route(&mut self, text: &str) {
        let (reasoning, answer) = self.reasoning.push(text);
        self.pending.reasoning.push_str(&reasoning);
        let visible = self.stop.push(&answer);
        self.pending.text.push_str(&visible);
    }

    fn deliver(&mut self) -> Delta {
        let delta = std::mem::take(&mut self.pending);
        self.counted.completion_tokens += delta.tokens;
        self.counted.reasoning_tokens += std::mem::take(&mut self.pending_reasoning_tokens);
        delta
    }
}
