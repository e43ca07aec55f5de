use std::time::Duration;

use engine_ipc::{ModelInfo, Submit, Token, WorkerId};
use protocol::{
    RequestId,
    inference::{FinishReason, TokenLogprob, Usage},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    assembler::{Assembler, Flow, ReasoningTags},
    backend::{BackendError, GenerationEvent},
    stream::Sender,
};

/// One live request: all that must survive a worker's death.
pub(super) struct Live {
    pub(super) request_id: RequestId,
    submit: Submit,
    stop: Vec<String>,
    sender: Sender,
    /// Fires when the client cancels or drops its stream.
    cancel: CancellationToken,
    /// Fires when the request is over, for whoever waits for its end.
    over: CancellationToken,
    deadline: Option<Instant>,
    /// Set once the prompt was accepted by any worker.
    started: Option<Started>,
    /// How far the present worker is with it.
    pub(super) stage: Stage,
    /// Whether any worker got it.
    was_submitted: bool,
    /// Since the last [`Live::flush`], tokens came.
    is_dirty: bool,
}

/// How far the present worker is with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It was not handed over.
    Held,
    /// Template, tokens, grammar.
    Preparing,
    /// It waits for a sequence.
    Queued,
    /// It has one.
    Running,
}

struct Started {
    assembler: Assembler,
    prompt_tokens: u32,
    cached_tokens: u32,
}

/// Why a request ends before its answer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    Cancelled,
    Deadline,
}

impl Live {
    pub(super) fn new(
        request_id: RequestId,
        submit: Submit,
        stop: Vec<String>,
        sender: Sender,
        cancel: CancellationToken,
        deadline: Option<Duration>,
    ) -> Self {
        Self {
            request_id,
            submit,
            stop,
            sender,
            over: CancellationToken::new(),
            cancel,
            // A deadline too far away to be represented is none.
            deadline: deadline.and_then(|deadline| Instant::now().checked_add(deadline)),
            started: None,
            stage: Stage::Held,
            was_submitted: false,
            is_dirty: false,
        }
    }

    pub(super) fn id(&self) -> WorkerId {
        self.submit.id
    }

    /// Hands it over: what a worker needs to go on from here, and whether another worker had it before.
    pub(super) fn hand_over(&mut self) -> (Submit, bool) {
        self.stage = Stage::Preparing;
        (self.submit.clone(), std::mem::replace(&mut self.was_submitted, true))
    }

    /// Resolves when the client or the deadline ends the request, with `None` when it is over by itself.
    pub(super) fn interrupted(&self) -> impl Future<Output = (WorkerId, Option<Interrupt>)> + Send + use<> {
        let (id, cancel, over, deadline) = (self.id(), self.cancel.clone(), self.over.clone(), self.deadline);
        async move {
            let deadline = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = over.cancelled() => (id, None),
                () = cancel.cancelled() => (id, Some(Interrupt::Cancelled)),
                () = deadline => (id, Some(Interrupt::Deadline)),
            }
        }
    }

    /// The worker gave it a sequence. Only the first admission is news for the client; returns whether it is.
    pub(super) fn admitted(
        &mut self,
        model: Option<&ModelInfo>,
        prompt_tokens: u32,
        cached_tokens: u32,
        trimmed_messages: u32,
        starts_inside: bool,
    ) -> bool {
        if self.started.is_some() {
            return false;
        }
        let tags = model.and_then(|model| model.reasoning_tags.clone());
        let tags = tags.map(|(open, close)| ReasoningTags { open, close, starts_inside });
        let assembler = Assembler::new(std::mem::take(&mut self.stop), tags);
        self.started = Some(Started { assembler, prompt_tokens, cached_tokens });
        self.sender.send(GenerationEvent::Started { prompt_tokens, cached_tokens, trimmed_messages });
        true
    }

    /// Takes a token; it is delivered by [`Live::flush`]. `None` when it came before the admission, which no worker does.
    pub(super) fn token(&mut self, token: Token, bytes: &[u8], logprob: Option<TokenLogprob>) -> Option<Flow> {
        let started = self.started.as_mut()?;
        self.submit.generated.push(token);
        self.is_dirty = true;
        Some(started.assembler.push(bytes, logprob))
    }

    /// Delivers what the step's tokens made visible.
    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.is_dirty)
            && let Some(delta) = self.started.as_mut().and_then(|started| started.assembler.take())
        {
            self.sender.send(GenerationEvent::Delta(delta));
        }
    }

    /// Whether all tokens are there and only the worker's word for it was lost.
    pub(super) fn is_complete(&self) -> bool {
        self.submit.generated.len() >= self.submit.max_tokens as usize
    }

    /// The answer is whole.
    pub(super) fn finish(mut self, reason: FinishReason) {
        if let Some(delta) = self.started.as_mut().and_then(|started| started.assembler.finish()) {
            self.sender.send(GenerationEvent::Delta(delta));
        }
        let usage = self.usage();
        self.end(GenerationEvent::Finished { reason, usage });
    }

    /// The client or the deadline ended it; what was held back stays undelivered and uncounted.
    pub(super) fn interrupt(self, interrupt: Interrupt) {
        let event = match interrupt {
            Interrupt::Cancelled => GenerationEvent::Finished { reason: FinishReason::Cancelled, usage: self.usage() },
            Interrupt::Deadline => GenerationEvent::Failed(BackendError::Timeout),
        };
        self.end(event);
    }

    /// It failed; tokens delivered before stand.
    pub(super) fn fail(self, error: BackendError) {
        self.end(GenerationEvent::Failed(error));
    }

    fn end(self, event: GenerationEvent) {
        self.sender.send(event);
        self.over.cancel();
    }

    fn usage(&self) -> Usage {
        let Some(started) = &self.started else { return Usage::default() };
        let counted = started.assembler.counted();
        Usage {
            prompt_tokens: started.prompt_tokens,
            cached_tokens: started.cached_tokens,
            completion_tokens: counted.completion_tokens,
            reasoning_tokens: counted.reasoning_tokens,
        }
    }
}
