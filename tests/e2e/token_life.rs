//! A token's life on an open connection: how it comes, how it ends, how it is revoked.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use testkit::{Config, Received, Socket, TestNode, sse::Events};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{
    JOB, chat, chat_stream, open_session, pace, post, prompt, send, session, until_idle, with, words,
};

/// The node's secret in these tests.
const SECRET: &str = "7f3c9a51e0d84b62a1f5c7e9308d4b6f2a9c1e5d7b3f8046";
/// What a revocation may take.
const REVOCATION_MAX: Duration = Duration::from_secs(1);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A token of alice that ends in so many seconds, with more claims.
fn token(ends_in: u64, more: &Value) -> String {
    let mut claims = json!({
        "iss": "llm-node", "aud": "llm-node", "sub": "alice", "iat": now() - 10, "nbf": now() - 10,
        "exp": now() + ends_in, "jti": "00112233445566778899aabbccddeeff", "job_id": JOB,
        "permissions": ["read", "write", "execute"],
    });
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    let mut header = Header::new(Algorithm::HS256);
    header.typ = Some("at+jwt".to_owned());
    encode(&header, &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token")
}

/// A node whose secret is known, and that tolerates no clock difference.
async fn node(config: Config) -> TestNode {
    let config = config.set("auth.jwt_secret", format!("{SECRET:?}")).set("auth.token_leeway", "\"0s\"");
    with(config.set("auth.token_expiry_grace", "\"1s\"")).await.0
}

#[tokio::test]
async fn an_expiring_token_is_warned_of_and_then_the_socket_closes() {
    let node = node(pace(20)).await;
    let mut socket = node.native(&token(2, &json!({}))).await;
    let warning = socket.expect("token_expiring").await;
    open_session(&mut socket, "s").await;
    let expires_at = warning["expires_at"].as_u64().expect("a time");
    assert!(expires_at <= now() + 2 && warning["closes_at"] == expires_at + 1, "{warning}");
    // What runs goes on through the grace; it is cut short when that is over.
    socket.send(prompt("s", "go on", 3000)).await;
    let end = loop {
        let message = socket.json().await;
        if message["type"] == "stream_end" {
            break message;
        }
    };
    assert!(now() > expires_at, "not before the token's end");
    assert_eq!(end["reason"], "cancelled", "{end}");
    assert_eq!(socket.recv().await, Received::Closed(Some(4401)));
    until_idle(&node).await;
    let metrics = node.metrics().await;
    assert_eq!(metrics.get("llm_node_socket_tokens_ended_total", &[("reason", "expired")]), Some(1.0));
    assert_eq!(metrics.get("llm_node_limit_hits_total", &[("limit", "token_expiry_grace")]), Some(1.0));
}

#[tokio::test]
async fn a_responses_socket_is_warned_and_closed_too() {
    let node = node(pace(20)).await;
    let mut socket = node.socket("/v1/responses", Some(&token(2, &json!({})))).await.expect("a socket");
    assert_eq!(socket.json().await["type"], "llm-node:token_expiring");
    let error = socket.json().await;
    assert_eq!(error["error"]["code"], "token_expired", "{error}");
    assert_eq!(socket.recv().await, Received::Closed(Some(4401)));
}

#[tokio::test]
async fn nobody_is_warned_of_what_is_far_away() {
    let node = node(pace(20)).await;
    let mut socket = session(&node, &token(600, &json!({})), "s").await;
    for _ in 0..3 {
        let id = socket.send(prompt("s", "hello", 10)).await;
        assert_eq!(socket.answer(&id).await.error, None);
    }
}

#[tokio::test]
async fn in_the_grace_nothing_new_starts_but_a_refresh_saves_the_socket() {
    let node =
        node(pace(20).set("auth.token_expiry_warning", "\"0s\"").set("auth.token_expiry_grace", "\"20s\"")).await;
    let mut socket = session(&node, &token(1, &json!({})), "s").await;
    socket.expect("token_expiring").await;
    let mut message = prompt("s", "hello", 2);
    message["stream"] = json!(false);
    assert_eq!(socket.request(message.clone(), "error").await["code"], "TOKEN_EXPIRED");
    // The old one cannot be refreshed any more; a new one is taken.
    assert_eq!(socket.request(json!({"type": "token_refresh"}), "error").await["code"], "TOKEN_EXPIRED");
    let refresh = json!({"type": "token_refresh", "token": token(600, &json!({"jti": "another"}))});
    socket.request(refresh, "token_refreshed").await;
    assert_eq!(socket.request(message, "response").await["content"], words(2));
}

#[tokio::test]
async fn a_refresh_must_be_of_the_same_subject_and_key() {
    let node = node(pace(20)).await;
    let mut socket = session(&node, &token(600, &json!({})), "s").await;
    let thumbprint = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
    for other in [json!({"sub": "bob"}), json!({"cnf": {"jkt": thumbprint}})] {
        let refresh = json!({"type": "token_refresh", "token": token(600, &other)});
        assert_eq!(socket.request(refresh, "error").await["code"], "SESSION_AUTH_DENIED", "{other}");
    }
    let id = socket.send(prompt("s", "hello", 2)).await;
    assert_eq!(socket.answer(&id).await.text, words(2), "and nothing changed");
}

/// Revokes by the operators' API; gives the time when it was done.
async fn revoke(node: &TestNode, what: Value) -> Instant {
    let admin = token(600, &json!({"sub": "operator", "jti": "operator", "permissions": ["admin"]}));
    let url = format!("http://{}/admin/v1/revocations", node.admin());
    let response = node.http().post(&url).bearer_auth(&admin).json(&what).send().await.expect("an answer");
    let status = response.status();
    assert_eq!(status, 201, "{:?}", response.text().await);
    let done = Instant::now();
    let list: Value =
        node.http().get(&url).bearer_auth(&admin).send().await.expect("an answer").json().await.expect("JSON");
    let listed = list["revocations"].as_array().expect("a list").last().expect("one").clone();
    for (name, value) in what.as_object().expect("an object") {
        assert_eq!(&listed[name], value, "{list}");
    }
    done
}

#[tokio::test]
async fn a_revocation_ends_open_sockets_and_streams_within_a_second() {
    for what in [json!({"jti": "00112233445566778899aabbccddeeff"}), json!({"subject": "alice"})] {
        let node = node(pace(50)).await;
        let token = token(600, &json!({}));
        let mut native = session(&node, &token, "s").await;
        native.send(prompt("s", "go on", 3000)).await;
        native.expect("stream_chunk").await;
        let mut responses = node.socket("/v1/responses", Some(&token)).await.expect("a socket");
        let create = json!({"type": "response.create", "model": "default", "input": "go", "max_output_tokens": 3000});
        responses.send_plain(&create).await;
        while responses.json().await["type"] != "response.output_text.delta" {}
        let mut stream = Events::new(send(&node, "/v1/chat/completions", Some(&token), &chat_stream("go", 3000)).await);
        stream.next().await.expect("an event");

        let done = revoke(&node, what).await;
        assert_eq!(native.closed().await, Some(4401));
        assert_eq!(responses.closed().await, Some(4401));
        let last = loop {
            let event = stream.next().await.expect("it ends with an error").json();
            if event.get("error").is_some() {
                break event;
            }
        };
        assert!(done.elapsed() < REVOCATION_MAX, "{:?}", done.elapsed());
        assert_eq!(last["error"]["code"], "token_revoked", "{last}");
        until_idle(&node).await;
        let (status, body) = post(&node, "/v1/chat/completions", Some(&token), &chat("hello", 2)).await;
        assert_eq!((status, &body["error"]["code"]), (401, &json!("token_revoked")), "{body}");
        assert_eq!(node.socket("/v1/ws", Some(&token)).await.expect_err("revoked").status, 401);
        let metrics = node.metrics().await;
        assert_eq!(metrics.get("llm_node_socket_tokens_ended_total", &[("reason", "revoked")]), Some(2.0));
    }
}

#[tokio::test]
async fn a_revocation_by_a_command_beside_the_node_ends_open_sockets_too() {
    let node = node(pace(50)).await;
    let token = token(600, &json!({}));
    let mut native = session(&node, &token, "s").await;
    native.send(prompt("s", "go on", 3000)).await;
    native.expect("stream_chunk").await;
    let mut responses = node.socket("/v1/responses", Some(&token)).await.expect("a socket");
    let _ = node.command_ok(&["token", "revoke", "--jti", "00112233445566778899aabbccddeeff"]);
    let done = Instant::now();
    assert_eq!(native.closed().await, Some(4401));
    assert_eq!(responses.closed().await, Some(4401));
    assert!(done.elapsed() < REVOCATION_MAX, "{:?}", done.elapsed());
    until_idle(&node).await;
}

#[tokio::test]
async fn a_revocation_touches_nobody_else() {
    let node = node(pace(50)).await;
    let mut socket = session(&node, &token(600, &json!({})), "s").await;
    revoke(&node, json!({"jti": "somebody's"})).await;
    revoke(&node, json!({"subject": "bob"})).await;
    revoke(&node, json!({"subject": "alice", "issued_until": now() - 60})).await;
    let id = socket.send(prompt("s", "hello", 2)).await;
    assert_eq!(socket.answer(&id).await.text, words(2));
}

#[tokio::test]
async fn a_token_that_was_refreshed_is_revoked_with_the_one_that_it_came_from() {
    let node = node(pace(50)).await;
    let mut socket = session(&node, &token(600, &json!({})), "s").await;
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let refreshed = socket.request(json!({"type": "token_refresh", "session_id": "s"}), "token_refreshed").await;
        tokens.push(refreshed["token"].as_str().expect("a token").to_owned());
    }
    let init = json!({"type": "session_init", "session_id": "t", "job_id": JOB});
    let ack = socket.request(init, "session_init_ack").await;
    tokens.push(ack["token"].as_str().expect("a token").to_owned());
    revoke(&node, json!({"jti": "00112233445566778899aabbccddeeff"})).await;
    assert_eq!(socket.closed().await, Some(4401));
    for token in tokens {
        assert_eq!(node.socket("/v1/ws", Some(&token)).await.expect_err("revoked").status, 401);
    }
}

/// The head of the answer to an upgrade with these further header lines.
async fn upgrade(node: &TestNode, path: &str, lines: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(node.public()).await.expect("connects");
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).await.expect("an answer");
        assert!(count > 0, "the head ends: {}", String::from_utf8_lossy(&head));
        head.extend_from_slice(&bytes[..count]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

#[tokio::test]
async fn a_browser_sends_its_token_as_a_subprotocol_which_is_not_echoed() {
    let node = node(pace(50).set("log.level", "\"trace\"")).await;
    let token = token(600, &json!({}));
    for path in ["/v1/ws", "/v1/responses"] {
        let url = format!("ws://{}{path}", node.public());
        let offers = format!("llm-node.v1, llm-node.bearer.{token}");
        let head = upgrade(&node, path, &format!("sec-websocket-protocol: {offers}\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.to_ascii_lowercase().contains("sec-websocket-protocol: llm-node.v1\r\n"), "{head}");
        assert!(!head.contains("bearer"), "{head}");
        Socket::open(&url, &[("sec-websocket-protocol", &offers)]).await.expect("a socket");
        let refusals = [
            (format!("llm-node.bearer.{token}"), "400"),
            ("llm-node.v1, llm-node.bearer.nonsense".to_owned(), "401"),
            (format!("{offers}, llm-node.bearer.{token}"), "401"),
        ];
        for (offers, status) in refusals {
            let head = upgrade(&node, path, &format!("sec-websocket-protocol: {offers}\r\n")).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{path} {status}: {head}");
        }
        let both = format!("sec-websocket-protocol: {offers}\r\nauthorization: Bearer {token}\r\n");
        let head = upgrade(&node, path, &both).await;
        assert!(head.starts_with("HTTP/1.1 401"), "two tokens: {head}");
    }
    let mut socket = Socket::open(
        &format!("ws://{}/v1/ws", node.public()),
        &[("sec-websocket-protocol", &format!("llm-node.v1, llm-node.bearer.{token}"))],
    )
    .await
    .expect("a socket");
    assert_eq!(socket.json().await["auth_required"], false);
    open_session(&mut socket, "s").await;
    let signature = token.rsplit('.').next().expect("three parts");
    assert!(!node.log().contains(signature), "the token is in the log");
}

#[tokio::test]
async fn a_token_in_a_url_is_refused_and_not_logged() {
    let node = node(pace(50).set("log.level", "\"trace\"")).await;
    let token = token(600, &json!({}));
    for path in [
        format!("/v1/ws?token={token}"),
        format!("/v1/ws?access_token={token}"),
        format!("/v1/ws?x={token}"),
        format!("/v1/responses?%74oken={token}"),
    ] {
        let refused = node.socket(&path, None).await.expect_err("refused");
        assert!(refused.status == 400 && refused.body.contains("Authorization: Bearer"), "{refused:?}");
        // A good token beside it changes nothing: this one is exposed already.
        assert_eq!(node.socket(&path, Some(&token)).await.expect_err("refused").status, 400);
    }
    let url = node.url(&format!("/v1/models?access_token={token}"));
    let response = node.http().get(url).bearer_auth(&token).send().await.expect("an answer");
    assert_eq!(response.status(), 400);
    let body = response.text().await.expect("a body");
    let signature = token.rsplit('.').next().expect("three parts");
    assert!(!body.contains(signature) && !node.log().contains(signature), "the token is repeated");
}
