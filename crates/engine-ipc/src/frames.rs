use std::path::PathBuf;

use protocol::{
    TenantId,
    inference::{FinishReason, Prompt, ResponseFormat, Sampling, TokenLogprob},
};
use serde::{Deserialize, Serialize};

/// A token id in the model's vocabulary.
pub type Token = i32;

/// Names one submitted request for the life of a worker; never reused by the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkerId(pub u64);

/// What the worker is to load, and how large it may be. Sent once, first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// The GGUF file (for a sharded model its first shard; the others stand beside it).
    pub model: PathBuf,
    /// Sequences decoded side by side.
    pub sequences: u32,
    /// Context of each sequence in tokens; 0 takes the model's own training context.
    pub context_tokens: u32,
    /// Most tokens in one batch (`n_batch`): the prompt chunk beside the decoding sequences.
    pub batch_tokens: u32,
    /// Requests waiting for a sequence; one more is refused.
    pub queue_max: u32,
    /// Compute threads.
    pub threads: u32,
    /// Keep prefixes of finished requests for reuse within their tenant.
    pub prefix_cache: bool,
    /// GPU offload.
    pub gpu: GpuConfig,
    /// Replaces the model's own chat template (Jinja source).
    pub chat_template: Option<String>,
    /// Memory that the worker may take, in bytes: what is available on this machine and in its cgroup when it starts.
    /// `None` where that is not known.
    pub memory_bytes: Option<u64>,
}

/// GPU offload; ignored by a build without a GPU feature.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GpuConfig {
    /// Layers to offload; 0 is none, `u32::MAX` is all.
    pub layers: u32,
    /// The device that holds small tensors and scratch.
    pub main_device: i32,
}

/// Engine to worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// First frame: load this.
    Configure(Box<WorkerConfig>),
    /// Answer this.
    Submit(Box<Submit>),
    /// Stop generating and free the sequence within one step. Unknown ids are ignored (it may just have ended).
    Cancel(WorkerId),
    /// Answer with [`FromWorker::Pong`]; proves that the step loop turns.
    Ping(u64),
    /// Exit now.
    Shutdown,
}

/// One request for tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submit {
    /// Its name in later frames.
    pub id: WorkerId,
    /// Who may share cached prefixes with it.
    pub tenant: TenantId,
    /// What to continue.
    pub prompt: Prompt,
    /// Tokens generated before a worker died; they are context, count against `max_tokens`, and are not sent again.
    pub generated: Vec<Token>,
    /// Most tokens to generate, those in `generated` included.
    pub max_tokens: u32,
    /// How to choose.
    pub sampling: Sampling,
    /// Seed drawn by the engine when the client gave none, so that a resumed request samples alike.
    pub seed: u64,
    /// Grammar to enforce.
    pub response_format: ResponseFormat,
    /// Report log-probabilities with this many alternatives.
    pub logprobs: Option<u8>,
}

/// Worker to engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// Loading progress in per mille, for progress bars.
    Loading {
        /// 0 to 1000.
        per_mille: u16,
    },
    /// The model is loaded; submissions are taken.
    Ready(Box<ModelInfo>),
    /// The model cannot be loaded; the worker exits after this.
    LoadFailed {
        /// What is wrong and what to do, for the operator.
        reason: String,
    },
    /// All that one step produced, in one frame.
    Step {
        /// Events of every sequence that has one.
        events: Vec<SequenceEvent>,
        /// The scheduler's state after the step.
        stats: StepStats,
    },
    /// Answer to [`ToWorker::Ping`].
    Pong(u64),
}

/// One request's event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SequenceEvent {
    /// Whose.
    pub id: WorkerId,
    /// What.
    pub event: Event,
}

/// What happened to a request. The order is: `Prepared`, `Admitted`, then `Token`s, then one `Finished`; or one `Refused`
/// at any point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// Its template, tokens and grammar are done: it waits for a sequence. If the worker dies now, it is not the reason.
    Prepared,
    /// It has a sequence; its prompt is about to be computed.
    Admitted {
        /// Tokens of the rendered prompt, `Submit::generated` not counted.
        prompt_tokens: u32,
        /// Of those, already in the prefix cache.
        cached_tokens: u32,
        /// Messages dropped from the oldest to make it fit.
        trimmed_messages: u32,
        /// The rendered prompt ends inside a reasoning part (the template itself opened `<think>`).
        starts_in_reasoning: bool,
    },
    /// One generated token.
    Token {
        /// Its id.
        token: Token,
        /// The bytes it stands for; may be part of a character, or empty for a control token.
        bytes: Vec<u8>,
        /// Where asked for.
        logprob: Option<Box<TokenLogprob>>,
    },
    /// The model ended its turn or a limit was reached. Not sent for a cancelled request.
    Finished(FinishReason),
    /// It cannot be answered.
    Refused(Refusal),
}

/// Why the worker refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The prompt does not fit.
    ContextTooLarge {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens that the context holds.
        context_tokens: u32,
    },
    /// The client's schema, template input or sampling cannot be used.
    Invalid {
        /// The field at fault.
        param: String,
        /// A sentence that is safe to show.
        message: String,
    },
    /// The queue is full.
    QueueFull {
        /// Its length.
        queue_max: u32,
    },
    /// Something failed that is not the client's fault.
    Internal {
        /// For the log.
        detail: String,
    },
}

/// What is known of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// `general.name` of the GGUF, or the file's stem.
    pub name: String,
    /// `general.architecture`.
    pub architecture: String,
    /// Parameters.
    pub parameters: u64,
    /// Tensor bytes.
    pub size_bytes: u64,
    /// Context of each sequence in tokens.
    pub context_tokens: u32,
    /// Context in training.
    pub trained_context_tokens: u32,
    /// Vocabulary size.
    pub vocabulary: u32,
    /// Sequences side by side.
    pub sequences: u32,
    /// The tags that the template puts around reasoning, if it does (`<think>`, `</think>`).
    pub reasoning_tags: Option<(String, String)>,
    /// Whether the model has a chat template.
    pub has_chat_template: bool,
    /// CPU features and GPU devices in use, for the log.
    pub system: String,
}

/// The scheduler after a step; gauges on `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct StepStats {
    /// Sequences decoding or prefilling.
    pub active: u32,
    /// Requests waiting for a sequence.
    pub queued: u32,
    /// KV cells in use by active sequences and cached prefixes.
    pub kv_used_tokens: u32,
    /// KV cells in all.
    pub kv_capacity_tokens: u32,
    /// Tokens in this step's batch that continued a sequence.
    pub decode_tokens: u32,
    /// Tokens in this step's batch that were prompt.
    pub prefill_tokens: u32,
    /// Time of this step in microseconds.
    pub step_us: u32,
    /// Of that, inside `llama_decode`.
    pub decode_us: u32,
    /// Prompt tokens taken from the prefix cache, since start.
    pub cache_hit_tokens_total: u64,
    /// Cached prefixes dropped to make room, since start.
    pub cache_evictions_total: u64,
}
