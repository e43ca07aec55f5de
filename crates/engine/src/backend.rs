//! The contract between the pipeline and whatever produces tokens.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use protocol::{
    ApiError, ErrorCode, RequestId, TenantId,
    inference::{Delta, FinishReason, InferenceRequest, Usage},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::models::Stage;

/// Produces tokens. Implementations: [`crate::embedded`] (a supervised llama.cpp worker), [`crate::upstream`] (any
/// OpenAI-compatible server), [`crate::scripted`] (set tokens at a set pace).
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Whether it can answer now, and what it serves. Changes are seen by `/health/ready` and `/v1/models`.
    fn readiness(&self) -> watch::Receiver<Readiness>;

    /// Starts an answer. Returns once the request is accepted (submitted to the worker, or the upstream's headers are
    /// there); the events follow in the [`Generation`].
    ///
    /// # Errors
    /// [`BackendError`]; nothing was generated.
    async fn generate(&self, request: GenerateRequest) -> Result<Generation, BackendError>;

    /// Stops taking work and ends child processes and tasks. Live generations end with an error.
    async fn shutdown(&self);
}

/// Whether a backend can answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Readiness {
    /// The weights are made ready, before anything loads them.
    Preparing {
        /// What is done.
        stage: Stage,
        /// 0 to 1000; 0 where it is unknown.
        per_mille: u16,
    },
    /// Loading or connecting; per mille done where known.
    Starting {
        /// 0 to 1000.
        per_mille: u16,
    },
    /// It answers.
    Ready(Arc<ServedModels>),
    /// It does not answer and why, for the operator. It keeps trying.
    Failed(String),
}

/// The models that a ready backend serves; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedModels {
    /// The first is `default`.
    pub models: Vec<ServedModel>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedModel {
    /// Its name on the wire.
    pub name: String,
    /// Context of one request in tokens, where known.
    pub context_tokens: Option<u32>,
    /// `sha256:<hex>` of the weights, where the node has them.
    pub digest: Option<String>,
}

impl ServedModels {
    /// As [`ServedModels::find`], with the error that a client hears.
    ///
    /// # Errors
    /// `MODEL_NOT_FOUND` with the list of models.
    pub fn require(&self, name: &str) -> Result<&ServedModel, ApiError> {
        self.find(name).ok_or_else(|| {
            let names: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
            let message = format!("There is no such model here. Use `default`, or one of: {}.", names.join(", "));
            ApiError::new(ErrorCode::ModelNotFound, message).param("model").with("models", names)
        })
    }

    /// Finds a model by the name that a client sent; `default` is the first.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&ServedModel> {
        if name == "default" { self.models.first() } else { self.models.iter().find(|model| model.name == name) }
    }
}

/// A validated request with everything that the pipeline decided.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// For logs.
    pub request_id: RequestId,
    /// Who may share cached prefixes with it.
    pub tenant: TenantId,
    /// What to answer; `model` is a [`ServedModel::name`].
    pub inference: InferenceRequest,
    /// Most tokens to generate: the client's wish, clamped to the job's remaining budget and the node's limit.
    pub max_tokens: u32,
    /// When it must be over.
    pub deadline: Option<Duration>,
    /// Cancelling this stops the generation itself, within one step.
    pub cancel: CancellationToken,
}

/// A running answer. Dropping it cancels the generation.
///
/// Pending events are merged, so a slow consumer holds at most one answer's text in memory.
#[derive(Debug)]
pub struct Generation {
    receiver: crate::stream::Receiver,
}

/// What a generation reports: `Started` once, `Delta`s, then exactly one `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerationEvent {
    /// The prompt was accepted.
    Started {
        /// Prompt tokens, 0 where the backend tells only at the end.
        prompt_tokens: u32,
        /// Of those, cached.
        cached_tokens: u32,
        /// History messages that were dropped to make it fit.
        trimmed_messages: u32,
    },
    /// More of the answer.
    Delta(Delta),
    /// The end, with what was counted. `usage.completion_tokens` equals the sum of all deltas' `tokens`.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What was counted.
        usage: Usage,
    },
    /// The end, by a failure; tokens delivered before it stand.
    Failed(BackendError),
}

impl Generation {
    /// Wraps the consumer's end of a [`crate::stream::channel`].
    #[must_use]
    pub fn new(receiver: crate::stream::Receiver) -> Self {
        Self { receiver }
    }

    /// The next event; `None` after the last one. Cancel-safe.
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        self.receiver.next().await
    }
}

/// Why a backend did not answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BackendError {
    /// The model is not loaded, the worker is restarting too often, or no upstream answers. Worth a retry.
    #[error("model unavailable: {0}")]
    Unavailable(String),
    /// The prompt does not fit.
    #[error("the prompt has {prompt_tokens} tokens, the context {context_tokens}")]
    ContextTooLarge {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens that the context holds.
        context_tokens: u32,
    },
    /// The request cannot be answered as it is.
    #[error("invalid {param}: {message}")]
    Invalid {
        /// The field at fault.
        param: String,
        /// Safe to show.
        message: String,
    },
    /// The queue before the model is full.
    #[error("the queue of {queue_max} requests is full")]
    Overloaded {
        /// Its length.
        queue_max: u32,
    },
    /// The deadline passed.
    #[error("the deadline passed")]
    Timeout,
    /// The worker crashed twice while it worked on this very request. Not worth a retry: it would crash again.
    #[error("the worker crashed twice on this request")]
    Poisonous,
    /// A failure that is nobody's request: the detail is for the log.
    #[error("backend failure: {0}")]
    Internal(String),
}

impl From<BackendError> for ApiError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Unavailable(_) => {
                Self::new(ErrorCode::ModelUnavailable, "The model is not available right now. Retry in a few seconds.")
                    .retry_after(5)
            }
            BackendError::ContextTooLarge { prompt_tokens, context_tokens } => {
                Self::context_too_large(prompt_tokens, context_tokens)
            }
            BackendError::Invalid { param, message } => Self::invalid(param, message),
            BackendError::Overloaded { .. } => {
                Self::new(ErrorCode::RateLimit, "The node is at its limit of waiting requests. Retry in a moment.")
                    .retry_after(1)
            }
            BackendError::Timeout => Self::new(
                ErrorCode::Timeout,
                "The answer took longer than its deadline. Retry, or ask for fewer tokens.",
            ),
            BackendError::Poisonous => Self::new(
                ErrorCode::Internal,
                "The model's process crashed twice on this request. Do not send it again as it is; give the operator its id.",
            ),
            BackendError::Internal(_) => Self::new(
                ErrorCode::Internal,
                "The model backend failed. Retry; if it persists, give the operator this request's id.",
            ),
        }
    }
}
