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
const ROUNDS: usize = 3;
/// Compute threads of both.
const THREADS: u32 = 2;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(node), Some(bare)) = (arguments.next(), arguments.next()) else {
        panic!("usage: bench LLM_NODE BARE_LOOP (make bench starts it)");
    };
    let config = Config::embedded()
        .set("engine.repack", "\"off\"")
        .set("engine.context_tokens", 512)
        .set("engine.threads", THREADS);
    let node = TestNode::start(&node, config).await;
    let token = node.job_and_token("bench", "1", 10_000_000);
    println!("| streams | bare loop, tokens/s | node, tokens/s | ratio | node, first token |\n|---|---|---|---|---|");
    for streams in STREAMS {
        let (mut bares, mut nodes, mut firsts) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            bares.push(bare_loop(&bare, streams));
            let (rate, first) = node_rate(&node, &token, streams, round).await;
            nodes.push(rate);
            firsts.push(first);
        }
        let (bare, node, first) = (median(bares), median(nodes), median(firsts));
        println!("| {streams} | {bare:.1} | {node:.1} | {:.3} | {:.1} ms |", node / bare, first * 1000.0);
    }
}

/// Decoding tokens a second of the bare loop.
fn bare_loop(program: &str, streams: usize) -> f64 {
    let output = Command::new(program)
        .arg("--model")
        .arg(testkit::model())
        .args(["--streams", &streams.to_string(), "--tokens", &TOKENS.to_string(), "--prompt", "64"])
        .args(["--threads", &THREADS.to_string(), "--context", "512"])
        .output()
        .expect("the bare loop starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    result["decode_tokens_per_second"].as_f64().expect("a rate")
}

/// Tokens a second of all streams between the last first token and the first end, and the median first token.
async fn node_rate(node: &TestNode, token: &str, streams: usize, round: usize) -> (f64, f64) {
    let mut tasks = Vec::new();
    for stream in 0..streams {
        let (http, url, token) = (node.http().clone(), node.url("/v1/chat/completions"), token.to_owned());
        tasks.push(tokio::spawn(async move {
            let text = format!("Round {round}, number {stream}: write a very long and detailed story about a ship.");
            let body = json!({"model": "default", "stream": true, "max_tokens": TOKENS, "temperature": 0,
                "messages": [{"role": "user", "content": text}]});
            let asked = Instant::now();
            let response = http.post(url).bearer_auth(token).json(&body).send().await.expect("the node answers");
            let mut events = Events::new(response);
            let mut times = Vec::new();
            while let Some(event) = events.next().await {
                if event.data.contains("\"content\":\"") && !event.data.contains("\"content\":\"\"") {
                    times.push(Instant::now());
                }
            }
            (asked, times)
        }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.expect("a stream"));
    }
    let from = answers.iter().map(|(_, times)| times[0]).max().expect("streams");
    let to = answers.iter().filter_map(|(_, times)| times.last()).min().expect("streams");
    let count = answers.iter().flat_map(|(_, times)| times).filter(|time| **time > from && *time <= to).count();
    let firsts = answers.iter().map(|(asked, times)| (times[0] - *asked).as_secs_f64()).collect();
    (count as f64 / (*to - from).as_secs_f64(), median(firsts))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
