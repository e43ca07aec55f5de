//! What a job allows, and what it is charged.

use serde_json::json;

use crate::support::{JOB, chat, count, pace, post, prompt, scripted, scripted_at, session, until_idle, with, words};

#[tokio::test]
async fn an_answer_is_cut_to_what_the_job_has_left() {
    let (node, _) = scripted().await;
    let token = node.job_and_token("alice", "10", 10);
    let mut socket = node.native(&token).await;
    socket.request(json!({"type": "session_init", "session_id": "s", "job_id": "10"}), "session_init_ack").await;
    let id = socket.send(prompt("s", "hello", 100)).await;
    let answer = socket.answer(&id).await;
    assert_eq!((answer.text.clone(), answer.reasons()), (words(10), ("complete", "length")));
    assert_eq!(answer.end["max_tokens"], 10, "the client hears what its wish was lowered to: {}", answer.end);
    let job = node.settled_job("10").await;
    assert_eq!((count(&job, "/used_tokens"), &job["status"]), (10, &json!("exhausted")));

    let id = socket.send(prompt("s", "more", 1)).await;
    let answer = socket.answer(&id).await;
    assert_eq!(answer.error.expect("refused")["code"], "TOKEN_LIMIT_EXCEEDED");
    let (status, body) = post(&node, "/v1/chat/completions", Some(&token), &chat("more", 1)).await;
    assert_eq!((status, &body["error"]["code"]), (403, &json!("insufficient_quota")), "{body}");
    assert_eq!(count(&node.job("10"), "/used_tokens"), 10);
}

#[tokio::test]
async fn the_nodes_own_limit_and_default_hold() {
    let config = pace(0).set("jobs.max_tokens_per_request", 20).set("jobs.max_tokens_default", 8);
    let (node, token) = with(config).await;
    let mut socket = session(&node, &token, "s").await;
    let id = socket.send(prompt("s", "hello", 1000)).await;
    assert_eq!(socket.answer(&id).await.tokens, 20);
    let id = socket.send(json!({"type": "prompt", "session_id": "s", "prompt": "hello", "stream": true})).await;
    assert_eq!(socket.answer(&id).await.tokens, 8);
    assert_eq!(count(&node.settled_job(JOB).await, "/used_tokens"), 28);
}

#[tokio::test]
async fn side_by_side_no_job_is_overspent() {
    let (node, _) = scripted_at(500).await;
    let token = node.job_and_token("alice", "50", 50);
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let mut socket = node.native(&token).await;
        socket.request(json!({"type": "session_init", "session_id": "s", "job_id": "50"}), "session_init_ack").await;
        sockets.push(socket);
    }
    let mut ids = Vec::new();
    for socket in &mut sockets {
        ids.push(socket.send(prompt("s", "hello", 20)).await);
    }
    let mut delivered = 0;
    for (socket, id) in sockets.iter_mut().zip(&ids) {
        delivered += socket.answer(id).await.tokens;
    }
    assert_eq!(delivered, 50, "the budget is used to its end and no further");
    assert_eq!(count(&node.settled_job("50").await, "/used_tokens"), 50);
}

#[tokio::test]
async fn jobs_that_cannot_be_used_say_why() {
    let (node, _) = scripted().await;
    node.create_job("alice", "21", 100);
    let _ = node.command_ok(&["job", "close", "21"]);
    let _ =
        node.command_ok(&["job", "create", "--owner", "alice", "--id", "22", "--max-tokens", "9", "--model", "other"]);
    let _ =
        node.command_ok(&["job", "create", "--owner", "alice", "--id", "23", "--max-tokens", "9", "--expires-in", "1"]);
    testkit::eventually("the job expires", async || (node.job("23")["status"] == "expired").then_some(())).await;
    let table = [
        ("21", 403, "invalid_job"),
        ("22", 403, "model_unauthorized"),
        ("23", 403, "invalid_job"),
        ("404", 404, "job_not_found_on_chain"),
    ];
    for (job, expected_status, code) in table {
        let token = node.token("alice", job);
        let (status, body) = post(&node, "/v1/chat/completions", Some(&token), &chat("hello", 2)).await;
        assert_eq!((status, &body["error"]["code"]), (expected_status, &json!(code)), "job {job}: {body}");
    }
    let mut socket = node.native(&node.token("alice", "404")).await;
    let error = socket.request(json!({"type": "session_init", "session_id": "s", "job_id": "404"}), "error").await;
    assert_eq!(error["code"], "JOB_NOT_FOUND_ON_CHAIN");
}

#[tokio::test]
async fn opening_and_leaving_a_session_costs_nothing() {
    let (node, token) = scripted().await;
    for _ in 0..3 {
        session(&node, &token, "s").await.vanish();
    }
    let job = node.job(JOB);
    assert_eq!((count(&job, "/used_tokens"), count(&job, "/reserved_tokens")), (0, 0));
    assert_eq!(job["status"], "active");
}

#[tokio::test]
async fn a_client_that_goes_away_stops_its_generation() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    socket.send(prompt("s", "hello", 4000)).await;
    let delivered = count(&socket.expect("stream_chunk").await, "/tokens");
    socket.vanish();
    until_idle(&node).await;
    let used = count(&node.settled_job(JOB).await, "/used_tokens");
    assert!((delivered..2000).contains(&used), "{used} tokens charged; {delivered} were read of 4000");

    // The same over HTTP.
    let mut body = chat("hello", 4000);
    body["stream"] = json!(true);
    let response = crate::support::send(&node, "/v1/chat/completions", Some(&token), &body).await;
    let mut events = testkit::sse::Events::new(response);
    assert!(events.next().await.is_some());
    drop(events);
    let metrics = until_idle(&node).await;
    assert_eq!(metrics.sum("llm_node_engine_cancelled_requests_total", &[]), 2.0);
    let both = count(&node.settled_job(JOB).await, "/used_tokens");
    assert!(both - used < 2000, "{both} after {used}");
    assert_eq!(crate::support::generated(&metrics) as u64, both, "what was generated is what was charged");
}

#[tokio::test]
async fn the_commands_tell_what_is_so() {
    let (node, token) = scripted().await;
    let inspected = node.command_ok(&["token", "inspect", &token, "--json"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    assert!(inspected.to_string().contains("alice") && inspected.to_string().contains(JOB), "{inspected}");
    let list: serde_json::Value = serde_json::from_str(&node.command_ok(&["job", "list", "--json"])).expect("JSON");
    assert!(list.to_string().contains("alice"), "{list}");
    let job = node.job(JOB);
    for field in ["id", "owner", "status", "max_tokens", "used_tokens", "reserved_tokens"] {
        assert!(job.get(field).is_some(), "{field} in {job}");
    }
    let twice = node.command(&["job", "create", "--owner", "bob", "--id", JOB, "--max-tokens", "5"]);
    assert!(twice.code.is_some_and(|code| code != 0) && twice.stderr.contains(JOB), "{twice:?}");
}
