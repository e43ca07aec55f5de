//! What is too much gets a clear end, and nobody else feels it.

use serde_json::json;
use testkit::{Config, Socket, TestNode};

use crate::support::{chat, generated, pace, post, prompt, scripted, session, with, words};

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

#[tokio::test]
async fn a_client_that_never_reads_loses_its_connection() {
    use tokio::io::AsyncWriteExt as _;
    let config = pace(0)
        .set("server.write_timeout", "\"300ms\"")
        .set("engine.context_tokens", 4_000_000)
        .set("jobs.max_tokens_per_request", 1_000_000);
    let (node, token) = with(config).await;
    let body = crate::support::chat_stream("hello", 900_000).to_string();
    // A small window, so that megabytes do not disappear in the kernel.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    let mut deaf = socket.connect(node.public().parse().expect("an address")).await.expect("connects");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    deaf.write_all(head.as_bytes()).await.expect("sends");
    deaf.write_all(body.as_bytes()).await.expect("sends");
    testkit::eventually("it is given up", async || (hits(&node, "write_timeout").await >= 1.0).then_some(())).await;
    testkit::eventually("its connection is closed", async || (!is_open(&deaf)).then_some(())).await;
}

/// Whether the node's end of a connection is open, by the kernel's table: its remote port is ours, its state 01
/// (ESTABLISHED).
fn is_open(stream: &tokio::net::TcpStream) -> bool {
    let ours = format!(":{:04X}", stream.local_addr().expect("an address").port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 3 && fields[2].ends_with(&ours) && fields[3] == "01"
    })
}
