//! Every transport by TLS, and what is not TLS.

use std::{
    io::{Read as _, Write as _},
    sync::Arc,
};

use rustls::{
    ClientConfig,
    crypto::aws_lc_rs::default_provider,
    version::{TLS12, TLS13},
};
use serde_json::json;
use testkit::{Config, DEADLINE, TestNode, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{HOST, TlsNode, handshakes, hits, http, with_certificate, write};
use crate::limits::is_open;
use crate::support::{BINARY, JOB, chat, chat_stream, open_session, prompt, words};

#[tokio::test]
async fn both_versions_of_http_answer_and_stream() {
    let node = TlsNode::start().await;
    let (mut http1, mut http2) = (ClientConfig::clone(&node.tls), ClientConfig::clone(&node.tls));
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    http2.alpn_protocols = vec![b"h2".to_vec()];
    for (tls, version) in [(http1, http_version("1.1")), (http2, http_version("2"))] {
        let client = http(&node.node, &tls);
        let post = |body| client.post(node.url("/v1/chat/completions")).bearer_auth(&node.token).json(&body).send();
        let response = post(chat("hello", 3)).await.expect("an answer");
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        let headers = response.headers();
        assert_eq!(headers["strict-transport-security"], "max-age=31536000");
        assert!(headers.contains_key("x-request-id"));
        let body: serde_json::Value = response.json().await.expect("JSON");
        assert_eq!(body["choices"][0]["message"]["content"], words(3));
        let streamed = post(chat_stream("hello", 5)).await.expect("an answer").text().await.expect("a whole body");
        assert!(streamed.contains("w4") && streamed.ends_with("data: [DONE]\n\n"), "{streamed}");
        let refused = client.get(node.url("/v1/models")).bearer_auth("wrong").send().await.expect("an answer");
        assert_eq!(refused.status(), 401);
    }
    assert_eq!(handshakes(&node.node, "failed").await, 0.0);
    assert!(handshakes(&node.node, "complete").await >= 2.0);
}

fn http_version(text: &str) -> reqwest::Version {
    if text == "2" { reqwest::Version::HTTP_2 } else { reqwest::Version::HTTP_11 }
}

#[tokio::test]
async fn both_sockets_stream() {
    let node = TlsNode::start().await;
    let mut socket = node.socket("/v1/ws", &node.tls).await.expect("a socket");
    open_session(&mut socket, "s").await;
    let id = socket.send(prompt("s", "hello", 4)).await;
    assert_eq!(socket.answer(&id).await.text, words(4));
    let mut socket = node.socket("/v1/responses", &node.tls).await.expect("a socket");
    socket
        .send_plain(&json!({"type": "response.create", "model": "default", "input": "hi", "max_output_tokens": 3}))
        .await;
    loop {
        let event = socket.json().await;
        if event["type"] == "response.incomplete" || event["type"] == "response.completed" {
            break;
        }
        assert_ne!(event["type"], "error", "{event}");
    }
    assert_eq!(node.node.settled_job(JOB).await["used_tokens"], 7);
}

#[tokio::test]
async fn nothing_older_than_tls_1_2_and_no_other_host() {
    let node = TlsNode::start().await;
    for version in [&TLS12, &TLS13] {
        let mut tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots(&node))
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let response = http(&node.node, &tls).get(node.url("/health")).send().await;
        assert_eq!(response.unwrap_or_else(|error| panic!("{version:?}: {error}")).status(), 200);
    }
    // A ClientHello of TLS 1.1, as its RFC 4346 has it: no cipher suites and versions of later ones.
    let mut stream = TcpStream::connect(node.node.public()).await.expect("connects");
    stream.write_all(&client_hello_of_tls_1_1()).await.expect("sends");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the node closes");
    assert_eq!(answer.first(), Some(&21), "an alert and nothing else: {answer:?}");
    eventually("it is counted", async || (handshakes(&node.node, "failed").await == 1.0).then_some(())).await;
    // A client that believes other authorities says no by itself.
    let stranger = super::client(&super::Authority::new("another").pem(), None);
    assert!(http(&node.node, &stranger).get(node.url("/health")).send().await.is_err());
}

fn roots(node: &TlsNode) -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in super::certificates(&node.authority.pem()) {
        roots.add(certificate).expect("an authority");
    }
    roots
}

/// Record, handshake, version 3.2, random, no session, one cipher suite (RSA with AES-128-CBC-SHA), no compression.
fn client_hello_of_tls_1_1() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let mut message = vec![1, 0, 0, u8::try_from(hello.len()).expect("short")];
    message.extend(hello);
    let mut record = vec![22, 3, 1, 0, u8::try_from(message.len()).expect("short")];
    record.extend(message);
    record
}

#[tokio::test]
async fn plain_http_to_the_tls_port_is_told_so() {
    let node = TlsNode::start().await;
    let mut stream = TcpStream::connect(node.node.public()).await.expect("connects");
    let request = format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", node.token);
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text, then the end");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{answer}");
    assert!(!answer.contains("default"), "nothing of the node is shown in the clear: {answer}");
    eventually("it is counted", async || (handshakes(&node.node, "failed").await == 1.0).then_some(())).await;
    // Nothing that is neither.
    let mut stream = TcpStream::connect(node.node.public()).await.expect("connects");
    stream.write_all(&[0, 1, 2, 3]).await.expect("sends");
    stream.shutdown().await.expect("sends");
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn a_handshake_that_stops_is_let_go_and_counted() {
    let node = TlsNode::with(Config::scripted().set("server.handshake_timeout", "\"300ms\"")).await;
    let hello = client_hello_of_tls_1_1();
    // Nothing at all; half of a hello.
    for part in [&[][..], &hello[..20]] {
        let mut stream = TcpStream::connect(node.node.public()).await.expect("connects");
        stream.write_all(part).await.expect("sends");
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await;
        let _ = read.expect("the node closes it");
    }
    eventually("both are counted", async || (hits(&node.node, "handshake_timeout").await >= 2.0).then_some(())).await;
    assert_eq!(handshakes(&node.node, "timed_out").await, 2.0);
    eventually("their places are free", async || {
        (node.node.metrics().await.get("llm_node_active_connections", &[])? <= 2.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_place_is_taken_before_the_handshake() {
    let config = Config::scripted().set("server.connections_per_address_max", 3);
    let node = TlsNode::with(config).await;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(TcpStream::connect(node.node.public()).await.expect("connects"));
    }
    eventually("it is counted", async || (hits(&node.node, "connections_per_address_max").await >= 3.0).then_some(()))
        .await;
    drop(silent);
    eventually("a place is free again", async || {
        let client = http(&node.node, &node.tls);
        client.get(node.url("/health")).send().await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_client_that_never_reads_loses_its_connection_by_tls_too() {
    let config = Config::scripted()
        .set("engine.scripted_tokens_per_second", 0)
        .set("server.write_timeout", "\"300ms\"")
        .set("engine.context_tokens", 4_000_000)
        .set("jobs.max_tokens_per_request", 1_000_000);
    let node = TlsNode::with(config).await;
    let body = chat_stream("hello", 900_000).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        node.token,
        body.len()
    );
    // A small window, so that megabytes do not disappear in the kernel.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    let stream = socket.connect(node.node.public().parse().expect("an address")).await.expect("connects");
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&node.tls));
    let mut deaf = connector.connect(HOST.try_into().expect("a name"), stream).await.expect("a handshake");
    deaf.write_all(head.as_bytes()).await.expect("sends");
    deaf.write_all(body.as_bytes()).await.expect("sends");
    deaf.flush().await.expect("sends");
    eventually("it is given up", async || (hits(&node.node, "write_timeout").await >= 1.0).then_some(())).await;
    eventually("its connection is closed", async || (!is_open(deaf.get_ref().0)).then_some(())).await;
    node.node.settled_job(JOB).await;
}

#[tokio::test]
async fn the_admin_listener_has_a_certificate_of_its_own() {
    let authority = super::Authority::new("for operators");
    let files = tempfile::tempdir().expect("temporary files can be made");
    let config = with_certificate(Config::scripted(), &files, "admin", &authority.server(&[HOST]));
    let node = TestNode::start_unready(BINARY, config).await;
    let tls = super::client(&authority.pem(), None);
    let port = node.admin().rsplit_once(':').expect("a port").1.to_owned();
    let builder = reqwest::Client::builder().no_proxy().resolve(HOST, node.admin().parse().expect("an address"));
    let client = builder.tls_backend_preconfigured(ClientConfig::clone(&tls)).build().expect("a client");
    let response = client.get(format!("https://{HOST}:{port}/metrics")).send().await.expect("an answer");
    let metrics = testkit::Metrics::new(response.text().await.expect("text"));
    let labels = [("listener", "admin")];
    assert_eq!(metrics.get("llm_node_tls_certificate_expiry_timestamp_seconds", &labels), Some(3_786_912_000.0));
    assert_eq!(
        metrics.get("llm_node_tls_certificate_expiry_timestamp_seconds", &[("listener", "public")]),
        None,
        "a listener without TLS has no certificate that could end"
    );
    assert_eq!(node.http().get(node.url("/health")).send().await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn chat_reaches_it() {
    let node = TlsNode::start().await;
    let authority = write(&node.files, "authority.pem", &node.authority.pem());
    let data_dir = node.node.data_dir().display().to_string();
    let config = node.node.config_file().display().to_string();
    let ask = |arguments: &[&str]| {
        let mut child = std::process::Command::new(BINARY)
            .args(["chat", "--max-tokens", "3"])
            .args(arguments)
            .env("LLM_NODE_TOKEN", &node.token)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("starts");
        // A chat that reaches nothing does not read.
        let _ = child.stdin.take().expect("piped").write_all(b"hello\n");
        let (mut said, mut told) = (String::new(), String::new());
        child.stdout.take().expect("piped").read_to_string(&mut said).expect("text");
        child.stderr.take().expect("piped").read_to_string(&mut told).expect("text");
        (child.wait().expect("it is ours").success(), said, told)
    };
    // The node of the data directory is known by its certificate's file, whatever host that is for.
    let (done, said, told) = ask(&["--data-dir", &data_dir, "--config", &config]);
    assert!(done && said.contains(&words(3)), "{said}{told}");
    // By its address: the certificate is not for that, and the authority is not a public one.
    let by_address = format!("https://{}", node.node.public());
    let (done, _, told) = ask(&["--url", &by_address, "--data-dir", &data_dir]);
    assert!(!done && told.contains("cannot be reached"), "{told}");
    let authority = authority.display().to_string();
    let (done, _, told) = ask(&["--url", &by_address, "--ca-file", &authority, "--data-dir", &data_dir]);
    assert!(!done && told.contains("not valid for name"), "{told}");
    let by_name = format!("https://localhost:{}", node.node.public().rsplit_once(':').expect("a port").1);
    super::write_pair(&node.files, "server", &node.authority.server(&[HOST, "localhost"]));
    node.node.sighup();
    eventually("chat reaches it by its name", async || {
        let (done, said, _) = ask(&["--url", &by_name, "--ca-file", &authority, "--data-dir", &data_dir]);
        (done && said.contains(&words(3))).then_some(())
    })
    .await;
}
