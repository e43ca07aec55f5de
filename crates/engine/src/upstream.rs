//! The upstream backend: any OpenAI-compatible server (vLLM, SGLang, llama-server, Ollama), at one address or several.
//!
//! Each address is asked for its models now and then; a request goes to the healthy address with the least in flight.
//! Until its first token it may move to another address, afterwards it stands and falls with the one it has. Cancelling
//! closes the connection, which is how these servers are told to stop.
//!
//! # Counting
//! While an answer streams, a chunk counts as the tokens of its log-probabilities or of its running usage where it has
//! those, else as one. At the end the server's `usage` corrects the sum upwards, by a delta without text. It never
//! corrects downwards: what was reported stands, and since a chunk with text holds at least one token it was not too
//! much. No answer counts more than its `max_tokens`, whatever the server claims. An answer that is cut off counts what
//! was delivered.
//!
//! # Trust
//! The server is the operator's, but what it sends is bounded all the same: lines, answers, error bodies, model lists,
//! time. Redirects are not followed and the environment's proxies are not used: the configured addresses are meant.
//! Error texts of the server may quote the prompt, so they are neither logged nor shown.

mod answer;
mod call;
mod failure;
mod pool;
mod request;
mod sse;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use protocol::inference::{FinishReason, Usage};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{
    call::{Call, Interrupted},
    pool::Pool,
};
use crate::{
    Metrics,
    backend::{Backend, BackendError, GenerateRequest, Generation, GenerationEvent, Readiness},
    stream, trim,
};

/// A secret that never shows in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Wraps a key.
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(redacted)")
    }
}

/// Where the servers are and how far they are trusted.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamConfig {
    /// Base URLs, with or without `/v1`.
    pub addresses: Vec<String>,
    /// Sent as a bearer token.
    pub api_key: Option<ApiKey>,
    /// The one model to serve, by its name on the servers; `None` serves every model that they list.
    pub model: Option<String>,
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Longest time from sending a request to its first token.
    pub first_token_timeout: Duration,
    /// Longest time between two pieces of an answer.
    pub idle_timeout: Duration,
    /// Longest time of an answer.
    pub total_timeout: Duration,
    /// Time between two health checks.
    pub health_interval: Duration,
    /// Longest time of one health check.
    pub health_timeout: Duration,
    /// Most requests at once, over all addresses.
    pub in_flight_max: u32,
    /// Longest line of an answer in bytes.
    pub line_bytes_max: usize,
    /// Longest answer in bytes, its framing included.
    pub answer_bytes_max: usize,
}

impl UpstreamConfig {
    /// The defaults for some addresses.
    #[must_use]
    pub fn new(addresses: Vec<String>) -> Self {
        Self {
            addresses,
            api_key: None,
            model: None,
            connect_timeout: Duration::from_secs(5),
            first_token_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(30),
            total_timeout: Duration::from_secs(1800),
            health_interval: Duration::from_secs(5),
            health_timeout: Duration::from_secs(3),
            in_flight_max: 256,
            line_bytes_max: 1 << 20,
            answer_bytes_max: 64 << 20,
        }
    }
}

/// Why the backend cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// There is nowhere to go.
    #[error("no address of an upstream is configured")]
    NoAddress,
    /// An address is not an http or https URL.
    #[error("`{0}` is not an http:// or https:// URL")]
    Address(String),
    /// The key has characters that no header may have.
    #[error("the API key has characters that an HTTP header cannot carry")]
    ApiKey,
    /// The HTTP client cannot be built (certificates, resolver).
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// Times that a conversation is shortened before a request whose context is too large fails.
const TRIMS_MAX: u32 = 8;

/// The backend.
#[derive(Debug)]
pub struct Upstream {
    pool: Arc<Pool>,
    permits: Arc<Semaphore>,
    metrics: Metrics,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl Upstream {
    /// Starts the health checks and returns at once. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`UpstreamError`] when the configuration cannot be used.
    pub fn start(config: UpstreamConfig, metrics: Metrics) -> Result<Self, UpstreamError> {
        let permits = Arc::new(Semaphore::new((config.in_flight_max as usize).min(Semaphore::MAX_PERMITS)));
        let pool = Arc::new(Pool::new(config, metrics.clone())?);
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&pool).watch(stop.clone()));
        Ok(Self { pool, permits, metrics, _stop_on_drop: stop.clone().drop_guard(), stop })
    }
}

#[async_trait]
impl Backend for Upstream {
    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.pool.readiness()
    }

    async fn generate(&self, mut request: GenerateRequest) -> Result<Generation, BackendError> {
        if self.stop.is_cancelled() {
            return Err(BackendError::Unavailable("the engine is shutting down".into()));
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            self.metrics.refused.inc();
            return Err(BackendError::Overloaded { queue_max: self.pool.config().in_flight_max });
        };
        let (sender, receiver) = stream::channel(request.cancel.clone());
        let mut trimmed_messages = 0;
        let mut trims = 0;
        loop {
            let mut call = Call::new(Arc::clone(&self.pool), &request, self.stop.clone())?;
            let error = match call.open().await {
                Ok(opened) => {
                    sender.send(GenerationEvent::Started { prompt_tokens: 0, cached_tokens: 0, trimmed_messages });
                    let metrics = self.metrics.clone();
                    tokio::spawn(async move {
                        metrics.active.inc();
                        call.stream(opened, &sender, &metrics).await;
                        metrics.active.dec();
                        drop(permit);
                    });
                    return Ok(Generation::new(receiver));
                }
                Err(Interrupted::Failed(error)) => error,
                Err(Interrupted::Cancelled) => {
                    self.metrics.cancelled.inc();
                    let usage = Usage::default();
                    sender.send(GenerationEvent::Finished { reason: FinishReason::Cancelled, usage });
                    return Ok(Generation::new(receiver));
                }
            };
            let is_too_large = matches!(error, BackendError::ContextTooLarge { .. }) || failure::is_context(&error);
            if !is_too_large || trims == TRIMS_MAX {
                return Err(error);
            }
            // Nobody here can count this model's tokens: shorten by half of what may go, and ask again.
            let dropped = trim::drop_half(&mut request.inference.prompt);
            if dropped == 0 {
                return Err(error);
            }
            trimmed_messages += dropped;
            trims += 1;
        }
    }

    async fn shutdown(&self) {
        self.stop.cancel();
        self.pool.close();
    }
}
