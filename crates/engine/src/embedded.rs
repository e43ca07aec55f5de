//! The embedded backend: a supervised llama.cpp worker process.
//!
//! ```text
//!  generate() ─▶ commands ─▶ Supervisor ─▶ Link ══ socketpair ══ worker process
//!                             │ live requests, every token so far
//!  Generation ◀─ stream ◀─────┘
//! ```
//!
//! One task, the supervisor, owns every live request: what was asked, each token id that came back, the text
//! assembler and the consumer's stream. Because all of it survives a worker's death, the next worker gets
//! `prompt + tokens so far` and the stream goes on: no token is lost, repeated or counted twice.
//!
//! # When the worker dies
//! A worker is dead when its socket closes, when it sends what is no frame, or when it is silent for too long although
//! it is pinged (hung; it is then killed). The next one starts after a jittered, bounded, doubling delay. Meanwhile:
//!
//! - Requests that are live wait, and new ones join them, for at most [`EmbeddedConfig::restart_wait_max`].
//! - [`EmbeddedConfig::failures_max`] deaths within [`EmbeddedConfig::failure_window`], a model that does not load, or a
//!   wait beyond the limit fail all of them with [`BackendError::Unavailable`]; new ones are refused alike and readiness
//!   says why, until a worker is ready again. It is tried for ever.
//! - A request that crashes workers is failed at its second crash, with [`BackendError::Poisonous`], and nobody else: see
//!   `suspects`. Such a crash does not count among the `failures_max`.
//!
//! Before the first load is over, requests are refused: nobody knows yet whether the model loads.

mod failures;
mod launch;
mod link;
mod live;
mod supervisor;
mod suspects;

#[cfg(test)]
mod tests;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use engine_ipc::{Submit, WorkerConfig, WorkerId};
use protocol::inference::Prompt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::launch::WorkerCommand;
use self::{
    launch::{Launch, Launcher},
    live::Live,
    supervisor::Supervisor,
};
use crate::{
    Metrics,
    backend::{Backend, BackendError, GenerateRequest, Generation, Readiness},
    stream,
};

/// How the worker is run and watched.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// How to start the worker.
    pub command: WorkerCommand,
    /// What the worker loads. Its `queue_max` is how many requests may wait for a sequence.
    pub worker: WorkerConfig,
    /// The model's name on the wire; `None` takes the one in the weights.
    pub model_name: Option<String>,
    /// `sha256:<hex>` of the weights.
    pub model_digest: Option<String>,
    /// How often a ready worker is pinged.
    pub ping_interval: Duration,
    /// A ready worker that sends nothing for so long is hung. Longer than the slowest step.
    pub silence_max: Duration,
    /// A loading worker that reports no progress for so long is hung.
    pub load_silence_max: Duration,
    /// Delay before the first restart; doubles with each further death.
    pub backoff_base: Duration,
    /// Longest delay before a restart.
    pub backoff_max: Duration,
    /// So many deaths within `failure_window` fail requests in place of letting them wait.
    pub failures_max: usize,
    /// See `failures_max`. A worker that was ready for as long has also earned the shortest backoff again.
    pub failure_window: Duration,
    /// Longest time that requests wait for the next worker.
    pub restart_wait_max: Duration,
    /// How long a worker may take to exit when asked.
    pub shutdown_grace: Duration,
}

impl EmbeddedConfig {
    /// The defaults around a worker's configuration.
    #[must_use]
    pub fn new(command: WorkerCommand, worker: WorkerConfig) -> Self {
        Self {
            command,
            worker,
            model_name: None,
            model_digest: None,
            ping_interval: Duration::from_secs(2),
            silence_max: Duration::from_secs(30),
            load_silence_max: Duration::from_secs(300),
            backoff_base: Duration::from_millis(50),
            backoff_max: Duration::from_secs(30),
            failures_max: 3,
            failure_window: Duration::from_secs(60),
            restart_wait_max: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(2),
        }
    }

    /// Most live requests: those with a sequence and those that wait for one.
    #[must_use]
    pub fn live_max(&self) -> usize {
        (self.worker.sequences as usize).saturating_add(self.worker.queue_max as usize)
    }
}

/// A request on its way to the supervisor.
struct Command {
    live: Box<Live>,
    accepted: oneshot::Sender<Result<(), BackendError>>,
}

/// The handle on the supervisor. Dropping it stops the worker; [`Backend::shutdown`] also waits until it is gone.
#[derive(Debug)]
pub struct Embedded {
    commands: mpsc::Sender<Command>,
    readiness: watch::Receiver<Readiness>,
    ids: AtomicU64,
    stop: CancellationToken,
    stopped: CancellationToken,
    _stop_on_drop: DropGuard,
}

/// Requests between `generate` and the supervisor; each waits for its answer, so this is no limit on live requests.
const COMMANDS_MAX: usize = 64;

/// Largest prompt in bytes: with everything around it, it fits a frame.
pub const PROMPT_BYTES_MAX: usize = engine_ipc::FRAME_BYTES_MAX / 2;

fn prompt_bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Chat { messages, .. } => messages.iter().map(|message| message.content.len()).sum(),
    }
}

impl Embedded {
    /// Starts the supervisor, which starts the worker, and returns at once. Readiness tells how loading goes; a model
    /// that cannot be loaded shows as [`Readiness::Failed`] with the reason.
    ///
    /// Must be called within a Tokio runtime.
    #[must_use]
    pub fn start(config: EmbeddedConfig, metrics: Metrics) -> Self {
        let launcher = Launcher::new(config.command.clone());
        Self::start_with(launcher, config, metrics)
    }

    fn start_with(launch: impl Launch, config: EmbeddedConfig, metrics: Metrics) -> Self {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (readiness_sender, readiness) = watch::channel(Readiness::Starting { per_mille: 0 });
        let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
        let supervisor = Supervisor::new(config, metrics, Box::new(launch), receiver, readiness_sender, stop.clone());
        let on_end = stopped.clone().drop_guard();
        tokio::spawn(async move {
            supervisor.run().await;
            drop(on_end);
        });
        Self { commands, readiness, ids: AtomicU64::new(1), stopped, _stop_on_drop: stop.clone().drop_guard(), stop }
    }
}

#[async_trait]
impl Backend for Embedded {
    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.clone()
    }

    async fn generate(&self, request: GenerateRequest) -> Result<Generation, BackendError> {
        let gone = || BackendError::Unavailable("the engine is shutting down".into());
        let id = WorkerId(self.ids.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = stream::channel(request.cancel.clone());
        let inference = request.inference;
        if prompt_bytes(&inference.prompt) > PROMPT_BYTES_MAX {
            let message = format!("The prompt must have at most {PROMPT_BYTES_MAX} bytes.");
            return Err(BackendError::Invalid { param: "messages".into(), message });
        }
        let seed = inference.sampling.seed.unwrap_or_else(rand::random);
        let submit = Submit {
            id,
            tenant: request.tenant,
            prompt: inference.prompt,
            generated: Vec::new(),
            max_tokens: request.max_tokens,
            sampling: inference.sampling,
            seed,
            response_format: inference.response_format,
            logprobs: inference.logprobs,
        };
        let live =
            Box::new(Live::new(request.request_id, submit, inference.stop, sender, request.cancel, request.deadline));
        let (accepted, answer) = oneshot::channel();
        self.commands.send(Command { live, accepted }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())??;
        Ok(Generation::new(receiver))
    }

    async fn shutdown(&self) {
        self.stop.cancel();
        self.stopped.cancelled().await;
    }
}
