//! The engine through the real binary: its worker, its memory, the files of its model, and what it keeps to itself.

use std::fs;

use serde_json::{Value, json};
use testkit::{Config, TestNode, eventually, split_model};

use crate::support::{BINARY, chat, embedded, post, prompt, session, with};

#[tokio::test]
async fn a_frozen_worker_dies_with_its_node() {
    let (mut node, token) = embedded().await;
    let mut socket = session(&node, &token, "s").await;
    socket.send(prompt("s", "Tell a very long story.", 900)).await;
    socket.expect("stream_chunk").await;
    let worker = node.worker_pid().await;
    node.freeze(worker);
    // A stopped process runs nothing of its own: neither a read of the closed socket nor a handler.
    node.kill9().await;
}

#[tokio::test]
async fn what_a_client_writes_into_a_schema_reaches_no_log() {
    const CANARY: &str = "zebra-7193-canary";
    let (node, token) = with(Config::embedded().set("log.level", "\"trace\"")).await;
    let refused = |schema: Value| {
        let mut body = chat("Say something.", 4);
        body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
        body
    };
    let any =
        |name: &str| json!({"type": "object", "properties": {name: {}}, "additionalProperties": {"type": "string"}});
    // llama.cpp's parser cannot read what becomes of some of these, and prints it.
    for schema in [
        json!({"type": "array", "items": {"const": CANARY}, "maxItems": -5}),
        json!({"type": "array", "items": {"const": CANARY}, "minItems": 9, "maxItems": 2}),
        json!({"$ref": format!("#/$defs/{CANARY}")}),
        json!({"type": CANARY}),
        json!({"type": "string", "pattern": format!("^({CANARY}$")}),
        json!({"type": "string", "format": CANARY, "enum": [CANARY]}),
        json!({"const": format!("{CANARY}\u{8}\u{c}\u{1}\u{7f}\\")}),
        any(&format!("]{CANARY}")),
        any(&format!("\\{CANARY}")),
        any(&format!("{CANARY}\\")),
        any(&format!("{CANARY}\"\u{8}\n")),
    ] {
        // Refused or answered: only the log matters here.
        let (status, _) = post(&node, "/v1/chat/completions", Some(&token), &refused(schema)).await;
        assert!(status == 200 || status == 400, "{status}");
    }
    let (status, _) = post(&node, "/v1/chat/completions", Some(&token), &chat("Hi", 2)).await;
    assert_eq!(status, 200, "it still answers");
    eventually("the log has the last request", async || node.log().contains("completions").then_some(())).await;
    assert!(!node.log().contains(CANARY), "{}", node.log());
}

#[tokio::test]
async fn a_context_that_memory_cannot_hold_is_refused_with_both_numbers() {
    let config = Config::embedded().set("engine.context_tokens", 4_000_000).set("engine.sequences", 16);
    let node = TestNode::prepare(BINARY, &config);
    let finished = node.command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    // 30 layers, 3 heads of 64 numbers of 2 bytes, keys and values: 23,040 bytes a token.
    for part in ["needs 1406250 MiB", "MiB are available", "set engine.context_tokens to at most"] {
        assert!(finished.stderr.contains(part), "{part} in {}", finished.stderr);
    }
}

/// A greedy answer, and the digest of the weights.
async fn answer_and_digest(node: &TestNode, token: &str) -> (String, String) {
    let (status, body) =
        post(node, "/v1/chat/completions", Some(token), &chat("Name the planets of our solar system.", 48)).await;
    assert_eq!(status, 200, "{body}");
    let text = body["choices"][0]["message"]["content"].as_str().expect("a text").to_owned();
    let models = node.http().get(node.url("/v1/models")).bearer_auth(token).send().await.expect("it answers");
    let models = models.text().await.expect("a body");
    let (_, digest) = models.split_once("sha256:").unwrap_or_else(|| panic!("a digest in {models}"));
    (text, digest[..64].to_owned())
}

#[tokio::test]
async fn a_model_in_shards_answers_as_in_one_file_and_has_a_digest_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let shards = split_model(&testkit::model(), folder.path(), "split");
    // Shards are loaded as they are, so the file must be, too.
    let as_it_is = |config: Config| config.set("engine.repack", "\"off\"").set("engine.context_tokens", 512);
    let (node, token) = with(as_it_is(Config::embedded())).await;
    let (text, whole_digest) = answer_and_digest(&node, &token).await;
    drop(node);
    let mut digests = Vec::new();
    // Any shard stands for all.
    for shard in &shards {
        let (node, token) = with(as_it_is(Config::model(shard))).await;
        let (split_text, digest) = answer_and_digest(&node, &token).await;
        assert_eq!(split_text, text);
        digests.push(digest);
    }
    assert_eq!(digests[0], digests[1], "the same files");
    assert_ne!(digests[0], whole_digest, "other files");

    // One byte of a weight in the second shard.
    let mut second = fs::read(&shards[1]).expect("ours");
    *second.last_mut().expect("not empty") ^= 1;
    fs::write(&shards[1], second).expect("ours");
    let (node, token) = with(as_it_is(Config::model(&shards[0]))).await;
    assert_ne!(answer_and_digest(&node, &token).await.1, digests[0], "the digest covers every shard");
    drop(node);

    fs::remove_file(&shards[1]).expect("ours");
    let node = TestNode::prepare(BINARY, &as_it_is(Config::model(&shards[0])));
    let finished = node.command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("split-00002-of-00002.gguf"), "{}", finished.stderr);
}
