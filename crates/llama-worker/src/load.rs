//! Loading: model, context and what is known of them.

use std::{num::NonZeroU32, sync::OnceLock, thread};

use engine_ipc::{ModelInfo, WorkerConfig};
use llama_cpp_2::{
    context::{LlamaContext, params::LlamaContextParams},
    llama_backend::LlamaBackend,
    model::{LlamaModel, params::LlamaModelParams},
    token_type::LlamaTokenAttr,
};

use crate::{
    ffi, gguf,
    template::{self, ChatTemplate, TemplateSpecials},
};

/// Memory for the KV cache when the context's size is left to the node.
const KV_BYTES_AUTO_MAX: u64 = 1 << 30;
/// Whether layers can be offloaded at all.
const HAS_GPU: bool = cfg!(any(feature = "cuda", feature = "metal", feature = "vulkan"));
/// Bytes of one number in the cache (llama.cpp's default type).
const F16_BYTES: u64 = 2;
/// Smallest context that is chosen so.
const CONTEXT_AUTO_MIN: u32 = 512;
/// The template of models that have none: most of them were trained on something like it.
const FALLBACK_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// llama.cpp's process-wide state. It can be set up once and is never torn down.
pub(crate) fn init_backend() -> &'static LlamaBackend {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    BACKEND.get_or_init(|| {
        ffi::capture_logs();
        LlamaBackend::init().expect("nothing else in the process initialises it")
    })
}

/// A loaded model.
pub(crate) struct Loaded {
    pub(crate) model: LlamaModel,
    pub(crate) template: ChatTemplate,
    pub(crate) has_chat_template: bool,
    /// Context of each sequence.
    pub(crate) context_tokens: u32,
    /// What the texts of control tokens begin with: text without any of these cannot hold one.
    pub(crate) control_starts: Vec<char>,
}

/// Loads the weights. `progress` is called with 0 to 1, and ends the loading by false.
///
/// # Errors
/// What is wrong and what to do, for the operator.
pub(crate) fn load(config: &WorkerConfig, progress: impl FnMut(f32) -> bool + 'static) -> Result<Loaded, String> {
    let path = &config.model;
    if !path.is_file() {
        return Err(format!(
            "the model file {} does not exist; correct the path or put the file there",
            path.display()
        ));
    }
    gguf::read(path).map_err(|error| error.to_string())?;
    if path.to_str().is_none_or(|path| path.contains('\0')) {
        return Err(format!("{}: llama.cpp needs a path in UTF-8; rename the file", path.display()));
    }
    let params = LlamaModelParams::default()
        .with_n_gpu_layers(config.gpu.layers)
        .with_main_gpu(config.gpu.main_device)
        .with_progress_callback(progress);
    let model = LlamaModel::load_from_file(init_backend(), path, &params)
        .map_err(|error| format!("{} cannot be loaded: {}", path.display(), explain(&error.to_string())))?;
    let own = model.meta_val_str("tokenizer.chat_template").ok();
    let source = config.chat_template.clone().or(own);
    let has_chat_template = source.is_some();
    if !has_chat_template {
        tracing::warn!("the model has no chat template; ChatML is used. Set engine.chat_template_file to replace it");
    }
    let specials = TemplateSpecials {
        bos_token: token_text(&model, model.vocab().bos()),
        eos_token: token_text(&model, model.vocab().eos()),
    };
    let template = compile(source.as_deref().unwrap_or(FALLBACK_TEMPLATE), specials)?;
    let context_tokens = context_tokens(&model, config);
    let control_starts = control_starts(&model);
    Ok(Loaded { model, template, has_chat_template, context_tokens, control_starts })
}

/// On a stack of its own: a template may nest deeper than the caller's has room for.
fn compile(source: &str, specials: TemplateSpecials) -> Result<ChatTemplate, String> {
    let thread = thread::Builder::new().name("template".into()).stack_size(template::STACK_BYTES);
    thread::scope(|scope| {
        let compiling = thread
            .spawn_scoped(scope, || ChatTemplate::new(source, specials))
            .map_err(|error| format!("no thread for the chat template can be started: {error}"))?;
        compiling.join().map_err(|_| "the chat template could not be compiled".to_owned())?.map_err(|e| e.to_string())
    })
}

/// The tokens that text becomes only where special tokens are parsed (llama.cpp's `tokenizer_st_partition`).
fn control_starts(model: &LlamaModel) -> Vec<char> {
    let vocab = model.vocab();
    let controls = vocab.tokens().filter(|token| {
        let attributes = vocab.attr(*token);
        attributes.contains(LlamaTokenAttr::Control) || attributes.contains(LlamaTokenAttr::Unknown)
    });
    let mut starts: Vec<char> = controls.filter_map(|token| token_text(model, token).chars().next()).collect();
    starts.sort_unstable();
    starts.dedup();
    starts
}

fn explain(error: &str) -> String {
    let llama = ffi::take_errors();
    if llama.is_empty() { error.to_owned() } else { llama }
}

fn token_text(model: &LlamaModel, token: llama_cpp_2::token::LlamaToken) -> String {
    if token.0 < 0 {
        return String::new();
    }
    model.vocab().text(token).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The configured context, or as much of the trained one as fits [`KV_BYTES_AUTO_MAX`] for all sequences. Each sequence
/// has cells of its own: attention then costs what the sequence itself has, not what all have together.
fn context_tokens(model: &LlamaModel, config: &WorkerConfig) -> u32 {
    let trained = model.n_ctx_train().max(1);
    if config.context_tokens > 0 {
        if config.context_tokens > trained {
            tracing::warn!(
                context_tokens = config.context_tokens,
                trained,
                "the context is longer than the model was trained with; answers may degrade"
            );
        }
        return config.context_tokens;
    }
    // At most half of what is there: other things need memory, too.
    let most = memory_for_context(model, config).map_or(u64::MAX, |bytes| bytes / 2).min(KV_BYTES_AUTO_MAX);
    let fits = fitting_context(model, config, most).max(CONTEXT_AUTO_MIN);
    let power = 1 << (31 - fits.leading_zeros());
    trained.min(power)
}

/// Bytes of the KV cache for one token of one sequence on this machine's own memory; what is offloaded is the device's.
fn kv_bytes_per_token(model: &LlamaModel, config: &WorkerConfig) -> u64 {
    let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
    let default = u64::from(model.n_embd().unsigned_abs()) / u64::from(model.n_head().max(1));
    let head = |key: &str| {
        let value = model.meta_val_str(&format!("{architecture}.attention.{key}_length")).ok();
        value.and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let per_layer = F16_BYTES * u64::from(model.n_head_kv()) * (head("key") + head("value"));
    host_layers(model, config) * per_layer
}

/// Layers that are computed by the CPU.
fn host_layers(model: &LlamaModel, config: &WorkerConfig) -> u64 {
    let offloaded = if HAS_GPU { config.gpu.layers } else { 0 };
    u64::from(model.n_layer().saturating_sub(offloaded))
}

/// Memory that is left for the KV cache beside the weights. Weights that do not fit are not counted: they are mapped, so
/// the kernel can drop and read them again, which is slow and no reason to be killed.
fn memory_for_context(model: &LlamaModel, config: &WorkerConfig) -> Option<u64> {
    let weights = model.size() / u64::from(model.n_layer().max(1)) * host_layers(model, config);
    config.memory_bytes.map(|bytes| bytes.checked_sub(weights).unwrap_or(bytes))
}

/// The longest context for each sequence that takes at most `bytes` in all.
fn fitting_context(model: &LlamaModel, config: &WorkerConfig, bytes: u64) -> u32 {
    let all = kv_bytes_per_token(model, config).saturating_mul(config.sequences.max(1).into()).max(1);
    u32::try_from(bytes / all).unwrap_or(u32::MAX)
}

/// llama.cpp takes the whole cache at once and touches it: where there is too little memory, the kernel kills the process
/// without a word about why.
fn check_memory(loaded: &Loaded, config: &WorkerConfig) -> Result<(), String> {
    let model = &loaded.model;
    let Some(available) = memory_for_context(model, config) else { return Ok(()) };
    let (context, sequences) = (u64::from(loaded.context_tokens), u64::from(config.sequences));
    let needed = kv_bytes_per_token(model, config).saturating_mul(context).saturating_mul(sequences);
    if needed <= available {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(format!(
        "a context of {context} tokens for each of {sequences} sequences needs {} MiB of memory, and {} MiB are available \
         beside the weights: set engine.context_tokens to at most {}, or lower engine.sequences",
        mib(needed),
        mib(available),
        fitting_context(model, config, available)
    ))
}

/// The context that the step thread owns.
///
/// # Errors
/// For the operator: mostly that memory is short.
pub(crate) fn context<'model>(loaded: &'model Loaded, config: &WorkerConfig) -> Result<LlamaContext<'model>, String> {
    check_memory(loaded, config)?;
    let cells = loaded.context_tokens.saturating_mul(config.sequences);
    let threads = i32::try_from(config.threads.max(1)).unwrap_or(i32::MAX);
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(cells))
        .with_n_batch(config.batch_tokens)
        .with_n_ubatch(config.batch_tokens)
        .with_n_seq_max(config.sequences)
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_kv_unified(false)
        .with_no_perf(true);
    loaded.model.new_context(init_backend(), params).map_err(|error| {
        format!(
            "no context of {} tokens for {} sequences can be made ({}): lower engine.sequences or engine.context_tokens",
            loaded.context_tokens,
            config.sequences,
            explain(&error.to_string())
        )
    })
}

pub(crate) fn info(loaded: &Loaded, config: &WorkerConfig) -> ModelInfo {
    let model = &loaded.model;
    let stem = || config.model.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    ModelInfo {
        name: model.meta_val_str("general.name").ok().filter(|name| !name.is_empty()).unwrap_or_else(stem),
        architecture: model.meta_val_str("general.architecture").unwrap_or_default(),
        parameters: model.n_params(),
        size_bytes: model.size(),
        context_tokens: loaded.context_tokens,
        trained_context_tokens: model.n_ctx_train(),
        vocabulary: model.n_vocab().unsigned_abs(),
        sequences: config.sequences,
        reasoning_tags: loaded.template.reasoning_tags(),
        has_chat_template: loaded.has_chat_template,
        system: ffi::system_info(),
    }
}
