//! A bare llama.cpp batch loop: the peer that the worker's speed is measured against. It does what no server can do
//! without: one batch a step, one token of each stream, greedy argmax. No queue, no frames, no cache, no cancelling.
//!
//! `bare_loop --model FILE [--streams 1,4,16] [--prompt 128] [--tokens 128] [--threads 2] [--batch 512] [--unified]`
//! prints one line of JSON for each number of streams.
#![allow(clippy::print_stdout, reason = "its result is its output")]

use std::{env, error::Error, num::NonZeroU32, time::Instant};

use llama_cpp_2::{
    LogOptions,
    context::params::LlamaContextParams,
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::{LlamaModel, params::LlamaModelParams},
    send_logs_to_tracing,
    token::LlamaToken,
};

struct Options {
    model: String,
    streams: Vec<usize>,
    prompt_tokens: usize,
    tokens: usize,
    threads: i32,
    batch_tokens: usize,
    unified: bool,
    /// Context of each stream; 0 is just what the run needs.
    context_tokens: usize,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        model: String::new(),
        streams: vec![1, 4, 16],
        prompt_tokens: 128,
        tokens: 128,
        threads: 2,
        batch_tokens: 512,
        unified: false,
        context_tokens: 0,
    };
    let mut args = env::args().skip(1);
    while let Some(name) = args.next() {
        if name == "--unified" {
            options.unified = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--model" => options.model = value,
            "--streams" => options.streams = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--prompt" => options.prompt_tokens = value.parse()?,
            "--tokens" => options.tokens = value.parse()?,
            "--threads" => options.threads = value.parse()?,
            "--batch" => options.batch_tokens = value.parse()?,
            "--context" => options.context_tokens = value.parse()?,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    Ok(options)
}

fn argmax(logits: &[f32]) -> LlamaToken {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    LlamaToken(i32::try_from(best).expect("a vocabulary fits in i32"))
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    send_logs_to_tracing(LogOptions::default().with_logs_enabled(false));
    let backend = LlamaBackend::init()?;
    let model = LlamaModel::load_from_file(&backend, &options.model, &LlamaModelParams::default())?;
    for &streams in &options.streams {
        measure(&backend, &model, &options, streams)?;
    }
    Ok(())
}

fn measure(
    backend: &LlamaBackend,
    model: &LlamaModel,
    options: &Options,
    streams: usize,
) -> Result<(), Box<dyn Error>> {
    let context_tokens = options.context_tokens.max(options.prompt_tokens + options.tokens).next_multiple_of(256);
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(u32::try_from(context_tokens * streams)?))
        .with_n_batch(u32::try_from(options.batch_tokens)?)
        .with_n_ubatch(u32::try_from(options.batch_tokens)?)
        .with_n_seq_max(u32::try_from(streams)?)
        .with_n_threads(options.threads)
        .with_n_threads_batch(options.threads)
        .with_kv_unified(options.unified)
        .with_no_perf(true);
    let mut context = model.new_context(backend, params)?;
    let mut batch = LlamaBatch::new(options.batch_tokens, 1);
    // Every stream has another prompt, as clients have.
    let vocabulary = usize::try_from(model.n_vocab())?;
    let token = |stream: usize, i: usize| LlamaToken(((stream * 7919 + i * 31 + 1000) % (vocabulary - 1000)) as i32);

    let started = Instant::now();
    let mut next = vec![LlamaToken(0); streams];
    for (stream, next) in next.iter_mut().enumerate() {
        for from in (0..options.prompt_tokens).step_by(options.batch_tokens) {
            let to = (from + options.batch_tokens).min(options.prompt_tokens);
            batch.clear();
            for i in from..to {
                batch.add(
                    token(stream, i),
                    i32::try_from(i)?,
                    &[i32::try_from(stream)?],
                    i + 1 == options.prompt_tokens,
                )?;
            }
            context.decode(&mut batch)?;
        }
        *next = argmax(context.get_logits_ith(batch.n_tokens() - 1));
    }
    let prefill = started.elapsed().as_secs_f64();

    let started = Instant::now();
    for step in 0..options.tokens {
        batch.clear();
        for (stream, token) in next.iter().enumerate() {
            batch.add(*token, i32::try_from(options.prompt_tokens + step)?, &[i32::try_from(stream)?], true)?;
        }
        context.decode(&mut batch)?;
        for (stream, token) in next.iter_mut().enumerate() {
            *token = argmax(context.get_logits_ith(i32::try_from(stream)?));
        }
    }
    let decode = started.elapsed().as_secs_f64();
    println!(
        "{}",
        serde_json::json!({
            "streams": streams,
            "prompt_tokens": options.prompt_tokens,
            "tokens": options.tokens,
            "unified": options.unified,
            "prefill_tokens_per_second": (streams * options.prompt_tokens) as f64 / prefill,
            "decode_tokens_per_second": (streams * options.tokens) as f64 / decode,
            "seconds": prefill + decode,
        })
    );
    Ok(())
}
