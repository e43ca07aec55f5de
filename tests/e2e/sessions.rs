//! Sessions: how many, how long, whose, and who ends them.

use serde_json::{Value, json};
use testkit::{Config, Received, Socket, TestNode, eventually};

use crate::support::{JOB, open_session, pace, prompt, session, until_idle, with, words};

/// A count of `llm_node_session_events_total`.
async fn events(node: &TestNode, event: &str) -> f64 {
    node.metrics().await.get("llm_node_session_events_total", &[("event", event)]).expect("a series")
}

async fn open_sessions(node: &TestNode) -> f64 {
    node.metrics().await.get("ws_active_sessions", &[]).expect("a series")
}

fn limited(max: u32, policy: &str) -> Config {
    pace(100).set("auth.max_sessions_per_user", max).set("auth.session_policy", format!("{policy:?}"))
}

fn init(id: &str) -> Value {
    json!({"type": "session_init", "session_id": id, "job_id": JOB})
}

/// A token of the operator.
fn admin(node: &TestNode) -> String {
    node.command_ok(&["token", "issue", "--subject", "operator", "--job", JOB, "--permissions", "admin"])
}

async fn operate(node: &TestNode, method: reqwest::Method, path: &str) -> (u16, Value) {
    let request = node.http().request(method, format!("http://{}{path}", node.admin())).bearer_auth(admin(node));
    let response = request.send().await.expect("the node answers");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

/// Reads up to the end of a stream and of its session; the texts of both.
async fn cut_short(socket: &mut Socket, reason: &str) -> Value {
    let mut end = Value::Null;
    loop {
        let message = socket.json().await;
        match message["type"].as_str() {
            Some("stream_end") => end = message,
            Some("session_ended") => {
                assert_eq!(message["reason"], reason, "{message}");
                return end;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_user_may_have_so_many_sessions_over_all_connections() {
    let (node, token) = with(limited(2, "refuse")).await;
    let bob = node.job_and_token("bob", "8", 1000);
    let mut first = session(&node, &token, "a").await;
    let responses = node.socket("/v1/responses", Some(&token)).await.expect("the second session");
    let mut third = node.native(&token).await;
    let error = third.request(init("c"), "error").await;
    assert_eq!((&error["code"], &error["details"]["max_sessions_per_user"]), (&json!("SESSION_LIMIT"), &json!(2)));
    // Nor does a prompt open one by the back door, or another Responses socket.
    let error = third.request(json!({"type": "prompt", "prompt": "hi", "job_id": JOB, "stream": false}), "error").await;
    assert_eq!(error["code"], "SESSION_LIMIT");
    assert_eq!(node.socket("/v1/responses", Some(&token)).await.expect_err("one too many").status, 429);
    // Another user has places of their own, and the first may begin theirs anew.
    let mut other = node.native(&bob).await;
    other.request(json!({"type": "session_init", "session_id": "a", "job_id": "8"}), "session_init_ack").await;
    first.request(init("a"), "session_init_ack").await;
    assert_eq!((open_sessions(&node).await, events(&node, "refused").await), (3.0, 3.0));
    let limit = [("limit", "max_sessions_per_user")];
    assert_eq!(node.metrics().await.sum("llm_node_limit_hits_total", &limit), 3.0);

    first.request(json!({"type": "session_end", "session_id": "a"}), "session_end_ack").await;
    third.request(init("c"), "session_init_ack").await;
    responses.vanish();
    eventually("its place is free", async || (open_sessions(&node).await == 2.0).then_some(())).await;
    open_session(&mut first, "d").await;
}

#[tokio::test]
async fn the_oldest_session_gives_way_where_the_operator_wants_it() {
    let (node, token) = with(limited(1, "replace_oldest")).await;
    let mut old = session(&node, &token, "old").await;
    let id = old.send(prompt("old", "go on", 3000)).await;
    old.expect("stream_chunk").await;
    let mut new = session(&node, &token, "new").await;
    let end = cut_short(&mut old, "replaced").await;
    assert_eq!((&end["id"], &end["reason"]), (&json!(id), &json!("cancelled")));
    until_idle(&node).await;
    // What is asked on it is refused, and not answered without its history.
    let mut message = prompt("old", "and now", 2);
    message["stream"] = json!(false);
    assert_eq!(old.request(message, "error").await["code"], "SESSION_EXPIRED");
    let unnamed = json!({"type": "prompt", "prompt": "and now", "stream": false});
    assert_eq!(old.request(unnamed, "error").await["code"], "SESSION_EXPIRED");
    let id = new.send(prompt("new", "hello", 2)).await;
    assert_eq!(new.answer(&id).await.text, words(2));
    // A Responses socket is a session like the others.
    let mut responses = node.socket("/v1/responses", Some(&token)).await.expect("the newest");
    cut_short(&mut new, "replaced").await;
    open_session(&mut old, "old").await;
    let error = responses.json().await;
    assert_eq!((&error["type"], &error["error"]["code"]), (&json!("error"), &json!("session_expired")));
    assert_eq!(responses.closed().await, Some(1008));
    assert_eq!((open_sessions(&node).await, events(&node, "replaced").await), (1.0, 3.0));
}

#[tokio::test]
async fn idle_sessions_end_and_busy_ones_do_not() {
    let (node, token) = with(pace(20).set("auth.session_idle_timeout", "\"1s\"")).await;
    let mut socket = session(&node, &token, "s").await;
    // Two seconds of answer, and pings: neither a busy session nor a talkative connection.
    let id = socket.send(prompt("s", "go", 40)).await;
    assert_eq!(socket.answer(&id).await.text, words(40));
    socket.request(json!({"type": "ping"}), "pong").await;
    let ended = socket.expect("session_ended").await;
    assert_eq!((&ended["session_id"], &ended["reason"]), (&json!("s"), &json!("idle_timeout")));
    let error = socket.request(json!({"type": "session_end", "session_id": "s"}), "error").await;
    assert_eq!(error["code"], "SESSION_EXPIRED");
    assert_eq!(events(&node, "expired_idle").await, 1.0);
    // The connection stays, and the name can be opened anew.
    open_session(&mut socket, "s").await;
    let id = socket.send(prompt("s", "again", 2)).await;
    assert_eq!(socket.answer(&id).await.text, words(2));
    let mut responses = node.socket("/v1/responses", Some(&token)).await.expect("a socket");
    assert_eq!(responses.closed().await, Some(1008));
}

#[tokio::test]
async fn a_session_has_a_longest_life() {
    let (node, token) = with(pace(20).set("auth.session_lifetime", "\"1s\"")).await;
    let mut socket = session(&node, &token, "s").await;
    let id = socket.send(prompt("s", "go", 40)).await;
    assert_eq!(socket.answer(&id).await.text, words(40), "what runs is finished");
    assert_eq!(socket.expect("session_ended").await["reason"], "lifetime");
    assert_eq!(events(&node, "expired_lifetime").await, 1.0);
}

#[tokio::test]
async fn a_session_is_resumed_by_its_own_identity_alone() {
    let (node, token) = with(pace(100)).await;
    let mallory = node.job_and_token("mallory", "8", 1000);
    let resume = json!({
        "type": "session_resume", "session_id": "s", "last_message_index": 0,
        "conversation_context": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    });
    let alice = session(&node, &token, "s").await;
    let mut thief = node.native(&mallory).await;
    assert_eq!(thief.request(resume.clone(), "error").await["code"], "SESSION_AUTH_DENIED");
    alice.vanish();
    eventually("her connection is gone", async || (open_sessions(&node).await == 0.0).then_some(())).await;
    assert_eq!(thief.request(resume.clone(), "error").await["code"], "SESSION_AUTH_DENIED");
    assert_eq!(events(&node, "denied").await, 2.0);
    let mut alice = node.native(&token).await;
    alice.request(resume, "session_resume_ack").await;
    // The name alone reserves nothing: a session of one's own may have it.
    thief.request(json!({"type": "session_init", "session_id": "s", "job_id": "8"}), "session_init_ack").await;
    let id = alice.send(prompt("s", "hello", 2)).await;
    assert_eq!(alice.answer(&id).await.text, words(2));
}

#[tokio::test]
async fn a_resume_at_the_limit_takes_its_own_place() {
    let (node, token) = with(limited(1, "refuse")).await;
    let mut half_dead = session(&node, &token, "s").await;
    let mut socket = node.native(&token).await;
    let resume = json!({"type": "session_resume", "session_id": "s", "conversation_context": []});
    socket.request(resume, "session_resume_ack").await;
    assert_eq!(half_dead.expect("session_ended").await["reason"], "resumed");
    assert_eq!(half_dead.request(init("t"), "error").await["code"], "SESSION_LIMIT");
}

#[tokio::test]
async fn the_operator_sees_sessions_without_their_content() {
    let (node, token) = with(pace(50)).await;
    let mut socket = session(&node, &token, "mine").await;
    let _responses = node.socket("/v1/responses", Some(&token)).await.expect("a socket");
    let id = socket.send(prompt("mine", "the-secret-words", 400)).await;
    socket.expect("stream_chunk").await;
    let (status, body) = operate(&node, reqwest::Method::GET, "/admin/v1/sessions").await;
    assert_eq!((status, &body["total"]), (200, &json!(2)), "{body}");
    let listed = &body["sessions"][0];
    let expected = json!({
        "session_id": "mine", "subject": "alice", "job_id": JOB, "transport": "native_ws", "address": "127.0.0.1",
        "active_requests": 1, "bound_key": null,
    });
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(&listed[name], value, "{name} in {listed}");
    }
    assert_eq!(listed["id"].as_str().map(str::len), Some(32), "128 random bits: {listed}");
    assert!(listed["connected_since"].as_u64() <= listed["last_activity"].as_u64(), "{listed}");
    assert_eq!(body["sessions"][1]["transport"], "responses_ws");
    for secret in ["the-secret-words", token.as_str(), "w0"] {
        assert!(!body.to_string().contains(secret), "{secret} in {body}");
    }
    let (_, body) = operate(&node, reqwest::Method::GET, "/admin/v1/sessions?subject=bob").await;
    assert_eq!(body, json!({"sessions": [], "total": 0}));
    let (_, body) = operate(&node, reqwest::Method::GET, "/admin/v1/sessions?limit=1").await;
    assert_eq!((body["sessions"].as_array().map(Vec::len), &body["total"]), (Some(1), &json!(2)));
    socket.send(json!({"type": "stream_cancel", "session_id": "mine", "id": id})).await;
}

#[tokio::test]
async fn the_operator_ends_a_session() {
    let (node, token) = with(pace(50)).await;
    let mut socket = session(&node, &token, "mine").await;
    open_session(&mut socket, "other").await;
    socket.send(prompt("mine", "go on", 3000)).await;
    socket.expect("stream_chunk").await;
    let (_, body) = operate(&node, reqwest::Method::GET, "/admin/v1/sessions").await;
    let sessions = body["sessions"].as_array().expect("a list");
    let id = |name: &str| {
        let found = sessions.iter().find(|session| session["session_id"] == name).expect(name);
        found["id"].as_str().expect("an id").to_owned()
    };
    let (mine, other) = (format!("/admin/v1/sessions/{}", id("mine")), format!("/admin/v1/sessions/{}", id("other")));
    assert_eq!(operate(&node, reqwest::Method::DELETE, &mine).await.0, 200);
    assert_eq!(cut_short(&mut socket, "operator").await["reason"], "cancelled");
    until_idle(&node).await;
    assert_eq!(operate(&node, reqwest::Method::DELETE, &mine).await.0, 404, "once");
    // The connection has another session: it stays until that is ended as well.
    let mut message = prompt("mine", "again", 2);
    message["stream"] = json!(false);
    assert_eq!(socket.request(message, "error").await["code"], "SESSION_EXPIRED");
    let answer = socket.send(prompt("other", "hello", 2)).await;
    assert_eq!(socket.answer(&answer).await.text, words(2));
    assert_eq!(operate(&node, reqwest::Method::DELETE, &other).await.0, 200);
    cut_short(&mut socket, "operator").await;
    assert_eq!(socket.recv().await, Received::Closed(Some(4403)));
    assert_eq!(events(&node, "ended_by_operator").await, 2.0);

    let mut responses = node.socket("/v1/responses", Some(&token)).await.expect("a socket");
    let (_, body) = operate(&node, reqwest::Method::GET, "/admin/v1/sessions").await;
    let path = format!("/admin/v1/sessions/{}", body["sessions"][0]["id"].as_str().expect("an id"));
    assert_eq!(operate(&node, reqwest::Method::DELETE, &path).await.0, 200);
    assert_eq!(responses.json().await["error"]["code"], "session_expired");
    assert_eq!(responses.recv().await, Received::Closed(Some(4403)));
}
