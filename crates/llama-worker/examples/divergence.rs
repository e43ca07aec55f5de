//! How far a conversion changes a model: Kullback-Leibler divergence of the next token's distribution and agreement on
//! the most likely token, against the original, over every position of a text.
//!
//! `divergence ORIGINAL CONVERTED TEXT_FILE`
#![allow(clippy::print_stdout, reason = "its result is its output")]

use std::{env, error::Error, fs, num::NonZeroU32};

use llama_cpp_2::{
    LogOptions,
    context::params::LlamaContextParams,
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::{LlamaModel, params::LlamaModelParams},
    send_logs_to_tracing,
};

/// Positions that are compared.
const POSITIONS_MAX: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [original, converted, text] = arguments.as_slice() else {
        return Err("usage: divergence ORIGINAL CONVERTED TEXT_FILE".into());
    };
    send_logs_to_tracing(LogOptions::default().with_logs_enabled(false));
    let backend = LlamaBackend::init()?;
    let text = fs::read_to_string(text)?;
    let (p, q) = (distributions(&backend, original, &text)?, distributions(&backend, converted, &text)?);
    let mut divergences: Vec<f64> = p.iter().zip(&q).map(|(p, q)| divergence(p, q)).collect();
    let agreeing = p.iter().zip(&q).filter(|(p, q)| best(p) == best(q)).count();
    let mean = divergences.iter().sum::<f64>() / divergences.len() as f64;
    divergences.sort_by(f64::total_cmp);
    println!(
        "{}",
        serde_json::json!({
            "positions": p.len(),
            "mean_kl_nats": mean,
            "p99_kl_nats": divergences[divergences.len() * 99 / 100],
            "top1_agreement": agreeing as f64 / p.len() as f64,
        })
    );
    Ok(())
}

/// Log-probabilities of the next token at every position.
fn distributions(backend: &LlamaBackend, model: &str, text: &str) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let model = LlamaModel::load_from_file(backend, model, &LlamaModelParams::default())?;
    let mut tokens = model.vocab().tokenize(text.as_bytes(), true, false);
    tokens.truncate(POSITIONS_MAX);
    let size = u32::try_from(tokens.len())?;
    let params = LlamaContextParams::default().with_n_ctx(NonZeroU32::new(size)).with_n_batch(size).with_n_ubatch(size);
    let mut context = model.new_context(backend, params)?;
    let mut batch = LlamaBatch::new(tokens.len(), 1);
    for (at, token) in tokens.iter().enumerate() {
        batch.add(*token, i32::try_from(at)?, &[0], true)?;
    }
    context.decode(&mut batch)?;
    Ok((0..tokens.len()).map(|at| log_softmax(context.get_logits_ith(at as i32))).collect())
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let log_sum = max + sum.ln() as f32;
    logits.iter().map(|logit| logit - log_sum).collect()
}

fn divergence(p: &[f32], q: &[f32]) -> f64 {
    p.iter().zip(q).map(|(p, q)| f64::from(*p).exp() * f64::from(p - q)).sum()
}

fn best(distribution: &[f32]) -> Option<usize> {
    (0..distribution.len()).max_by(|a, b| distribution[*a].total_cmp(&distribution[*b]))
}
