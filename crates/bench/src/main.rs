//! The node, with tokens, jobs and HTTP, against a bare llama.cpp batch loop on the same weights: alternately, in one
//! run, as ratios. `scripts/bench.sh` builds both and starts this.
#![allow(clippy::print_stdout, reason = "its result is its output")]

use std::{process::Command, time::Instant};

use serde_json::{Value, json};
use testkit::{Config, TestNode, sse::Events};

/// Tokens of each answer.
const TOKENS: u64 = 128;
/// Streams side by side.
const STREAMS: [usize; 3] = [1, 4, 16];
/// Rounds; the median counts.
const ROUNDS: usize = 5;
/// Compute threads of both.
const THREADS: u32 = 2;
/// Requests of which the added latency is the median.
const LATENCY_REQUESTS: usize = 200;
/// Tokens by which the default model ends an answer (`<|endoftext|>`, `<|im_end|>`). They are forbidden, so that every
/// answer has as many tokens as the bare loop's.
const ENDS: [&str; 2] = ["0", "2"];

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(node), Some(bare)) = (arguments.next(), arguments.next()) else {
        panic!("usage: bench LLM_NODE BARE_LOOP (make bench starts it)");
    };
    let config = Config::embedded()
        .set("engine.repack", "\"off\"")
        .set("engine.prefix_cache", false) // The bare loop has none.
        .set("engine.context_tokens", 512)
        .set("engine.threads", THREADS);
    let node = TestNode::start(&node, config).await;
    let token = node.job_and_token("bench", "1", 100_000_000);
    throughput(&node, &token, &bare).await;
    added_latency(&node, &token).await;
}

/// Prompt and answer, whole: from the first request to the last end, on both sides.
async fn throughput(node: &TestNode, token: &str, bare: &str) {
    println!("Prompt and answer of {TOKENS} tokens each, {THREADS} threads, median of {ROUNDS} rounds:\n");
    println!("| streams | bare loop, tokens/s | node, tokens/s | ratio (lowest, highest round) | node, first token |");
    println!("|---|---|---|---|---|");
    for streams in STREAMS {
        let (mut bares, mut nodes, mut ratios, mut firsts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let answers = answers(node, token, streams, round).await;
            let bare = bare_loop(bare, streams, answers.prompt_tokens);
            bares.push(bare);
            nodes.push(answers.tokens_per_second);
            ratios.push(answers.tokens_per_second / bare);
            firsts.push(answers.first_token);
        }
        let (low, high) = (ratios.iter().copied().fold(f64::MAX, f64::min), ratios.iter().copied().fold(0.0, f64::max));
        println!(
            "| {streams} | {:.1} | {:.1} | {:.3} ({low:.3}, {high:.3}) | {:.1} ms |",
            median(bares),
            median(nodes),
            median(ratios),
            median(firsts) * 1000.0
        );
    }
}

/// Tokens a second of the bare loop, its prompts included.
fn bare_loop(program: &str, streams: usize, prompt_tokens: u64) -> f64 {
    let output = Command::new(program)
        .arg("--model")
        .arg(testkit::model())
        .args(["--streams", &streams.to_string(), "--tokens", &TOKENS.to_string()])
        .args(["--prompt", &prompt_tokens.to_string()])
        .args(["--threads", &THREADS.to_string(), "--context", "512"])
        .output()
        .expect("the bare loop starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    (streams as u64 * TOKENS) as f64 / result["seconds"].as_f64().expect("a time")
}

/// What a round of streams side by side came to.
struct Answers {
    tokens_per_second: f64,
    /// Median, in seconds.
    first_token: f64,
    /// Of one prompt, median; none of it was cached.
    prompt_tokens: u64,
}

async fn answers(node: &TestNode, token: &str, streams: usize, round: usize) -> Answers {
    let started = Instant::now();
    let mut tasks = Vec::new();
    for stream in 0..streams {
        let text =
            format!("{round}/{streams}/{stream}: write a very long and detailed story about a ship and its crew.");
        tasks.push(tokio::spawn(ask(
            node.http().clone(),
            node.url("/v1/chat/completions"),
            token.to_owned(),
            text,
            TOKENS,
        )));
    }
    let (mut tokens, mut firsts, mut prompts) = (0, Vec::new(), Vec::new());
    for task in tasks {
        let (first, usage) = task.await.expect("a stream");
        assert_eq!(usage["completion_tokens"], TOKENS, "an answer has another length than the bare loop's");
        tokens += TOKENS;
        firsts.push(first);
        prompts.push(usage["prompt_tokens"].as_u64().expect("a count") as f64);
    }
    Answers {
        tokens_per_second: tokens as f64 / started.elapsed().as_secs_f64(),
        first_token: median(firsts),
        prompt_tokens: median(prompts) as u64,
    }
}

/// Time to the first token in seconds, and the usage.
async fn ask(http: reqwest::Client, url: String, token: String, text: String, tokens: u64) -> (f64, Value) {
    let bias: serde_json::Map<_, _> = ENDS.iter().map(|end| ((*end).to_owned(), json!(-100))).collect();
    let body = json!({"model": "default", "stream": true, "stream_options": {"include_usage": true},
        "max_tokens": tokens, "temperature": 0, "logit_bias": bias,
        "messages": [{"role": "user", "content": text}]});
    let asked = Instant::now();
    let response = http.post(url).bearer_auth(token).json(&body).send().await.expect("the node answers");
    let mut events = Events::new(response);
    let (mut first, mut usage) = (None, Value::Null);
    while let Some(event) = events.next().await {
        if event.data == "[DONE]" {
            continue;
        }
        let event = event.json();
        if first.is_none() && event["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()) {
            first = Some(asked.elapsed().as_secs_f64());
        }
        if !event["usage"].is_null() {
            usage = event["usage"].clone();
        }
    }
    (first.expect("a token"), usage)
}

/// Time to the first token without the time that the worker spent inside llama.cpp for it: one request after another,
/// with one token each, so that what the worker counted between two is the one request's.
async fn added_latency(node: &TestNode, token: &str) {
    let (mut added, mut firsts) = (Vec::new(), Vec::new());
    let mut before = decode_seconds(node).await;
    for number in 0..LATENCY_REQUESTS {
        let text = format!("Number {number}: name a ship.");
        let (first, _) = ask(node.http().clone(), node.url("/v1/chat/completions"), token.to_owned(), text, 1).await;
        let after = decode_seconds(node).await;
        added.push(first - (after - before));
        firsts.push(first);
        before = after;
    }
    println!(
        "\nFirst token of {LATENCY_REQUESTS} requests, one after another: {:.2} ms at the median, of which outside llama.cpp {:.3} ms.",
        median(firsts) * 1000.0,
        median(added) * 1000.0
    );
}

async fn decode_seconds(node: &TestNode) -> f64 {
    node.metrics().await.sum("llm_node_engine_decode_seconds_total", &[])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
