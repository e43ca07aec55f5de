//! Receipts: in every transport, for their owner alone, chained, never at odds with the ledger, verified by the command
//! and by a second implementation.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};
use testkit::{Finished, TestNode, eventually, sse::Events};

use crate::support::{
    BUDGET, JOB, chat, chat_stream, count, open_session, pace, prompt, scripted, session, with, words,
};

const EVENT: &str = "llm-node:receipt";

/// Sends this text as a body; gives the response.
async fn send_text(node: &TestNode, path: &str, token: &str, body: &str) -> reqwest::Response {
    let request = node.http().post(node.url(path)).bearer_auth(token).header("content-type", "application/json");
    request.body(body.to_owned()).send().await.expect("the node answers")
}

/// A receipt as its owner fetches it; `None` for a 404.
async fn fetch(node: &TestNode, token: &str, id: &str) -> Option<Value> {
    let url = node.url(&format!("/v1/receipts/{id}"));
    let response = node.http().get(url).bearer_auth(token).send().await.expect("the node answers");
    match response.status().as_u16() {
        200 => Some(response.json().await.expect("JSON")),
        404 => None,
        status => panic!("{status}: {}", response.text().await.unwrap_or_default()),
    }
}

fn receipt_id(response: &reqwest::Response) -> String {
    let header = response.headers().get("x-receipt-id").expect("an X-Receipt-Id");
    header.to_str().expect("text").to_owned()
}

/// The one receipt in a stream of events.
fn in_events(events: &[testkit::sse::Event]) -> Value {
    let mut found = events.iter().filter(|event| event.name == EVENT).map(testkit::sse::Event::json);
    let event = found.next().unwrap_or_else(|| panic!("no {EVENT} in {events:?}"));
    let expected = if event.get("sequence_number").is_some() { "keepalive" } else { EVENT };
    assert_eq!(event["type"], expected, "{event}");
    assert!(found.next().is_none(), "a second receipt");
    event["receipt"].clone()
}

fn file(node: &TestNode, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = node.folder().join(name);
    fs::write(&path, content).expect("the folder is writable");
    path.display().to_string()
}

fn verify(node: &TestNode, receipts: &Value, more: &[&str]) -> Finished {
    let path = file(node, "receipts.json", receipts.to_string());
    node.command(&[&["receipt", "verify", &path, "--json"], more].concat())
}

/// The receipt verifies, with this text as its output and these bytes as its request.
fn assert_proves(node: &TestNode, receipt: &Value, request: &str, output: &str) {
    let (request, output) = (file(node, "request", request), file(node, "output", output));
    let verified = verify(node, receipt, &["--request", &request, "--output", &output]);
    assert_eq!(verified.code, Some(0), "{receipt}\n{}{}", verified.stdout, verified.stderr);
}

#[tokio::test]
async fn every_transport_brings_a_receipt_that_proves_request_and_output() {
    let (node, token) = scripted().await;
    let mut receipts = Vec::new();
    let mut keep = |receipt: Value, request: &str, endpoint: &str| {
        assert_proves(&node, &receipt, request, &words(4));
        assert_eq!((&receipt["endpoint"], &receipt["output_tokens"]), (&json!(endpoint), &json!(4)), "{receipt}");
        receipts.push(receipt);
    };

    // HTTP, whole: the header names it, its owner fetches it.
    let completion = json!({"model": "default", "prompt": "a  b", "max_tokens": 4}).to_string();
    let response = json!({"model": "default", "input": "a b", "max_output_tokens": 4}).to_string();
    let conversation = chat("a b", 4).to_string();
    let posts = [
        ("/v1/chat/completions", &conversation, "chat_completions"),
        ("/v1/completions", &completion, "completions"),
        ("/v1/inference", &completion, "inference"),
        ("/v1/responses", &response, "responses"),
    ];
    for (path, body, endpoint) in posts {
        let answer = send_text(&node, path, &token, body).await;
        assert_eq!(answer.status(), 200, "{path}");
        let receipt = fetch(&node, &token, &receipt_id(&answer)).await.expect("it is there when the answer is");
        if path == "/v1/inference" {
            assert_eq!(answer.json::<Value>().await.expect("JSON")["receipt"], receipt);
        }
        keep(receipt, body, endpoint);
    }

    // HTTP, streamed: named in the head, brought before the end, the same when fetched.
    for (path, body, endpoint) in posts {
        let mut body: Value = serde_json::from_str(body).expect("JSON");
        body["stream"] = json!(true);
        let body = body.to_string();
        let answer = send_text(&node, path, &token, &body).await;
        let id = receipt_id(&answer);
        let events = Events::new(answer).collect().await;
        assert_ne!(events.last().expect("events").name, EVENT, "{path}: it comes before the end");
        let receipt = in_events(&events);
        assert_eq!(fetch(&node, &token, &id).await.as_ref(), Some(&receipt), "{path}");
        keep(receipt, &body, endpoint);
    }

    // The native socket, streamed and whole.
    let mut socket = session(&node, &token, "s").await;
    let mut asked = prompt("s", "a  b", 4);
    asked["id"] = json!("p1");
    socket.send_text(&asked.to_string()).await;
    let answer = socket.answer("p1").await;
    let receipt = answer.receipt.expect("a receipt frame before stream_end");
    assert_eq!(receipt["session_id"], "s");
    keep(receipt, &asked.to_string(), "native_ws");
    asked["stream"] = json!(false);
    socket.send_text(&asked.to_string()).await;
    let reply = socket.expect("response").await;
    keep(reply["receipt"].clone(), &asked.to_string(), "native_ws");

    // The Responses socket.
    let mut socket = node.socket("/v1/responses", Some(&token)).await.expect("an upgrade");
    let create = json!({"type": "response.create", "model": "default", "input": "a b", "max_output_tokens": 4});
    socket.send_text(&create.to_string()).await;
    let (mut kinds, mut brought) = (Vec::new(), Value::Null);
    while kinds.last().is_none_or(|kind| kind != "response.incomplete") {
        let event = socket.json().await;
        assert_eq!(event["sequence_number"], json!(kinds.len()), "{event}");
        if event["type"] == EVENT {
            brought = event["receipt"].clone();
        }
        kinds.push(event["type"].clone());
    }
    assert_eq!(kinds[kinds.len() - 2], EVENT);
    keep(brought, &create.to_string(), "responses_ws");

    // All of them are one chain, and they say what the job was charged.
    assert_eq!(receipts.len(), 11);
    let all = verify(&node, &json!(receipts), &[]);
    assert_eq!(all.code, Some(0), "{}", all.stdout);
    let report: Value = serde_json::from_str(&all.stdout).expect("JSON");
    assert_eq!(report["chains"][0]["last"], 11);
    assert_eq!(report["chains"][0]["output_tokens"], node.settled_job(JOB).await["used_tokens"]);
    let metrics = node.metrics().await;
    assert_eq!(metrics.get("llm_node_receipts_total", &[("outcome", "length")]), Some(11.0));
}

#[tokio::test]
async fn a_receipt_is_its_owners_alone() {
    let (node, alice) = scripted().await;
    let mallory = node.job_and_token("mallory", "8", BUDGET);
    let elsewhere = node.job_and_token("alice", "9", BUDGET);
    let blind = node.command_ok(&["token", "issue", "--subject", "alice", "--job", JOB, "--permissions", "execute"]);
    let answer = send_text(&node, "/v1/chat/completions", &alice, &chat("a", 2).to_string()).await;
    let id = receipt_id(&answer);
    let get = async |token: &str, id: &str| {
        let response = node.http().get(node.url(&format!("/v1/receipts/{id}"))).bearer_auth(token).send().await;
        let response = response.expect("the node answers");
        (response.status().as_u16(), response.text().await.expect("a body"))
    };
    let unknown = get(&mallory, "rcpt_00000000000000000000000000000000").await;
    assert_eq!(unknown.0, 404);
    for (token, id) in
        [(&mallory, id.as_str()), (&elsewhere, &id), (&alice, "nothing"), (&alice, "%00"), (&alice, "a%20b")]
    {
        assert_eq!(get(token, id).await, unknown, "the same answer for what is not there and what is not theirs");
    }
    assert_eq!(get("nonsense", &id).await.0, 401);
    assert_eq!(get(&blind, &id).await.0, 403);
    assert_eq!(get(&alice, &id).await.0, 200);
}

#[tokio::test]
async fn cancelled_and_broken_off_answers_have_receipts() {
    let (node, token) = with(pace(50)).await;
    let mut socket = session(&node, &token, "s").await;
    let id = socket.send(prompt("s", "go on", 5000)).await;
    let first = socket.expect("stream_chunk").await;
    socket.send(json!({"type": "stream_cancel", "session_id": "s"})).await;
    let mut text = first["content"].as_str().expect("text").to_owned();
    let cancelled = loop {
        let frame = socket.json().await;
        assert_eq!(frame["id"], json!(id), "{frame}");
        match frame["type"].as_str() {
            Some("stream_chunk") => text += frame["content"].as_str().expect("text"),
            Some("receipt") => break frame["receipt"].clone(),
            _ => panic!("before the receipt came {frame}"),
        }
    };
    assert_eq!(socket.expect("stream_end").await["reason"], "cancelled");
    assert_eq!(cancelled["finish_reason"], "cancelled");
    let output = file(&node, "output", &text);
    assert_eq!(verify(&node, &cancelled, &["--output", &output]).code, Some(0), "what was delivered until then");

    // Who goes away knows the receipt's name from the head, and finds it later.
    let mut answer = send_text(&node, "/v1/chat/completions", &token, &chat_stream("go on", 5000).to_string()).await;
    let id = receipt_id(&answer);
    answer.chunk().await.expect("it streams");
    assert_eq!(fetch(&node, &token, &id).await, None, "not before its end");
    drop(answer);
    let receipt = eventually("the receipt is there", async || fetch(&node, &token, &id).await).await;
    assert_eq!(receipt["finish_reason"], "cancelled");
    let used = count(&node.settled_job(JOB).await, "/used_tokens");
    assert_eq!(used, count(&cancelled, "/output_tokens") + count(&receipt, "/output_tokens"));
}

#[tokio::test]
async fn an_answer_that_fails_after_it_began_has_a_receipt_and_one_that_never_began_has_none() {
    let (node, token) = with(pace(20).set("server.request_timeout", "\"600ms\"")).await;
    let answer = send_text(&node, "/v1/chat/completions", &token, &chat("go on", 5000).to_string()).await;
    assert_eq!(answer.status(), 504);
    let id = receipt_id(&answer);
    let error: Value = answer.json().await.expect("JSON");
    assert_eq!(error["error"]["receipt_id"], json!(id), "{error}");
    let receipt = fetch(&node, &token, &id).await.expect("a receipt");
    assert_eq!(receipt["finish_reason"], "error");
    assert!(count(&receipt, "/output_tokens") > 0, "{receipt}");

    let answer = send_text(&node, "/v1/chat/completions", &token, &chat_stream("go on", 5000).to_string()).await;
    let events = Events::new(answer).collect().await;
    assert_eq!(in_events(&events)["finish_reason"], "error");
    assert!(events.last().expect("events").json()["error"].is_object());

    let mut socket = session(&node, &token, "s").await;
    let id = socket.send(prompt("s", "go on", 5000)).await;
    let answer = socket.answer(&id).await;
    assert!(answer.error.is_some());
    assert_eq!(answer.receipt.expect("a receipt")["output_tokens"], answer.end["tokens_used"]);

    let refused = send_text(&node, "/v1/chat/completions", &token, "{}").await;
    assert!(refused.status() == 400 && refused.headers().get("x-receipt-id").is_none());
    let metrics = node.metrics().await;
    assert_eq!(metrics.get("llm_node_receipts_total", &[("outcome", "error")]), Some(3.0));
}

/// Answers run, the node is killed, and again: what was promised is there, and the ledger says the same.
#[tokio::test]
async fn no_receipt_contradicts_the_ledger_after_kill_9() {
    let config = pace(400).set("jobs.journal_tokens", 1).set("jobs.journal_interval", "\"20ms\"");
    let (mut node, token) = with(config).await;
    let (mut promised, mut brought) = (Vec::new(), BTreeMap::new());
    for round in 0..4_u64 {
        let mut running = tokio::task::JoinSet::new();
        for index in 0..8 {
            let (http, url, token) = (node.http().clone(), node.url("/v1/chat/completions"), token.clone());
            let body = chat_stream("go on", 4 + index * 6).to_string();
            running.spawn(async move {
                let request = http.post(url).bearer_auth(token).header("content-type", "application/json");
                let mut answer = request.body(body).send().await.ok()?;
                let id = receipt_id(&answer);
                let mut text = Vec::new();
                while let Ok(Some(chunk)) = answer.chunk().await {
                    text.extend_from_slice(&chunk);
                }
                Some((id, String::from_utf8_lossy(&text).into_owned()))
            });
        }
        // Some have ended by then, others have not.
        let issued = node.metrics().await.sum("llm_node_receipts_total", &[]);
        eventually("some answers have ended", async || {
            (node.metrics().await.sum("llm_node_receipts_total", &[]) >= issued + 1.0 + round as f64).then_some(())
        })
        .await;
        node.kill9().await;
        while let Some(ended) = running.join_next().await {
            let Some((id, text)) = ended.expect("no panic") else { continue };
            let line = text.lines().find_map(|line| line.strip_prefix("data: ").filter(|data| data.contains(EVENT)));
            if let Some(receipt) = line.and_then(|data| serde_json::from_str::<Value>(data).ok()) {
                brought.insert(id.clone(), receipt["receipt"].clone());
            }
            promised.push(id);
        }
        node.spawn().await;
        node.until_ready().await;
    }
    assert!(!brought.is_empty(), "some answers ended");
    let mut receipts = Vec::new();
    for id in &promised {
        let found = fetch(&node, &token, id).await;
        if let Some(sent) = brought.get(id) {
            assert_eq!(found.as_ref(), Some(sent), "what a client has seen is there");
        }
        receipts.extend(found);
    }
    let verified = verify(&node, &json!(receipts), &[]);
    assert_eq!(verified.code, Some(0), "{}", verified.stdout);
    let report: Value = serde_json::from_str(&verified.stdout).expect("JSON");
    assert_eq!(report["chains"].as_array().map(Vec::len), Some(1), "one job, one chain");
    assert_eq!(count(&report, "/chains/0/first"), 1);
    let job = node.job(JOB);
    assert!(count(&report, "/chains/0/output_tokens") <= count(&job, "/used_tokens"), "{report} {job}");
    assert_eq!(count(&job, "/reserved_tokens"), 0);
}

#[tokio::test]
async fn receipts_verify_offline_over_a_rotation_and_say_what_is_wrong() {
    let (node, token) = scripted().await;
    let mut receipts = Vec::new();
    for round in 0..3 {
        let answer = send_text(&node, "/v1/chat/completions", &token, &chat("a", 2).to_string()).await;
        receipts.push(fetch(&node, &token, &receipt_id(&answer)).await.expect("a receipt"));
        if round == 0 {
            let old = receipts[0]["key_id"].clone();
            let _ = node.command_ok(&["keys", "generate"]);
            let _ = node.command_ok(&["keys", "rotate", "--now"]);
            eventually("the node signs with its next key", async || {
                let answer = send_text(&node, "/v1/chat/completions", &token, &chat("a", 1).to_string()).await;
                let receipt = fetch(&node, &token, &receipt_id(&answer)).await.expect("a receipt");
                let rotated = receipt["key_id"] != old;
                receipts.push(receipt);
                rotated.then_some(())
            })
            .await;
        }
    }
    let jwks = node.http().get(node.url("/.well-known/jwks.json")).send().await.expect("it answers");
    let jwks = file(&node, "jwks.json", jwks.text().await.expect("text"));
    let url = node.url("/.well-known/jwks.json");
    for more in [&[][..], &["--jwks", &jwks], &["--jwks", &url]] {
        let verified = verify(&node, &json!(receipts), more);
        assert_eq!(verified.code, Some(0), "{more:?} {}{}", verified.stdout, verified.stderr);
    }

    let check = |receipts: Value, more: &[&str], pointer: &str, code: &str| {
        let verified = verify(&node, &receipts, more);
        let report: Value = serde_json::from_str(&verified.stdout).unwrap_or_else(|_| panic!("{}", verified.stderr));
        assert_eq!((verified.code, report["valid"].as_bool()), (Some(1), Some(false)), "{report}");
        assert_eq!(report.pointer(pointer), Some(&json!(code)), "{report}");
        report.pointer(&pointer.replace("code", "message")).and_then(Value::as_str).expect("a sentence").to_owned()
    };
    let with = |name: &str, value: Value| {
        let mut receipt = receipts[0].clone();
        receipt[name] = value;
        receipt
    };
    let problem = "/receipts/0/problem/code";
    check(with("output_tokens", json!(1_000)), &[], problem, "altered");
    let last = &receipts[receipts.len() - 1]["key_id"];
    check(with("key_id", last.clone()), &[], problem, "altered_key_id");
    let other = file(&node, "other.json", r#"{"keys":[]}"#);
    check(receipts[0].clone(), &["--jwks", &other], problem, "unknown_key");
    let output = file(&node, "output", words(2) + "\n");
    let sentence = check(receipts[0].clone(), &["--output", &output], problem, "output_mismatch");
    assert!(sentence.contains("line break"), "{sentence}");
    let mut gap = receipts.clone();
    gap.remove(1);
    let sentence = check(json!(gap), &[], "/chain_problems/0/code", "missing_receipts");
    assert!(sentence.contains("between the receipts 1 and 3"), "{sentence}");

    // For people, on standard output; and no key set is no crash.
    let path = file(&node, "receipt.json", receipts[0].to_string());
    let told = node.command_ok(&["receipt", "verify", &path]);
    assert!(told.contains("valid") && told.contains("number 1 of job 7"), "{told}");
    let broken = node.command(&["receipt", "verify", &path, "--jwks", &path]);
    assert!(broken.code == Some(1) && broken.stderr.contains("not a key set"), "{}", broken.stderr);
}

fn python(arguments: &[String]) -> String {
    let program = std::env::var_os("LLM_NODE_TEST_PYTHON").map(PathBuf::from);
    let program = program.unwrap_or_else(|| panic!("LLM_NODE_TEST_PYTHON is not set; `make test` sets it"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/sdk/python/receipts.py");
    let output = Command::new(program).arg(script).args(arguments).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_second_implementation_agrees_with_the_published_vectors() {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vectors/receipts.json");
    assert!(python(&[vectors.to_owned()]).contains("all checks passed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_implementation_verifies_a_real_receipt() {
    let (node, token) = scripted().await;
    let mut socket = node.native(&token).await;
    open_session(&mut socket, "s").await;
    let id = socket.send(prompt("s", "a b", 6)).await;
    let receipt = socket.answer(&id).await.receipt.expect("a receipt");
    let jwks = node.http().get(node.url("/.well-known/jwks.json")).send().await.expect("it answers");
    let jwks = file(&node, "jwks.json", jwks.text().await.expect("text"));
    let arguments = [jwks, file(&node, "receipt.json", receipt.to_string()), file(&node, "output", words(6))];
    let told = tokio::time::timeout(Duration::from_secs(60), tokio::task::spawn_blocking(move || python(&arguments)));
    assert!(told.await.expect("in time").expect("no panic").contains("all checks passed"));
}
