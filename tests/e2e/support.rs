//! What several modules need.

use serde_json::{Value, json};
use testkit::{Config, Metrics, Socket, TestNode, eventually};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_llm-node");
/// The job that most tests charge.
pub(crate) const JOB: &str = "7";
/// A budget that no test reaches.
pub(crate) const BUDGET: u64 = 1_000_000;

/// A node that says `w0 w1 w2 …`, and a token for [`JOB`].
pub(crate) async fn scripted() -> (TestNode, String) {
    with(Config::scripted()).await
}

/// A scripted node at another pace.
pub(crate) async fn scripted_at(tokens_per_second: u32) -> (TestNode, String) {
    with(pace(tokens_per_second)).await
}

/// A scripted configuration at another pace.
pub(crate) fn pace(tokens_per_second: u32) -> Config {
    Config::scripted().set("engine.scripted_tokens_per_second", tokens_per_second)
}

/// A node with the real model, and a token for [`JOB`].
pub(crate) async fn embedded() -> (TestNode, String) {
    with(Config::embedded().set("engine.context_tokens", 1024).set("engine.sequences", 8)).await
}

/// A node with this configuration, and a token for [`JOB`].
pub(crate) async fn with(config: Config) -> (TestNode, String) {
    let node = TestNode::start(BINARY, config).await;
    let token = node.job_and_token("alice", JOB, BUDGET);
    (node, token)
}

/// A native socket with an open session of [`JOB`].
pub(crate) async fn session(node: &TestNode, token: &str, id: &str) -> Socket {
    let mut socket = node.native(token).await;
    open_session(&mut socket, id).await;
    socket
}

/// Opens a session of [`JOB`].
pub(crate) async fn open_session(socket: &mut Socket, id: &str) {
    socket.request(json!({"type": "session_init", "session_id": id, "job_id": JOB}), "session_init_ack").await;
}

/// A prompt that streams.
pub(crate) fn prompt(session: &str, text: &str, max_tokens: u64) -> Value {
    json!({
        "type": "prompt", "session_id": session, "prompt": text, "max_tokens": max_tokens, "temperature": 0,
        "stream": true,
    })
}

/// The first `count` words of a scripted answer.
pub(crate) fn words(count: u64) -> String {
    (0..count).map(|index| format!("w{index}")).collect::<Vec<_>>().join(" ")
}

/// Tokens that the engine generated since start.
pub(crate) fn generated(metrics: &Metrics) -> f64 {
    metrics.sum("llm_node_engine_generated_tokens_total", &[])
}

/// Waits until the engine generates nothing, and checks that it stays so: what was generated does not grow any more.
pub(crate) async fn until_idle(node: &TestNode) -> Metrics {
    eventually("the engine is idle", async || {
        let metrics = node.metrics().await;
        (metrics.get("llm_node_engine_active_sequences", &[]) == Some(0.0)).then_some(metrics)
    })
    .await
}

/// Posts JSON with a token; gives status and body.
pub(crate) async fn post(node: &TestNode, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
    let response = send(node, path, token, body).await;
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Posts JSON with a token.
pub(crate) async fn send(node: &TestNode, path: &str, token: Option<&str>, body: &Value) -> reqwest::Response {
    let mut request = node.http().post(node.url(path)).json(body);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.expect("the node answers")
}

/// Gets a path without a token; gives status and body.
pub(crate) async fn get(node: &TestNode, path: &str) -> (u16, Value) {
    let response = node.http().get(node.url(path)).send().await.expect("the node answers");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// A chat request.
pub(crate) fn chat(text: &str, max_tokens: u64) -> Value {
    json!({
        "model": "default", "max_tokens": max_tokens, "temperature": 0,
        "messages": [{"role": "user", "content": text}],
    })
}

/// A chat request that streams.
pub(crate) fn chat_stream(text: &str, max_tokens: u64) -> Value {
    let mut body = chat(text, max_tokens);
    body["stream"] = json!(true);
    body
}

/// A count in a JSON object.
pub(crate) fn count(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("a count at {pointer} of {value}"))
}
