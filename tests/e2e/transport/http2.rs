//! What HTTP/2 lets a client try.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::{Method, Request};
use rustls::ClientConfig;
use testkit::{Config, DEADLINE, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::{HOST, TlsNode, hits};
use crate::support::{JOB, chat, chat_stream, until_idle};

/// A connection, and the task that ends with it.
struct Connection {
    send: SendRequest<Bytes>,
    ended: JoinHandle<Result<(), h2::Error>>,
}

async fn connect_tls(node: &TlsNode) -> TlsStream<TcpStream> {
    let mut tls = ClientConfig::clone(&node.tls);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(node.node.public()).await.expect("the node listens");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let stream = connector.connect(HOST.try_into().expect("a name"), stream).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    stream
}

async fn connect(node: &TlsNode, builder: &mut Builder) -> Connection {
    let (send, connection) = builder.handshake(connect_tls(node).await).await.expect("HTTP/2");
    Connection { send, ended: tokio::spawn(connection) }
}

impl Connection {
    async fn ask(&mut self, request: http::request::Builder, body: Option<Bytes>) -> ResponseFuture {
        let mut send = self.send.clone().ready().await.expect("a stream is free");
        let request = request.body(()).expect("a request");
        let (answer, mut stream) = send.send_request(request, body.is_none()).expect("it is sent");
        if let Some(body) = body {
            stream.send_data(body, true).expect("it is sent");
        }
        answer
    }

    /// Waits until the node closes it.
    async fn closed(self) -> Result<(), h2::Error> {
        timeout(DEADLINE, self.ended).await.expect("the node closes it").expect("no panic")
    }
}

fn get(path: &str) -> http::request::Builder {
    Request::builder().method(Method::GET).uri(format!("https://{HOST}{path}"))
}

fn post(node: &TlsNode, path: &str) -> http::request::Builder {
    get(path)
        .method(Method::POST)
        .header("authorization", format!("Bearer {}", node.token))
        .header("content-type", "application/json")
}

async fn status(answer: ResponseFuture) -> u16 {
    timeout(DEADLINE, answer).await.expect("an answer").expect("an answer").status().as_u16()
}

#[tokio::test]
async fn streams_are_capped() {
    let node = TlsNode::start().await;
    let mut connection = connect(&node, &mut Builder::new()).await;
    let answer = connection.ask(get("/health"), None).await;
    assert_eq!(status(answer).await, 200);
    assert_eq!(connection.send.current_max_send_streams(), 100);
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_the_connection() {
    let node = TlsNode::start().await;
    let mut stream = connect_tls(&node).await;
    // As the attack does it (CVE-2023-44487): all in one write, faster than anybody could take them up.
    let mut attack = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    attack.extend(frame(SETTINGS, 0, 0, &[]));
    for index in 0..500 {
        let stream_id = 2 * index + 1;
        // HPACK (RFC 7541): GET, https, / from the static table; the authority as it is.
        let head = [&[0x82, 0x87, 0x84, 0x01, 9][..], HOST.as_bytes()].concat();
        attack.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream_id, &head));
        attack.extend(frame(RST_STREAM, 0, stream_id, &8_u32.to_be_bytes()));
    }
    // The node may hang up before all is written.
    let _ = stream.write_all(&attack).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the node closes it");
    let goaway = frames(&answer).find(|(kind, payload)| *kind == GOAWAY && payload[4..8] != [0; 4]);
    let (_, payload) = goaway.expect("it says why");
    assert_eq!(payload[4..8], 11_u32.to_be_bytes(), "ENHANCE_YOUR_CALM");
    // Nobody else feels it.
    let mut other = connect(&node, &mut Builder::new()).await;
    let answer = other.ask(get("/health"), None).await;
    assert_eq!(status(answer).await, 200);
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream_id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream_id.to_be_bytes(), payload].concat()
}

/// Type and payload of every whole frame.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (payload, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        Some((head[3], payload))
    })
}

#[tokio::test]
async fn heads_are_bounded() {
    let node = TlsNode::start().await;
    let mut connection = connect(&node, &mut Builder::new()).await;
    let mut request = get("/health");
    for index in 0..40 {
        request = request.header(format!("x-{index}"), "x".repeat(1000));
    }
    let answer = connection.ask(request, None).await;
    let refused = timeout(DEADLINE, answer).await.expect("an end");
    assert!(refused.as_ref().map_or(true, |answer| answer.status() == 431), "{refused:?}");
}

#[tokio::test]
async fn a_connection_without_requests_is_let_go() {
    let node = TlsNode::with(Config::scripted().set("server.handshake_timeout", "\"300ms\"")).await;
    let connection = connect(&node, &mut Builder::new()).await;
    let _ = connection.closed().await;
    assert_eq!(hits(&node.node, "handshake_timeout").await, 1.0);
    // After a request it is only idle.
    let mut connection = connect(&node, &mut Builder::new()).await;
    let answer = connection.ask(get("/health"), None).await;
    assert_eq!(status(answer).await, 200);
    let _ = connection.closed().await;
    assert_eq!(hits(&node.node, "handshake_timeout").await, 1.0);
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_connection() {
    let node = TlsNode::with(Config::scripted().set("server.write_timeout", "\"300ms\"")).await;
    // Windows of no size: heads pass, bodies wait.
    for (request, body) in
        [(get("/health"), None), (post(&node, "/v1/chat/completions"), Some(chat_stream("hi", 500).to_string()))]
    {
        let before = hits(&node.node, "write_timeout").await;
        let mut connection = connect(&node, Builder::new().initial_window_size(0)).await;
        let answer = connection.ask(request, body.map(Bytes::from)).await;
        let answer = timeout(DEADLINE, answer).await.expect("an answer").expect("an answer");
        assert_eq!(answer.status(), 200);
        let _ = connection.closed().await;
        eventually("it is counted", async || (hits(&node.node, "write_timeout").await > before).then_some(())).await;
    }
    let job = node.node.settled_job(JOB).await;
    assert!(job["used_tokens"].as_u64().expect("a count") < 500, "the answer was given up: {job}");
}

#[tokio::test]
async fn a_slow_answer_outlives_both_deadlines() {
    let config = Config::scripted()
        .set("engine.scripted_tokens_per_second", 2)
        .set("server.handshake_timeout", "\"300ms\"")
        .set("server.write_timeout", "\"300ms\"");
    let node = TlsNode::with(config).await;
    let mut connection = connect(&node, &mut Builder::new()).await;
    let answer = connection.ask(post(&node, "/v1/chat/completions"), Some(chat("hi", 3).to_string().into())).await;
    assert_eq!(status(answer).await, 200);
}

#[tokio::test]
async fn a_reset_stream_stops_its_answer() {
    let node = TlsNode::with(Config::scripted().set("engine.scripted_tokens_per_second", 20)).await;
    let mut connection = connect(&node, &mut Builder::new()).await;
    let body = chat_stream("hi", 5000).to_string();
    let answer = connection.ask(post(&node, "/v1/chat/completions"), Some(body.into())).await;
    let answer = timeout(DEADLINE, answer).await.expect("an answer").expect("an answer");
    assert_eq!(answer.status(), 200);
    drop(answer);
    until_idle(&node.node).await;
    let job = node.node.settled_job(JOB).await;
    assert!(job["used_tokens"].as_u64().expect("a count") < 1000, "{job}");
    // The connection serves on.
    let answer = connection.ask(get("/health"), None).await;
    assert_eq!(status(answer).await, 200);
}

#[tokio::test]
async fn a_stranger_fills_one_window_and_no_more() {
    let node = TlsNode::start().await;
    let mut connection = connect(&node, &mut Builder::new()).await;
    let mut send = connection.send.clone().ready().await.expect("a stream is free");
    let request = get("/v1/chat/completions").method(Method::POST).header("content-type", "application/json");
    let request = request.header("content-length", "1000000000").body(()).expect("a request");
    let (answer, mut stream) = send.send_request(request, false).expect("it is sent");
    stream.reserve_capacity(1 << 30);
    assert_eq!(status(answer).await, 401, "before the body");
    assert!(stream.capacity() <= 64 * 1024, "{} bytes may be sent", stream.capacity());
    let answer = connection.ask(get("/health"), None).await;
    assert_eq!(status(answer).await, 200);
}

#[tokio::test]
async fn sockets_are_upgrades_of_http_1_1_only() {
    let node = TlsNode::start().await;
    let mut connection = connect(&node, &mut Builder::new()).await;
    let answer = connection.ask(get("/v1/ws"), None).await;
    assert_eq!(status(answer).await, 426);
    assert!(!connection.send.is_extended_connect_protocol_enabled(), "RFC 8441 is not offered");
}

#[tokio::test]
async fn a_drain_says_goodbye_and_lets_answers_finish() {
    let mut node = TlsNode::with(Config::scripted().set("engine.scripted_tokens_per_second", 20)).await;
    let mut connection = connect(&node, &mut Builder::new()).await;
    let idle = connect(&node, &mut Builder::new()).await;
    let body = chat("hi", 20).to_string();
    let answer = connection.ask(post(&node, "/v1/chat/completions"), Some(body.into())).await;
    eventually("it is being answered", async || {
        (node.node.metrics().await.get("llm_node_active_requests", &[]) == Some(1.0)).then_some(())
    })
    .await;
    let started = std::time::Instant::now();
    node.node.sigterm();
    let _ = idle.closed().await;
    assert_eq!(status(answer).await, 200);
    assert_eq!(node.node.ended().await, Some(0));
    assert!(started.elapsed() < Duration::from_secs(20), "nothing holds it up");
}
