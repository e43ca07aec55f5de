//! What somebody without a token can cost.

use serde_json::json;
use testkit::{Config, DEADLINE, Received, Socket, TestNode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::hits;
use crate::support::{JOB, open_session, scripted, with};

/// Sends a head (and no body) and reads to the end of the connection.
async fn head_only(node: &TestNode, head: &str) -> String {
    let mut stream = TcpStream::connect(node.public()).await.expect("connects");
    stream.write_all(head.as_bytes()).await.expect("sends");
    let mut answer = Vec::new();
    // Closed by a reset or in order.
    let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the node answers and closes");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn no_body_is_awaited_before_the_token() {
    let (node, _) = scripted().await;
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/inference"] {
        for length in [
            "content-length: 1000000000",
            "transfer-encoding: chunked",
            "content-length: 1000000000\r\nexpect: 100-continue",
        ] {
            for token in ["", "authorization: Bearer abc\r\n"] {
                let head = format!(
                    "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{token}{length}\r\n\r\n"
                );
                let answer = head_only(&node, &head).await;
                assert!(answer.starts_with("HTTP/1.1 401 "), "{path} {length}: {answer}");
                assert!(!answer.contains("100 Continue"), "nothing is asked for: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn a_long_head_is_refused() {
    let (node, _) = scripted().await;
    let long = format!("GET /health HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(20_000));
    assert!(head_only(&node, &long).await.starts_with("HTTP/1.1 431 "));
    let many: String = (0..100).map(|index| format!("x-{index}: 1\r\n")).collect();
    assert!(
        head_only(&node, &format!("GET /health HTTP/1.1\r\nhost: x\r\n{many}\r\n")).await.starts_with("HTTP/1.1 431 ")
    );
}

#[tokio::test]
async fn a_socket_without_a_token_may_send_little() {
    let (node, token) = with(Config::scripted().set("server.unauthenticated_bytes_max", "\"16KiB\"")).await;
    let open = async || Socket::open(&format!("ws://{}/v1/ws", node.public()), &[]).await.expect("a socket");
    let padded = |bytes: usize| json!({"type": "ping", "padding": "x".repeat(bytes)}).to_string();
    // In one message, and in many.
    let mut socket = open().await;
    socket.try_send_text(&padded(40_000)).await;
    assert_eq!(socket.closed().await, Some(1009));
    let mut socket = open().await;
    for _ in 0..15 {
        socket.try_send_text(&padded(2000)).await;
    }
    assert!(matches!(socket.closed().await, Some(1009) | None));
    assert_eq!(hits(&node, "unauthenticated_bytes_max").await, 2.0);
    // Who is known may send more: by the header or by a message.
    let mut known = open().await;
    known.request(json!({"type": "auth", "token": token}), "auth_ack").await;
    for mut socket in [known, node.native(&token).await] {
        open_session(&mut socket, "s").await;
        for _ in 0..3 {
            socket.send_text(&padded(40_000)).await;
            let Received::Json(reply) = socket.recv().await else { panic!("it was closed") };
            let reply = if reply["type"] == "connected" { socket.json().await } else { reply };
            assert_eq!(reply["type"], "pong", "{reply}");
        }
    }
    assert_eq!(node.settled_job(JOB).await["used_tokens"], 0);
}
