//! WebSocket mode of the Responses API.

use serde_json::{Value, json};
use testkit::{Socket, TestNode};

use crate::support::{JOB, count, pace, scripted, scripted_at, until_idle, with, words};

async fn open(node: &TestNode, token: &str) -> Socket {
    node.socket("/v1/responses", Some(token)).await.expect("an upgrade")
}

fn create(input: &str, max_output_tokens: u64) -> Value {
    json!({"type": "response.create", "model": "default", "input": input, "max_output_tokens": max_output_tokens, "temperature": 0})
}

/// Everything up to the terminal event of `lane`; events of other lanes are dropped.
async fn finish(socket: &mut Socket, lane: Option<&str>) -> (String, Value) {
    let mut text = String::new();
    loop {
        let event = socket.json().await;
        if event.get("stream_id").and_then(Value::as_str) != lane {
            continue;
        }
        match event["type"].as_str().expect("a type") {
            "response.output_text.delta" => text += event["delta"].as_str().expect("text"),
            "response.completed" | "response.incomplete" | "response.failed" | "error" => return (text, event),
            _ => {}
        }
    }
}

/// Reads up to the first text.
async fn begun(socket: &mut Socket) {
    while socket.json().await["type"] != "response.output_text.delta" {}
}

#[tokio::test]
async fn a_socket_needs_a_token() {
    let (node, _) = scripted().await;
    for token in [None, Some("nonsense")] {
        let refused = node.socket("/v1/responses", token).await.expect_err("no upgrade");
        assert_eq!(refused.status, 401);
    }
}

#[tokio::test]
async fn responses_follow_one_another_and_continue() {
    let (node, token) = scripted().await;
    let mut socket = open(&node, &token).await;
    let mut first = create("one two", 3);
    first["store"] = json!(false);
    socket.send_plain(&first).await;
    let (text, done) = finish(&mut socket, None).await;
    assert_eq!((text, &done["type"]), (words(3), &json!("response.incomplete")));
    let id = done["response"]["id"].clone();
    let mut second = create("three", 3);
    second["previous_response_id"] = id.clone();
    second["store"] = json!(false);
    socket.send_plain(&second).await;
    let (_, done) = finish(&mut socket, None).await;
    assert_eq!(done["response"]["usage"]["input_tokens"], 6);
    // A lane keeps its latest only, and another connection nothing of it.
    socket.send_plain(&second).await;
    let (_, error) = finish(&mut socket, None).await;
    assert_eq!((&error["status"], &error["error"]["code"]), (&json!(400), &json!("previous_response_not_found")));
    let mut other = open(&node, &token).await;
    other.send_plain(&second).await;
    assert_eq!(finish(&mut other, None).await.1["error"]["code"], "previous_response_not_found");
    assert_eq!(node.settled_job(JOB).await["used_tokens"], 6);
}

#[tokio::test]
async fn warming_up_generates_nothing_and_can_be_continued() {
    let (node, token) = scripted().await;
    let mut socket = open(&node, &token).await;
    let mut warm = create("one two three", 3);
    warm["generate"] = json!(false);
    socket.send_plain(&warm).await;
    let (text, done) = finish(&mut socket, None).await;
    assert_eq!((text.as_str(), &done["type"]), ("", &json!("response.completed")));
    let mut next = create("four", 2);
    next["previous_response_id"] = done["response"]["id"].clone();
    socket.send_plain(&next).await;
    assert_eq!(finish(&mut socket, None).await.1["response"]["usage"]["input_tokens"], 4);
    assert_eq!(node.settled_job(JOB).await["used_tokens"], 2);
}

#[tokio::test]
async fn lanes_run_side_by_side_and_echo_their_name() {
    let (node, token) = scripted_at(50).await;
    let mut socket = open(&node, &token).await;
    for (lane, tokens) in [("slow", 60), ("quick", 3)] {
        let mut message = create("go", tokens);
        message["stream_id"] = json!(lane);
        socket.send_plain(&message).await;
    }
    assert_eq!(finish(&mut socket, Some("quick")).await.0, words(3), "it does not wait for the slow one");
    let (_, done) = finish(&mut socket, Some("slow")).await;
    assert_eq!(done["type"], "response.incomplete");
}

#[tokio::test]
async fn errors_leave_the_socket_usable() {
    let (node, token) = scripted().await;
    let mut socket = open(&node, &token).await;
    let with = |name: &str, value: Value| {
        let mut message = create("hi", 2);
        message[name] = value;
        message.to_string()
    };
    let cases = [
        ("{".to_owned(), "invalid_request"),
        (json!({"type": "dance"}).to_string(), "invalid_request"),
        (json!({"type": "response.steer", "input": "x"}).to_string(), "unsupported"),
        (with("stream_id", json!("a b")), "invalid_stream_id"),
        (with("stream_id", json!("x".repeat(257))), "invalid_stream_id"),
        (with("previous_response_id", json!("resp_unknown")), "previous_response_not_found"),
        (with("temperature", json!(7)), "invalid_request"),
        (with("model", json!("gpt-99")), "model_not_found"),
        (with("input", json!("word ".repeat(5000))), "context_length_exceeded"),
    ];
    for (text, code) in cases {
        socket.send_text(&text).await;
        let error = socket.json().await;
        assert_eq!((&error["type"], &error["error"]["code"]), (&json!("error"), &json!(code)), "{error}");
        assert!(error["status"].is_u64() && error["error"]["message"].is_string(), "{error}");
    }
    socket.send_binary(b"\0\x01").await;
    assert_eq!(socket.json().await["type"], "error");
    socket.send_plain(&create("hi", 2)).await;
    assert_eq!(finish(&mut socket, None).await.0, words(2), "and it goes on");
}

#[tokio::test]
async fn lanes_are_bounded() {
    let (node, token) = scripted().await;
    let mut socket = open(&node, &token).await;
    for lane in 0..33 {
        let mut message = create("hi", 1);
        message["stream_id"] = json!(format!("lane-{lane}"));
        socket.send_plain(&message).await;
    }
    let (_, refused) = finish(&mut socket, Some("lane-32")).await;
    assert_eq!(refused["error"]["code"], "websocket_stream_limit_reached");
}

#[tokio::test]
async fn cancelling_and_leaving_stop_the_generation() {
    let (node, token) = scripted_at(100).await;
    let mut socket = open(&node, &token).await;
    socket.send_plain(&create("go", 3000)).await;
    begun(&mut socket).await;
    socket.send_plain(&json!({"type": "response.cancel"})).await;
    let (_, done) = finish(&mut socket, None).await;
    assert_ne!(done["type"], "response.completed", "{done}");
    until_idle(&node).await;
    socket.send_plain(&create("go", 3000)).await;
    begun(&mut socket).await;
    socket.vanish();
    until_idle(&node).await;
    let used = node.settled_job(JOB).await["used_tokens"].as_u64().expect("a count");
    assert!(used < 1000, "{used}");
}

#[tokio::test]
async fn a_failed_continuation_ends_its_own_lane_alone() {
    let (node, token) = scripted().await;
    let mut socket = open(&node, &token).await;
    let mut first = create("one two", 2);
    (first["store"], first["stream_id"]) = (json!(false), json!("source"));
    socket.send_plain(&first).await;
    let id = finish(&mut socket, Some("source")).await.1["response"]["id"].clone();
    let continued = |lane: &str, temperature: u32| {
        let mut message = create("three", 2);
        (message["store"], message["stream_id"]) = (json!(false), json!(lane));
        (message["previous_response_id"], message["temperature"]) = (id.clone(), json!(temperature));
        message
    };
    for (lane, temperature, code) in [
        ("fork", 9, json!("invalid_request")),
        ("fork", 0, Value::Null),
        ("source", 9, json!("invalid_request")),
        ("source", 0, json!("previous_response_not_found")),
        ("fork", 0, json!("previous_response_not_found")),
    ] {
        socket.send_plain(&continued(lane, temperature)).await;
        let (_, last) = finish(&mut socket, Some(lane)).await;
        assert_eq!(last["error"]["code"], code, "{lane} {temperature}: {last}");
    }
}

#[tokio::test]
async fn a_lane_forgets_its_last_response_for_one_that_is_stored() {
    let (node, token) = scripted().await;
    let mut socket = open(&node, &token).await;
    let mut message = create("one two", 2);
    message["store"] = json!(false);
    socket.send_plain(&message).await;
    let first = finish(&mut socket, None).await.1["response"]["id"].clone();
    message["store"] = json!(true);
    socket.send_plain(&message).await;
    let second = finish(&mut socket, None).await.1["response"]["id"].clone();
    for (id, code) in
        [(first, json!("previous_response_not_found")), (second.clone(), Value::Null), (second, Value::Null)]
    {
        message["previous_response_id"] = id;
        socket.send_plain(&message).await;
        assert_eq!(finish(&mut socket, None).await.1["error"]["code"], code);
    }
}

#[tokio::test]
async fn a_node_that_is_told_to_stop_finishes_its_responses_and_closes_with_1012() {
    let (mut node, token) = scripted_at(50).await;
    let mut socket = open(&node, &token).await;
    let mut idle = open(&node, &token).await;
    idle.send_plain(&create("hi", 1)).await;
    finish(&mut idle, None).await;
    let mut message = create("go", 60);
    message["stream_id"] = json!("running");
    socket.send_plain(&message).await;
    begun(&mut socket).await;
    node.sigterm();
    assert_eq!(idle.closed().await, Some(1012), "nothing runs on it");
    let mut late = create("and me?", 5);
    late["stream_id"] = json!("late");
    socket.send_plain(&late).await;
    // Refused beside the answer that still runs: events of both come mixed.
    let (mut text, mut refused) = (String::new(), false);
    let end = loop {
        let event = socket.json().await;
        match (event["stream_id"].as_str(), event["type"].as_str().expect("a type")) {
            (Some("late"), "error") => {
                assert_eq!((&event["error"]["code"], &event["status"]), (&json!("shutting_down"), &json!(503)));
                refused = true;
            }
            (Some("running"), "response.output_text.delta") => text += event["delta"].as_str().expect("text"),
            (Some("running"), "response.incomplete" | "response.completed") => break event,
            (Some("running"), _) => {}
            _ => panic!("{event}"),
        }
    };
    assert!(refused);
    assert!(words(60).ends_with(&text) && end["response"]["usage"]["output_tokens"] == 60, "{text} {end}");
    assert_eq!(socket.closed().await, Some(1012));
    assert_eq!(node.ended().await, Some(0));
    let job = node.job(JOB);
    assert_eq!((count(&job, "/used_tokens"), count(&job, "/reserved_tokens")), (61, 0), "{job}");
}

#[tokio::test]
async fn a_connection_that_lived_long_enough_is_told_and_closed_with_1001() {
    let (node, token) = with(pace(50).set("server.responses_connection_lifetime", "\"1s\"")).await;
    let mut socket = open(&node, &token).await;
    socket.send_plain(&create("go", 3000)).await;
    begun(&mut socket).await;
    let error = loop {
        let event = socket.json().await;
        if event["type"] == "error" {
            break event;
        }
        assert!(event["type"].as_str().is_some_and(|kind| kind.starts_with("response.")), "{event}");
    };
    assert_eq!(error["error"]["code"], "websocket_connection_limit_reached", "{error}");
    assert_eq!(error["status"], 400, "{error}");
    // The official SDKs reconnect on 1001, not on 1000.
    assert_eq!(socket.closed().await, Some(1001));
    // What ran is cancelled, and charged at what was delivered.
    until_idle(&node).await;
    let used = count(&node.settled_job(JOB).await, "/used_tokens");
    assert!((1..200).contains(&used), "{used}");
    let hits = node.metrics().await.get("llm_node_limit_hits_total", &[("limit", "responses_connection_lifetime")]);
    assert_eq!(hits, Some(1.0));
}
