//! What is too much gets a clear end, and nobody else feels it.

use serde_json::json;
use testkit::{Config, Socket, TestNode};

use crate::support::{
    chat, chat_stream, count, generated, pace, post, prompt, scripted, send, session, until_idle, with, words,
};

#[tokio::test]
async fn an_oversized_message_closes_with_1009() {
    let (node, token) = with(Config::scripted().set("server.frame_bytes_max", "\"4KiB\"")).await;
    for path in ["/v1/ws", "/v1/responses"] {
        let mut socket = node.socket(path, Some(&token)).await.expect("a socket");
        let text = json!({"type": "ping", "padding": "x".repeat(6000)}).to_string();
        socket.try_send_text(&text).await;
        assert_eq!(socket.closed().await, Some(1009), "{path}");
    }
    assert_eq!(hits(&node, "frame_bytes_max").await, 2.0);
}

#[tokio::test]
async fn invalid_utf8_closes_with_1007() {
    let (node, token) = scripted().await;
    for path in ["/v1/ws", "/v1/responses"] {
        let mut socket = node.socket(path, Some(&token)).await.expect("a socket");
        socket.send_raw_text(b"{\"type\": \"\xff\xfe\"}").await;
        assert_eq!(socket.closed().await, Some(1007), "{path}");
    }
}

#[tokio::test]
async fn a_binary_frame_is_an_error() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    socket.send_binary(b"\x00\x01\x02").await;
    let error = socket.expect("error").await;
    assert_eq!(error["code"], "INVALID_REQUEST");
    let id = socket.send(prompt("s", "hello", 2)).await;
    assert_eq!(socket.answer(&id).await.text, words(2));
}

#[tokio::test]
async fn a_client_that_never_sends_is_closed() {
    let (node, token) = with(Config::scripted().set("server.first_message_timeout", "\"300ms\"")).await;
    for path in ["/v1/ws", "/v1/responses"] {
        let mut socket = node.socket(path, Some(&token)).await.expect("a socket");
        assert_eq!(socket.closed().await, Some(1008), "{path}");
    }
}

#[tokio::test]
async fn a_connection_that_sends_no_request_is_closed() {
    use tokio::io::AsyncReadExt as _;
    let (node, _) = with(Config::scripted().set("server.handshake_timeout", "\"300ms\"")).await;
    let mut stream = tokio::net::TcpStream::connect(node.public()).await.expect("connects");
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(testkit::DEADLINE, stream.read_to_end(&mut bytes)).await;
    read.expect("the node closes it").expect("in order");
    assert_eq!(hits(&node, "handshake_timeout").await, 1.0);
}

/// How often a limit was hit.
async fn hits(node: &TestNode, limit: &str) -> f64 {
    node.metrics().await.get("llm_node_limit_hits_total", &[("limit", limit)]).expect("a series")
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_nobody() {
    let (node, token) = with(pace(0)).await;
    let mut deaf = Vec::new();
    for _ in 0..4 {
        let mut socket = session(&node, &token, "s").await;
        socket.send(prompt("s", "hello", 3000)).await;
        deaf.push(socket);
    }
    let mut socket = session(&node, &token, "s").await;
    for _ in 0..5 {
        let mut message = prompt("s", "hello", 100);
        message["message_index"] = json!(0);
        let id = socket.send(message).await;
        assert_eq!(socket.answer(&id).await.tokens, 100);
    }
    drop(deaf);
}

#[tokio::test]
async fn connections_of_one_address_are_capped() {
    let (node, token) = with(Config::scripted().set("server.connections_per_address_max", 3)).await;
    let mut sockets = Vec::new();
    let mut refused = 0;
    for _ in 0..6 {
        match tokio::time::timeout(testkit::DEADLINE, try_open(&node, &token)).await.expect("an answer") {
            Some(socket) => sockets.push(socket),
            None => refused += 1,
        }
    }
    assert!(sockets.len() <= 3 && refused >= 3, "{} open, {refused} refused", sockets.len());
    // A place that is given back can be taken again.
    sockets.clear();
    testkit::eventually("a place is free again", async || try_open(&node, &token).await).await;
}

/// A socket, or `None` where the node refuses or hangs up.
async fn try_open(node: &TestNode, token: &str) -> Option<Socket> {
    let (address, token) = (node.public().to_owned(), format!("Bearer {token}"));
    let open = async move { Socket::open(&format!("ws://{address}/v1/ws"), &[("authorization", &token)]).await.ok() };
    // A hang-up without an answer panics in `open`: that is a refusal here.
    tokio::spawn(open).await.ok().flatten()
}

#[tokio::test]
async fn sessions_of_one_connection_are_capped() {
    let (node, token) = with(Config::scripted().set("server.sessions_per_connection_max", 2)).await;
    let mut socket = node.native(&token).await;
    for id in ["a", "b"] {
        crate::support::open_session(&mut socket, id).await;
    }
    let error = socket.request(json!({"type": "session_init", "session_id": "c", "job_id": "7"}), "error").await;
    assert_eq!(error["code"], "RATE_LIMIT");
    socket.request(json!({"type": "session_end", "session_id": "a"}), "session_end_ack").await;
    crate::support::open_session(&mut socket, "c").await;
}

#[tokio::test]
async fn browsers_are_let_in_by_their_origin() {
    let (node, token) = with(Config::scripted().set("server.allowed_origins", "[\"https://app.example\"]")).await;
    let bearer = format!("Bearer {token}");
    for path in ["/v1/ws", "/v1/responses"] {
        let url = format!("ws://{}{path}", node.public());
        for origin in ["https://evil.example", "null", "https://app.example.evil.example", "http://app.example"] {
            let headers = [("authorization", bearer.as_str()), ("origin", origin)];
            let refused = Socket::open(&url, &headers).await.expect_err(origin);
            assert_eq!(refused.status, 403, "{path} from {origin}: {refused:?}");
        }
        let headers = [("authorization", bearer.as_str()), ("origin", "https://app.example")];
        Socket::open(&url, &headers).await.unwrap_or_else(|refused| panic!("{path}: {refused:?}"));
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let (node, token) = with(Config::scripted().set("server.body_bytes_max", "\"8KiB\"")).await;
    for path in ["/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/inference"] {
        let body = chat(&"x".repeat(20_000), 2);
        let (status, answer) = post(&node, path, Some(&token), &body).await;
        assert_eq!(status, 413, "{path}: {answer}");
    }
    assert_eq!(generated(&node.metrics().await), 0.0);
}

#[tokio::test]
async fn an_answer_has_a_deadline() {
    let (node, token) = with(pace(10).set("server.request_timeout", "\"600ms\"")).await;
    let mut socket = session(&node, &token, "s").await;
    let id = socket.send(prompt("s", "hello", 1000)).await;
    let answer = socket.answer(&id).await;
    assert_eq!(answer.error.expect("an error")["code"], "TIMEOUT");
    assert_eq!(answer.end["reason"], "error");
    let job = node.settled_job("7").await;
    assert_eq!(job["used_tokens"], answer.tokens, "what was delivered before the deadline is charged");
    assert_eq!(hits(&node, "request_timeout").await, 1.0);
}

#[tokio::test]
async fn deeply_nested_and_huge_json_cost_nothing() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    let deep = format!("{{\"type\": \"prompt\", \"x\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    socket.send_text(&deep).await;
    assert_eq!(socket.expect("error").await["code"], "INVALID_REQUEST");
    // It was a prompt, so a stream was promised.
    assert_eq!(socket.expect("stream_end").await["reason"], "error");
    let body = "[".repeat(100_000);
    let response = node.http().post(node.url("/v1/chat/completions")).bearer_auth(&token).body(body);
    let response = response.header("content-type", "application/json").send().await.expect("an answer");
    assert_eq!(response.status(), 400);
    socket.request(json!({"type": "ping"}), "pong").await;
}

/// How a client that never reads asks for an answer.
#[derive(Debug)]
enum Deaf {
    Sse,
    Native,
}

#[tokio::test]
async fn a_client_that_never_reads_loses_its_answer_and_its_connection() {
    const WISH: u64 = 900_000;
    for deaf in [Deaf::Sse, Deaf::Native] {
        let config = pace(0)
            .set("server.write_timeout", "\"300ms\"")
            .set("server.connections_per_address_max", 2)
            .set("engine.context_tokens", 4_000_000)
            .set("jobs.max_tokens_per_request", 1_000_000);
        let (node, token) = with(config).await;
        let stream = ask_and_never_read(&node, &token, &deaf, WISH).await;
        // Two are let in: it, and the one on which the test asked for readiness. Operators' places are others.
        assert_eq!(hits(&node, "connections_per_address_max").await, 0.0);
        assert!(try_open(&node, &token).await.is_none(), "no place is left");
        testkit::eventually(&format!("{deaf:?} is given up"), async || {
            (hits(&node, "write_timeout").await >= 1.0).then_some(())
        })
        .await;
        testkit::eventually(&format!("the connection of {deaf:?} is closed"), async || {
            (!is_open(&stream)).then_some(())
        })
        .await;
        let made = generated(&until_idle(&node).await);
        assert!(made < WISH as f64, "generation stopped, not only delivery: {made}");
        let used = count(&node.settled_job("7").await, "/used_tokens");
        assert!((1..WISH).contains(&used) && used as f64 <= made, "{used} of {made} is charged");
        // Its place is free again.
        testkit::eventually("another is let in", async || try_open(&node, &token).await).await;
    }
}

async fn ask_and_never_read(node: &TestNode, token: &str, deaf: &Deaf, tokens: u64) -> tokio::net::TcpStream {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    // A small window, so that megabytes do not disappear in the kernel.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    let mut stream = socket.connect(node.public().parse().expect("an address")).await.expect("connects");
    let head =
        |line: &str, more: &str| format!("{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{more}\r\n");
    match deaf {
        Deaf::Sse => {
            let body = chat_stream("hello", tokens).to_string();
            let more = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
            let head = head("POST /v1/chat/completions", &more);
            stream.write_all((head + &body).as_bytes()).await.expect("sends");
        }
        Deaf::Native => {
            let more = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
            stream.write_all(head("GET /v1/ws", more).as_bytes()).await.expect("sends");
            // RFC 6455 section 1.3 has this answer to that key.
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(stream.read_u8().await.expect("an answer"));
            }
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.starts_with("HTTP/1.1 101") && answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
            let init = json!({"type": "session_init", "session_id": "s", "job_id": "7"});
            for message in [init, prompt("s", "hello", tokens)] {
                stream.write_all(&masked_text(&message.to_string())).await.expect("sends");
            }
        }
    }
    stream
}

/// A text frame with a length of 16 bits, masked with zeros (RFC 6455 section 5.2).
fn masked_text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("short").to_be_bytes();
    let mut frame = vec![0x81, 0x80 | 126, length[0], length[1], 0, 0, 0, 0];
    frame.extend(text.as_bytes());
    frame
}

/// Whether the node's end of a connection is open, by the kernel's table: its remote port is ours, its state 01
/// (ESTABLISHED).
pub(crate) fn is_open(stream: &tokio::net::TcpStream) -> bool {
    let ours = format!(":{:04X}", stream.local_addr().expect("an address").port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 3 && fields[2].ends_with(&ours) && fields[3] == "01"
    })
}

#[tokio::test]
async fn a_full_node_answers_429_and_when_to_come_again() {
    let (node, token) = with(pace(1).set("engine.scripted_in_flight_max", 1)).await;
    let mut socket = session(&node, &token, "s").await;
    let running = socket.send(prompt("s", "hello", 4000)).await;
    socket.expect("stream_chunk").await;
    for (path, mut body) in [
        ("/v1/chat/completions", chat("hi", 4)),
        ("/v1/completions", json!({"model": "default", "prompt": "hi", "max_tokens": 4})),
        ("/v1/responses", json!({"model": "default", "input": "hi", "max_output_tokens": 4})),
        ("/v1/inference", json!({"model": "default", "prompt": "hi", "max_tokens": 4})),
    ] {
        for stream in [false, true] {
            body["stream"] = json!(stream);
            let response = send(&node, path, Some(&token), &body).await;
            assert_eq!(response.status(), 429, "{path}");
            assert_eq!(response.headers()["retry-after"], "1", "{path}");
            let error: serde_json::Value = response.json().await.expect("JSON");
            let code = error.pointer("/error/code").or(error.get("error_type"));
            assert!(
                matches!(code.and_then(|code| code.as_str()), Some("rate_limit_exceeded" | "RATE_LIMIT")),
                "{error}"
            );
        }
    }
    let mut other = session(&node, &token, "other").await;
    let refused = other.send(prompt("other", "hi", 4)).await;
    assert_eq!(other.answer(&refused).await.error.expect("an error")["code"], "RATE_LIMIT");
    socket.send(json!({"type": "stream_cancel", "session_id": "s"})).await;
    let answer = loop {
        let frame = socket.json().await;
        if frame["type"] == "stream_end" {
            break frame;
        }
    };
    assert_eq!((&answer["id"], &answer["reason"]), (&json!(running), &json!("cancelled")));
    let refused = other.send(prompt("other", "hi", 1)).await;
    assert_eq!(other.answer(&refused).await.text, words(1), "a place is free");
    let used = count(&node.settled_job("7").await, "/used_tokens");
    assert_eq!(used, count(&answer, "/tokens_used") + 1, "what was refused is not charged");
}
