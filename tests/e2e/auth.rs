//! Without a valid token nothing is generated, whatever the transport.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use testkit::{Config, Socket, TestNode};

use crate::support::{BINARY, JOB, chat, chat_stream, count, generated, post, prompt, scripted, session, with, words};

/// The node's secret in tests that forge tokens.
const SECRET: &str = "7f3c9a51e0d84b62a1f5c7e9308d4b6f2a9c1e5d7b3f8046";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn claims() -> Value {
    json!({
        "iss": "llm-node", "aud": "llm-node", "sub": "alice", "iat": now() - 10, "nbf": now() - 10, "exp": now() + 600,
        "jti": "00112233445566778899aabbccddeeff", "job_id": JOB, "permissions": ["read", "write", "execute"],
    })
}

fn sign(claims: &Value, secret: &str, algorithm: Algorithm, kind: &str) -> String {
    let mut header = Header::new(algorithm);
    header.typ = Some(kind.to_owned());
    encode(&header, claims, &EncodingKey::from_secret(secret.as_bytes())).expect("a token")
}

/// A well-made token but for one change.
fn forged(field: &str, value: Value) -> String {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().expect("an object").remove(field);
    } else {
        claims[field] = value;
    }
    sign(&claims, SECRET, Algorithm::HS256, "at+jwt")
}

/// An unsigned token with the claims of `token`.
fn unsigned(token: &str) -> String {
    let payload = token.split('.').nth(1).expect("three parts");
    // {"alg":"none","typ":"at+jwt"}
    format!("eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.{payload}.")
}

async fn with_known_secret() -> (TestNode, String) {
    with(Config::scripted().set("auth.jwt_secret", format!("{SECRET:?}"))).await
}

/// Tokens that must not work, with the code that says why.
fn bad_tokens() -> Vec<(&'static str, String, &'static str)> {
    let good = sign(&claims(), SECRET, Algorithm::HS256, "at+jwt");
    let (head, signature) = good.rsplit_once('.').expect("three parts");
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    vec![
        ("garbage", "not-a-token".into(), "INVALID_TOKEN"),
        ("empty parts", "..".into(), "INVALID_TOKEN"),
        ("another secret", sign(&claims(), &SECRET.to_uppercase(), Algorithm::HS256, "at+jwt"), "INVALID_TOKEN"),
        ("a flipped bit", format!("{head}.{flipped}{}", &signature[1..]), "INVALID_TOKEN"),
        ("no signature", format!("{head}."), "INVALID_TOKEN"),
        ("alg none", unsigned(&good), "INVALID_TOKEN"),
        ("HS512", sign(&claims(), SECRET, Algorithm::HS512, "at+jwt"), "INVALID_TOKEN"),
        ("expired", forged("exp", json!(now() - 3600)), "TOKEN_EXPIRED"),
        ("not yet", forged("nbf", json!(now() + 3600)), "INVALID_TOKEN"),
        ("no expiry", forged("exp", Value::Null), "INVALID_TOKEN"),
        ("no subject", forged("sub", Value::Null), "INVALID_TOKEN"),
        ("another audience", forged("aud", json!("another-service")), "INVALID_TOKEN"),
        ("another issuer", forged("iss", json!("another-issuer")), "INVALID_TOKEN"),
        ("too long", format!("{good}{}", "A".repeat(8000)), "INVALID_TOKEN"),
    ]
}

#[tokio::test]
async fn a_well_made_token_of_the_known_secret_works() {
    // Else the table below would prove nothing.
    let (node, _) = with_known_secret().await;
    let good = sign(&claims(), SECRET, Algorithm::HS256, "at+jwt");
    let (status, body) = post(&node, "/v1/chat/completions", Some(&good), &chat("hello", 2)).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn bad_tokens_generate_nothing_over_http() {
    let (node, _) = with_known_secret().await;
    let bodies = [
        ("/v1/chat/completions", chat("hello", 2)),
        ("/v1/chat/completions", chat_stream("hello", 2)),
        ("/v1/completions", json!({"model": "default", "prompt": "hello", "max_tokens": 2})),
        ("/v1/responses", json!({"model": "default", "input": "hello"})),
        ("/v1/responses", json!({"model": "default", "input": "hello", "stream": true})),
        ("/v1/inference", json!({"model": "default", "prompt": "hello", "max_tokens": 2})),
    ];
    for (path, body) in &bodies {
        let (status, answer) = post(&node, path, None, body).await;
        assert_eq!(status, 401, "{path} without a token: {answer}");
    }
    for (what, token, code) in bad_tokens() {
        for (path, body) in &bodies {
            let (status, answer) = post(&node, path, Some(&token), body).await;
            assert_eq!(status, 401, "{path} with {what}: {answer}");
            let openai = if code == "TOKEN_EXPIRED" { "token_expired" } else { "invalid_api_key" };
            match answer.get("error") {
                Some(error) => assert_eq!(error["code"], openai, "{path} with {what}: {answer}"),
                None => assert_eq!(answer["error_type"], code, "{path} with {what}: {answer}"),
            }
        }
    }
    assert_eq!(generated(&node.metrics().await), 0.0);
    assert_eq!(count(&node.job(JOB), "/used_tokens"), 0);
}

#[tokio::test]
async fn bad_tokens_get_no_socket() {
    let (node, _) = with_known_secret().await;
    for (what, token, _) in bad_tokens() {
        for path in ["/v1/ws", "/v1/responses"] {
            let refused = node.socket(path, Some(&token)).await.expect_err(what);
            assert_eq!(refused.status, 401, "{path} with {what}: {refused:?}");
        }
    }
    let refused = node.socket("/v1/responses", None).await.expect_err("no token");
    assert_eq!(refused.status, 401);
    assert_eq!(generated(&node.metrics().await), 0.0);
}

#[tokio::test]
async fn a_native_socket_without_a_token_can_do_nothing_until_it_has_one() {
    let (node, token) = scripted().await;
    let mut socket = match node.socket("/v1/ws", None).await {
        Ok(socket) => socket,
        // To refuse the upgrade is right as well.
        Err(refused) => return assert_eq!(refused.status, 401),
    };
    assert_eq!(socket.json().await["auth_required"], true);
    let attempts = [
        json!({"type": "session_init", "session_id": "s", "job_id": JOB}),
        json!({"type": "session_resume", "session_id": "s", "conversation_context": [], "last_message_index": 0}),
        prompt("s", "hello", 3),
        json!({"type": "inference", "request": {"model": "default", "prompt": "hello", "max_tokens": 3, "job_id": JOB}}),
        json!({"type": "token_refresh", "session_id": "s", "token": ""}),
    ];
    for attempt in attempts {
        let id = socket.send(attempt.clone()).await;
        let error = first_error(&mut socket, &id).await;
        let code = error["code"].as_str().expect("a code");
        assert!(["AUTH_FAILED", "INVALID_TOKEN"].contains(&code), "{attempt} gets {error}");
    }
    assert_eq!(generated(&node.metrics().await), 0.0);

    let init = json!({"type": "session_init", "session_id": "s", "job_id": JOB, "token": token});
    socket.request(init, "session_init_ack").await;
    let id = socket.send(prompt("s", "hello", 3)).await;
    assert_eq!(socket.answer(&id).await.text, words(3));
}

/// The error that answers a request; the end of a promised stream may follow it.
async fn first_error(socket: &mut Socket, id: &str) -> Value {
    let mut error = None;
    socket.send(json!({"type": "ping", "id": "after"})).await;
    loop {
        let message = socket.json().await;
        match message["type"].as_str() {
            Some("error") => error = Some(message),
            Some("stream_end") => assert_eq!(message["id"], json!(id)),
            // Whether a ping is answered before authentication is the node's choice; silence is not.
            Some("pong") => return error.expect("an error"),
            _ => panic!("{message}"),
        }
        if let Some(found) = error.take_if(|found| found["id"] == "after") {
            panic!("a ping is answered by {found}");
        }
    }
}

#[tokio::test]
async fn someone_elses_job_is_refused_everywhere() {
    let (node, _) = scripted().await;
    let _ = node.job_and_token("bob", "8", 1000);
    // Alice's job in Mallory's token, and no job of her own.
    let token = node.token("mallory", JOB);
    let (status, body) = post(&node, "/v1/chat/completions", Some(&token), &chat("hello", 2)).await;
    assert_eq!((status, &body["error"]["code"]), (403, &json!("invalid_job")), "{body}");
    let (status, body) = post(&node, "/v1/responses", Some(&token), &json!({"model": "default", "input": "x"})).await;
    assert_eq!((status, &body["error"]["code"]), (403, &json!("invalid_job")), "{body}");
    let mut socket = node.native(&token).await;
    let error = socket.request(json!({"type": "session_init", "session_id": "s", "job_id": JOB}), "error").await;
    assert_eq!(error["code"], "INVALID_JOB");
    // A token for one job does not charge another, even of the same owner.
    node.create_job("alice", "9", 1000);
    let mut socket = node.native(&node.token("alice", "9")).await;
    let error = socket.request(json!({"type": "session_init", "session_id": "s", "job_id": JOB}), "error").await;
    assert!(["INVALID_JOB", "PERMISSION_DENIED"].contains(&error["code"].as_str().expect("a code")), "{error}");
    let error = socket.request(json!({"type": "session_init", "session_id": "s", "job_id": "8"}), "error").await;
    assert!(["INVALID_JOB", "PERMISSION_DENIED"].contains(&error["code"].as_str().expect("a code")), "{error}");
    assert_eq!(generated(&node.metrics().await), 0.0);
    for job in [JOB, "8", "9"] {
        assert_eq!(count(&node.job(job), "/used_tokens"), 0, "job {job}");
    }
}

#[tokio::test]
async fn the_right_to_execute_is_needed() {
    let (node, _) = scripted().await;
    let token = node.command_ok(&["token", "issue", "--subject", "alice", "--job", JOB, "--permissions", "read"]);
    let (status, body) = post(&node, "/v1/chat/completions", Some(&token), &chat("hello", 2)).await;
    assert_eq!((status, &body["error"]["code"]), (403, &json!("permission_denied")), "{body}");
    assert_eq!(generated(&node.metrics().await), 0.0);
}

#[tokio::test]
async fn a_token_that_expires_during_a_connection_ends_its_use() {
    let (node, _) = with_known_secret().await;
    // The node tolerates half a minute of clock difference: so it is valid for about two seconds more.
    let token = forged("exp", json!(now() - 28));
    let mut socket = session(&node, &token, "s").await;
    let code = testkit::eventually("the token expires", async || {
        let mut message = prompt("s", "hello", 1);
        message["message_index"] = json!(0);
        let id = socket.send(message).await;
        let answer = socket.answer(&id).await;
        answer.error.map(|error| error["code"].clone())
    })
    .await;
    assert_eq!(code, "TOKEN_EXPIRED");
    socket.request(json!({"type": "ping"}), "pong").await;
}

#[tokio::test]
async fn without_authentication_loopback_clients_are_served() {
    let node = TestNode::start(BINARY, Config::scripted().set("auth.enabled", false)).await;
    let (status, body) = post(&node, "/v1/chat/completions", None, &chat("hello", 2)).await;
    assert_eq!(status, 200, "{body}");
    let mut socket = node.socket("/v1/ws", None).await.expect("a socket");
    assert_eq!(socket.json().await["auth_required"], false);
    let init = json!({"type": "session_init", "chain_id": 84532, "session_id": "954", "jobId": "954"});
    socket.request(init, "session_init_ack").await;
    let id = socket.send(prompt("954", "hello", 3)).await;
    assert_eq!(socket.answer(&id).await.text, words(3));
}

#[tokio::test]
async fn tokens_are_in_no_log() {
    let (node, token) = with(Config::scripted().set("log.level", "\"trace\"")).await;
    let mut socket = session(&node, &token, "s").await;
    let id = socket.send(prompt("s", "the-secret-words of a prompt", 5)).await;
    assert_eq!(socket.answer(&id).await.text, words(5));
    let (status, _) = post(&node, "/v1/chat/completions", Some(&token), &chat("the-secret-words again", 2)).await;
    assert_eq!(status, 200);
    let _ = post(&node, "/v1/chat/completions", Some("a.bad.token-of-ours"), &chat("the-secret-words", 2)).await;
    let log = node.log();
    assert!(log.contains("chat") || log.lines().count() > 5, "something is logged at this level");
    let signature = token.rsplit('.').next().expect("three parts");
    for secret in [token.as_str(), signature, "the-secret-words", "token-of-ours", "w0 w1 w2"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "the log holds {secret}: {line:?}");
    }
}
