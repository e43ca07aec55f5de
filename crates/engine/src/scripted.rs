//! The scripted backend: deterministic tokens at a set pace, for tests and benchmarks of everything but the model.
//!
//! Select it with `engine.kind = "scripted"`. A token is one word with the space before it; prompt tokens are the
//! prompt's words. Nothing is computed, so one process carries many thousands of streams: a stream is a task that sleeps
//! between tokens.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use protocol::inference::{FinishReason, Prompt, TokenLogprob, Usage};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Metrics,
    assembler::{Assembler, Flow},
    backend::{
        Backend, BackendError, GenerateRequest, Generation, GenerationEvent, Readiness, ServedModel, ServedModels,
    },
    stream, trim,
};

#[cfg(test)]
mod tests;

/// Longest pause; a longer one is cut to it, so that no due time overflows.
pub const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What is said, and how fast.
#[derive(Debug, Clone, PartialEq)]
pub struct ScriptedConfig {
    /// The model's name on the wire.
    pub model: String,
    /// Words that prompt and answer may have together.
    pub context_tokens: u32,
    /// Time before the first token, at most [`PAUSE_MAX`].
    pub first_token_delay: Duration,
    /// Time between tokens, at most [`PAUSE_MAX`]; zero is as fast as possible.
    pub token_interval: Duration,
    /// What is said.
    pub text: ScriptedText,
    /// Most streams at once.
    pub in_flight_max: u32,
}

impl Default for ScriptedConfig {
    fn default() -> Self {
        Self {
            model: "scripted".into(),
            context_tokens: 4096,
            first_token_delay: Duration::ZERO,
            token_interval: Duration::from_millis(20),
            text: ScriptedText::Numbered,
            in_flight_max: 100_000,
        }
    }
}

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScriptedText {
    /// `w0 w1 w2 …` up to the limit.
    Numbered,
    /// The words of the last message (of the text), then the end of the turn.
    Echo,
}

/// The backend.
#[derive(Debug)]
pub struct Scripted {
    config: Arc<ScriptedConfig>,
    metrics: Metrics,
    permits: Arc<Semaphore>,
    readiness: watch::Sender<Readiness>,
    stop: CancellationToken,
}

impl Scripted {
    /// A backend that is ready at once.
    #[must_use]
    pub fn start(config: ScriptedConfig, metrics: Metrics) -> Self {
        let model =
            ServedModel { name: config.model.clone(), context_tokens: Some(config.context_tokens), digest: None };
        metrics.ready.set(1);
        Self {
            permits: Arc::new(Semaphore::new((config.in_flight_max as usize).min(Semaphore::MAX_PERMITS))),
            readiness: watch::Sender::new(Readiness::Ready(Arc::new(ServedModels { models: vec![model] }))),
            config: Arc::new(config),
            metrics,
            stop: CancellationToken::new(),
        }
    }
}

#[async_trait]
impl Backend for Scripted {
    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    async fn generate(&self, mut request: GenerateRequest) -> Result<Generation, BackendError> {
        if self.stop.is_cancelled() {
            return Err(BackendError::Unavailable("the engine is shutting down".into()));
        }
        let context_tokens = self.config.context_tokens;
        let mut trimmed_messages = 0;
        let mut prompt_tokens = count(&request.inference.prompt);
        while prompt_tokens >= context_tokens {
            let dropped = trim::drop_oldest(&mut request.inference.prompt);
            if dropped == 0 {
                return Err(BackendError::ContextTooLarge { prompt_tokens, context_tokens });
            }
            trimmed_messages += dropped;
            prompt_tokens = count(&request.inference.prompt);
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            self.metrics.refused.inc();
            return Err(BackendError::Overloaded { queue_max: self.config.in_flight_max });
        };
        self.metrics.prompt.inc_by(prompt_tokens.into());
        let (sender, receiver) = stream::channel(request.cancel.clone());
        sender.send(GenerationEvent::Started { prompt_tokens, cached_tokens: 0, trimmed_messages });
        let inference = request.inference;
        let script = Script {
            words: match self.config.text {
                ScriptedText::Numbered => None,
                ScriptedText::Echo => Some(last_words(&inference.prompt)),
            },
            config: Arc::clone(&self.config),
            assembler: Assembler::new(inference.stop, None),
            max_tokens: request.max_tokens.min(context_tokens - prompt_tokens),
            has_logprobs: inference.logprobs.is_some(),
            prompt_tokens,
            deadline: request.deadline.and_then(|deadline| Instant::now().checked_add(deadline)),
            cancel: request.cancel,
            stop: self.stop.clone(),
            metrics: self.metrics.clone(),
            sender,
            _permit: permit,
        };
        tokio::spawn(script.play());
        Ok(Generation::new(receiver))
    }

    async fn shutdown(&self) {
        self.stop.cancel();
        self.metrics.ready.set(0);
        self.readiness.send_replace(Readiness::Failed("the engine is shutting down".into()));
    }
}

/// One answer.
struct Script {
    config: Arc<ScriptedConfig>,
    /// `None` is the numbered words.
    words: Option<Vec<String>>,
    assembler: Assembler,
    max_tokens: u32,
    has_logprobs: bool,
    prompt_tokens: u32,
    deadline: Option<Instant>,
    cancel: CancellationToken,
    stop: CancellationToken,
    metrics: Metrics,
    sender: stream::Sender,
    _permit: OwnedSemaphorePermit,
}

impl Script {
    async fn play(mut self) {
        self.metrics.active.inc();
        let end = self.say_all().await;
        self.metrics.active.dec();
        let end = end.unwrap_or_else(|reason| {
            if reason == FinishReason::Cancelled {
                self.metrics.cancelled.inc();
            } else if let Some(delta) = self.assembler.finish() {
                self.sender.send(GenerationEvent::Delta(delta));
            }
            let counted = self.assembler.counted();
            let usage = Usage {
                prompt_tokens: self.prompt_tokens,
                completion_tokens: counted.completion_tokens,
                ..Usage::default()
            };
            GenerationEvent::Finished { reason, usage }
        });
        self.sender.send(end);
    }

    /// Says every token; `Err` is the regular end, `Ok` a failure. (An endless loop reads best by its exits.)
    async fn say_all(&mut self) -> Result<GenerationEvent, FinishReason> {
        // Due times are absolute, so that the pace is exact however late a task wakes.
        let mut due = Instant::now() + self.config.first_token_delay.min(PAUSE_MAX);
        for index in 0..self.max_tokens {
            if due > Instant::now() {
                let (cancel, stop, deadline) = (&self.cancel, &self.stop, self.deadline);
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => {}
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep_until(deadline.map_or(due, |deadline| deadline.min(due))) => {}
                }
            } else {
                tokio::task::yield_now().await;
            }
            if self.cancel.is_cancelled() {
                return Err(FinishReason::Cancelled);
            }
            if self.stop.is_cancelled() {
                return Ok(GenerationEvent::Failed(BackendError::Unavailable("the engine is shutting down".into())));
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.metrics.timed_out.inc();
                return Ok(GenerationEvent::Failed(BackendError::Timeout));
            }
            let Some(token) = self.token(index) else { return Err(FinishReason::Stop) };
            self.metrics.generated.inc();
            let logprob =
                self.has_logprobs.then(|| TokenLogprob { bytes: token.clone().into(), logprob: 0.0, top: Vec::new() });
            if self.assembler.push(token.as_bytes(), logprob) == Flow::Stopped {
                return Err(FinishReason::Stop);
            }
            if let Some(delta) = self.assembler.take() {
                self.sender.send(GenerationEvent::Delta(delta));
            }
            due += self.config.token_interval.min(PAUSE_MAX);
        }
        // An echo that used its last token exactly is whole.
        Err(if self.words.is_some() && self.token(self.max_tokens).is_none() {
            FinishReason::Stop
        } else {
            FinishReason::Length
        })
    }

    fn token(&self, index: u32) -> Option<String> {
        let space = if index == 0 { "" } else { " " };
        match &self.words {
            None => Some(format!("{space}w{index}")),
            Some(words) => words.get(index as usize).map(|word| format!("{space}{word}")),
        }
    }
}

fn count(prompt: &Prompt) -> u32 {
    let words = |text: &str| text.split_whitespace().count();
    let all = match prompt {
        Prompt::Text(text) => words(text),
        Prompt::Chat { messages, .. } => messages.iter().map(|message| words(&message.content)).sum(),
    };
    u32::try_from(all).unwrap_or(u32::MAX)
}

fn last_words(prompt: &Prompt) -> Vec<String> {
    let text = match prompt {
        Prompt::Text(text) => text.as_str(),
        Prompt::Chat { messages, .. } => messages.last().map_or("", |message| message.content.as_str()),
    };
    text.split_whitespace().map(str::to_owned).collect()
}
