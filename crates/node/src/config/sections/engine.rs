use std::{path::PathBuf, time::Duration};

use crate::config::{
    schema::section,
    value::{HttpUrl, Secret, Sha256, choice},
};

choice! {
    /// What produces the tokens.
    EngineKind {
        /// llama.cpp in a supervised child process.
        Embedded = "embedded",
        /// OpenAI-compatible servers.
        Upstream = "upstream",
        /// Set tokens at a set pace, for tests and benchmarks.
        Scripted = "scripted",
    }
}

choice! {
    /// Conversion of weights to a format with fast CPU kernels.
    Repack {
        /// Never.
        Off = "off",
        /// Only where it hardly changes the model.
        Lossless = "lossless",
        /// To the fastest format.
        Fast = "fast",
    }
}

choice! {
    /// What the scripted backend says.
    ScriptedText {
        /// `w0 w1 w2 …` up to the limit.
        Numbered = "numbered",
        /// The last message's words.
        Echo = "echo",
    }
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

section! {
    /// What produces the tokens.
    Engine as "engine" {
        /// `embedded`: llama.cpp in a supervised child process. `upstream`: OpenAI-compatible servers (vLLM, SGLang,
        /// llama-server, Ollama). `scripted`: set words at a set pace, for tests and benchmarks.
        restart kind: EngineKind = EngineKind::Embedded;
        /// The model: a path to a .gguf file (any shard stands for all), or `hf:owner/repo:file.gguf`, which is
        /// downloaded once to `<data dir>/models/` (the hub's own `HF_ENDPOINT` and `HF_TOKEN` are heeded, for a mirror
        /// and for models that want a login). Without one, the only .gguf file in that directory is taken.
        restart model: Option<String> = None;
        /// Digest that the weights must have; others are not loaded.
        restart model_sha256: Option<Sha256> = None;
        /// The model's name on the wire; without one, that in the weights (`embedded`). `default` always works.
        restart model_name: Option<String> = None;
        /// Answers that are generated side by side.
        restart sequences: u32 = 16, 1..=256;
        /// Context of each of them in tokens; 0 takes what the model was trained with.
        restart context_tokens: u32 = 0, 0..=4_194_304;
        /// Most tokens in one step: the running answers' and a chunk of a new prompt. Larger is faster on long
        /// prompts, smaller keeps running answers smoother.
        restart batch_tokens: u32 = 512, 32..=16_384;
        /// Compute threads; 0 takes what the cgroup's CPU quota allows.
        restart threads: u32 = 0, 0..=1024;
        /// Requests that wait for one of the `sequences`; one more is refused with RATE_LIMIT.
        restart queue_max: u32 = 256, 1..=100_000;
        /// Whether the computed prefix of a conversation is kept for its next turn. It is never shared between subjects.
        restart prefix_cache: bool = true;
        /// Whether weights in a format without fast CPU kernels are converted at the first load (the result is kept in
        /// `<data dir>/models/`): `off`, `lossless` or `fast`. ADR 0004 says what is known of speed and error.
        restart repack: Repack = Repack::Lossless;
        /// Layers that are offloaded to a GPU; more than the model has is all of them. Needs a build with a GPU
        /// feature (`cuda`, `vulkan` or `metal`).
        restart gpu_layers: u32 = 0;
        /// The GPU that holds small tensors and scratch.
        restart gpu_main_device: u32 = 0, 0..=64;
        /// File with a Jinja chat template that replaces the model's own.
        restart chat_template_file: Option<PathBuf> = None;
        /// A worker that is silent for so long hangs: it is killed and replaced, and its requests go on.
        restart worker_silence_max: Duration = secs(30), secs(1)..=secs(3600);
        /// A loading worker that makes no progress for so long hangs.
        restart worker_load_silence_max: Duration = secs(300), secs(1)..=secs(7200);
        /// Longest time that requests wait for a replaced worker before they fail with MODEL_UNAVAILABLE.
        restart worker_restart_wait_max: Duration = secs(60), secs(1)..=secs(3600);
        /// `upstream`: base addresses, for example `http://host:8000/v1`.
        restart upstream_urls: Vec<HttpUrl> = Vec::new();
        /// `upstream`: API key that they want.
        restart upstream_api_key: Option<Secret> = None;
        /// `upstream`: the one model to serve, by its name there; without one, every model that they list.
        restart upstream_model: Option<String> = None;
        /// `upstream`: longest time to connect.
        restart upstream_connect_timeout: Duration = secs(5), Duration::from_millis(10)..=secs(300);
        /// `upstream`: longest time from sending a request to its first token.
        restart upstream_first_token_timeout: Duration = secs(120), Duration::from_millis(10)..=secs(3600);
        /// `upstream`: longest time between two pieces of an answer.
        restart upstream_idle_timeout: Duration = secs(30), Duration::from_millis(10)..=secs(3600);
        /// `upstream`: time between two health checks of an address.
        restart upstream_health_interval: Duration = secs(5), Duration::from_millis(100)..=secs(3600);
        /// `upstream`: most requests at once, over all addresses.
        restart upstream_in_flight_max: u32 = 256, 1..=1_000_000;
        /// `scripted`: words per second; 0 is as fast as possible.
        restart scripted_tokens_per_second: f64 = 50.0, 0.0..=1_000_000.0;
        /// `scripted`: time before the first word.
        restart scripted_first_token_delay: Duration = Duration::ZERO, Duration::ZERO..=secs(3600);
        /// `scripted`: most answers at once; one more is refused with RATE_LIMIT.
        restart scripted_in_flight_max: u32 = 100_000, 1..=1_000_000;
        /// `scripted`: `numbered` says `w0 w1 w2 …` up to the limit, `echo` the last message's words.
        restart scripted_text: ScriptedText = ScriptedText::Numbered;
    }
}
