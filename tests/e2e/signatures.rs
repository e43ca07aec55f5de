//! Signed messages on `/v1/ws`: each way to forge one is refused with its own code, and counted.

use serde_json::{Value, json};
use testkit::{Config, Socket, TestNode};

use crate::{
    signer::{Key, bound_token, nonce},
    support::{BINARY, BUDGET, JOB, prompt, scripted, with, words},
};

/// A connection with a bound token, and an open session `s`; the next `seq` is 2.
async fn connect(node: &TestNode, token: &str, key: &Key) -> (Socket, String) {
    let mut socket = node.native(token).await;
    let nonce = nonce(&mut socket).await;
    let init = json!({"type": "session_init", "session_id": "s", "job_id": JOB, "id": "init"});
    socket.send(key.frame(&nonce, "s", 1, &init)).await;
    let ack = socket.expect("session_init_ack").await;
    assert_eq!(ack["id"], "init");
    (socket, nonce)
}

fn ask(id: &str) -> Value {
    let mut prompt = prompt("s", "hello", 3);
    prompt["id"] = json!(id);
    prompt
}

async fn checks(node: &TestNode, outcome: &str) -> f64 {
    let labels = [("transport", "native_ws"), ("outcome", outcome)];
    node.metrics()
        .await
        .get("llm_node_signature_checks_total", &labels)
        .unwrap_or_else(|| panic!("no series {outcome}"))
}

/// Sends a message that must be refused, and checks that nothing else was harmed.
async fn refused(node: &TestNode, socket: &mut Socket, message: Value, code: &str, outcome: &str) {
    let before = checks(node, outcome).await;
    socket.send_plain(&message).await;
    let error = socket.expect("error").await;
    assert_eq!(error["code"], code, "{message}: {error}");
    let is_prompt =
        message["payload"].as_str().unwrap_or_default().contains("\"prompt\"") || message["type"] == "prompt";
    if is_prompt {
        assert_eq!(socket.expect("stream_end").await["reason"], "error", "who waits for a stream hears its end");
    }
    assert_eq!(checks(node, outcome).await, before + 1.0, "{code} is counted as {outcome}");
}

#[tokio::test]
async fn a_message_that_is_not_the_clients_own_is_refused() {
    let (node, _) = scripted().await;
    let (key, other) = (Key::new(1), Key::new(2));
    let token = node.command_ok(&["token", "issue", "--subject", "alice", "--job", JOB, "--bind-key", &key.hex()]);

    // Each case forges a message from one that is good for the connection; `seq` 2 is the next.
    type Forge<'a> = Box<dyn Fn(&str) -> Value + 'a>;
    let set = |mut frame: Value, member: &str, value: Value| {
        frame[member] = value;
        frame
    };
    let good = |nonce: &str| key.frame(nonce, "s", 2, &ask("a"));
    let changed = |member: &'static str, value: Value| -> Forge<'_> {
        Box::new(move |nonce| set(good(nonce), member, value.clone()))
    };
    let weak = format!("01{}", "0".repeat(62));
    let cases: Vec<(Forge<'_>, &str, &str)> = vec![
        (Box::new(|_| ask("a")), "SIGNATURE_REQUIRED", "missing"),
        (Box::new(|_| json!({"type": "session_end", "session_id": "s"})), "SIGNATURE_REQUIRED", "missing"),
        (Box::new(|_| json!({"type": "stream_cancel", "session_id": "s"})), "SIGNATURE_REQUIRED", "missing"),
        (Box::new(|_| json!({"type": "token_refresh", "session_id": "s"})), "SIGNATURE_REQUIRED", "missing"),
        (
            Box::new(|nonce| set(good(nonce), "payload", json!(ask("a").to_string().replace("hello", "hullo")))),
            "INVALID_SIGNATURE",
            "invalid",
        ),
        (
            Box::new(|nonce| set(good(nonce), "payload", json!(format!("{} ", ask("a"))))),
            "INVALID_SIGNATURE",
            "invalid",
        ),
        (changed("seq", json!(3)), "INVALID_SIGNATURE", "invalid"),
        (Box::new(|_| good(&"0".repeat(64))), "INVALID_SIGNATURE", "invalid"),
        (Box::new(|nonce| other.frame(nonce, "s", 2, &ask("a"))), "INVALID_SIGNATURE", "invalid"),
        (changed("signature", json!("0".repeat(128))), "INVALID_SIGNATURE", "invalid"),
        (
            Box::new(|nonce| set(other.frame(nonce, "s", 2, &ask("a")), "key_id", json!(other.hex()))),
            "UNKNOWN_KEY",
            "unknown_key",
        ),
        (changed("key_id", json!(other.thumbprint())), "UNKNOWN_KEY", "unknown_key"),
        (changed("key_id", json!(weak)), "WEAK_KEY", "weak_key"),
        (changed("key_id", json!("zz")), "INVALID_HEX_ENCODING", "hex"),
        (changed("key_id", json!("g".repeat(64))), "INVALID_HEX_ENCODING", "hex"),
        (changed("signature", json!("")), "INVALID_HEX_ENCODING", "hex"),
        (changed("signature", json!("0".repeat(127))), "INVALID_HEX_ENCODING", "hex"),
        (changed("signature", json!("g".repeat(128))), "INVALID_HEX_ENCODING", "hex"),
        (changed("signature", json!(format!("0x{}", "0".repeat(126)))), "INVALID_HEX_ENCODING", "hex"),
        (Box::new(|nonce| key.frame(nonce, "s", 1, &ask("a"))), "REPLAYED_MESSAGE", "replayed"),
        (Box::new(|nonce| key.frame(nonce, "s", 0, &ask("a"))), "SEQUENCE_OUT_OF_ORDER", "out_of_order"),
        (Box::new(|nonce| key.frame(nonce, "t", 2, &ask("a"))), "SESSION_AUTH_DENIED", "other_session"),
        (Box::new(|nonce| set(good(nonce), "session_id", json!("t"))), "SESSION_AUTH_DENIED", "other_session"),
        (Box::new(|nonce| key.frame(nonce, "s", 2, &key.frame(nonce, "s", 3, &ask("a")))), "INVALID_REQUEST", "nested"),
    ];
    for (forge, code, outcome) in &cases {
        let (mut socket, nonce) = connect(&node, &token, &key).await;
        refused(&node, &mut socket, forge(&nonce), code, outcome).await;
        // The connection goes on, and a forgery used up no number of the client's.
        socket.send(good(&nonce)).await;
        let answer = socket.answer("a").await;
        assert_eq!((answer.error, answer.text), (None, words(3)), "after {code}");
    }
}

#[tokio::test]
async fn a_recorded_message_is_of_no_use() {
    let (node, _) = scripted().await;
    let key = Key::new(1);
    let token = node.command_ok(&["token", "issue", "--subject", "alice", "--job", JOB, "--bind-key", &key.hex()]);
    let (mut socket, nonce) = connect(&node, &token, &key).await;
    let recorded = key.frame(&nonce, "s", 5, &ask("a"));
    socket.send(recorded.clone()).await;
    assert_eq!(socket.answer("a").await.text, words(3));
    refused(&node, &mut socket, recorded.clone(), "REPLAYED_MESSAGE", "replayed").await;
    refused(&node, &mut socket, key.frame(&nonce, "s", 4, &ask("b")), "SEQUENCE_OUT_OF_ORDER", "out_of_order").await;

    // On another connection of the same client it is as wrong as any other forgery.
    let (mut second, _) = connect(&node, &token, &key).await;
    refused(&node, &mut second, recorded, "INVALID_SIGNATURE", "invalid").await;
    assert_eq!(node.settled_job(JOB).await["used_tokens"], 3, "only one was answered");
}

#[tokio::test]
async fn a_token_alone_opens_nothing_that_is_bound_to_a_key() {
    let (node, _) = scripted().await;
    let key = Key::new(1);
    let token = node.command_ok(&["token", "issue", "--subject", "alice", "--job", JOB, "--bind-key", &key.hex()]);
    let mut socket = node.socket("/v1/ws", None).await.expect("opens");
    let nonce = nonce(&mut socket).await;
    let init = json!({"type": "session_init", "session_id": "s", "token": token, "id": "i"});
    refused(&node, &mut socket, init.clone(), "SIGNATURE_REQUIRED", "missing").await;
    // Signed, the same message says who speaks and opens the session.
    socket.send(key.frame(&nonce, "s", 1, &init)).await;
    let ack = socket.expect("session_init_ack").await;
    // The session's own token is bound to the same key.
    let fresh = ack["token"].as_str().expect("a token");
    let (mut second, _) = connect(&node, fresh, &key).await;
    refused(&node, &mut second, ask("a"), "SIGNATURE_REQUIRED", "missing").await;
}

#[tokio::test]
async fn a_signed_message_without_a_session_is_about_the_envelopes() {
    let (node, _) = scripted().await;
    let key = Key::new(1);
    let token = node.command_ok(&["token", "issue", "--subject", "alice", "--job", JOB, "--bind-key", &key.hex()]);
    let (mut socket, nonce) = connect(&node, &token, &key).await;
    // With two sessions open, a prompt that names none would open a third.
    socket.send(key.frame(&nonce, "t", 2, &json!({"type": "session_init", "session_id": "t", "id": "i"}))).await;
    socket.expect("session_init_ack").await;
    let ask = json!({"type": "prompt", "prompt": "hello", "max_tokens": 3, "id": "a"});
    socket.send(key.frame(&nonce, "s", 3, &ask)).await;
    let answer = socket.answer("a").await;
    assert_eq!(answer.end["session_id"], "s");
}

#[tokio::test]
async fn a_node_may_ask_for_signatures_of_everybody() {
    let node = TestNode::start(BINARY, Config::scripted().set("signature.required", true)).await;
    let token = node.job_and_token("alice", JOB, BUDGET);
    let (key, second, stranger) = (Key::new(1), Key::new(2), Key::new(3));
    for key in [&key, &second] {
        let _ = node.command_ok(&["client-keys", "enrol", "--subject", "alice", &key.hex()]);
    }
    let mut socket = node.native(&token).await;
    let nonce = nonce(&mut socket).await;
    let named = |key: &Key, seq: u64, message: &Value| {
        let mut frame = key.frame(&nonce, "s", seq, message);
        frame["key_id"] = json!(key.thumbprint());
        frame
    };
    let init = json!({"type": "session_init", "session_id": "s", "id": "init"});
    refused(&node, &mut socket, init.clone(), "SIGNATURE_REQUIRED", "missing").await;
    refused(&node, &mut socket, key.frame(&nonce, "s", 1, &init), "UNKNOWN_KEY", "unknown_key").await;
    refused(&node, &mut socket, named(&stranger, 1, &init), "UNKNOWN_KEY", "unknown_key").await;
    socket.request(json!({"type": "ping"}), "pong").await;
    // Any of the subject's keys will do, where the token is bound to none.
    socket.send(named(&key, 1, &init)).await;
    socket.expect("session_init_ack").await;
    socket.send(named(&second, 2, &ask("a"))).await;
    assert_eq!(socket.answer("a").await.text, words(3));

    // A key that is withdrawn signs nothing more, on the open connection too.
    let _ = node.command_ok(&["client-keys", "withdraw", "--subject", "alice", &second.hex()]);
    let mut seq = 2;
    loop {
        seq += 1;
        let message = json!({"type": "stream_cancel", "session_id": "s", "id": format!("c{seq}")});
        socket.send(named(&second, seq, &message)).await;
        socket.send(json!({"type": "ping", "id": format!("p{seq}")})).await;
        let reply = socket.json().await;
        if reply["type"] == "error" {
            assert_eq!(reply["code"], "UNKNOWN_KEY");
            break;
        }
        assert_eq!(reply["type"], "pong");
        assert!(seq < 10_000, "the withdrawal never took effect");
    }
    let listed: Value = serde_json::from_str(&node.command_ok(&["client-keys", "list", "--json"])).expect("JSON");
    let statuses: Vec<&Value> = listed.as_array().expect("a list").iter().map(|key| &key["status"]).collect();
    assert_eq!(statuses.iter().filter(|status| **status == "withdrawn").count(), 1, "{listed}");
}

#[tokio::test]
async fn a_job_may_ask_for_signatures() {
    let (node, _) = scripted().await;
    let key = Key::new(1);
    let create = ["job", "create", "--owner", "alice", "--id", "9", "--max-tokens", "1000", "--signature-required"];
    let _ = node.command_ok(&create);
    let token = node.token("alice", "9");
    let _ = node.command_ok(&["client-keys", "enrol", "--subject", "alice", &key.hex()]);
    let mut socket = node.native(&token).await;
    let nonce = nonce(&mut socket).await;
    let init = json!({"type": "session_init", "session_id": "s", "id": "init"});
    let error = socket.request(init.clone(), "error").await;
    assert_eq!(error["code"], "SIGNATURE_REQUIRED");
    socket.send(key.frame(&nonce, "s", 1, &init)).await;
    socket.expect("session_init_ack").await;
    let id = socket.send(prompt("s", "hello", 3)).await;
    assert_eq!(socket.answer(&id).await.error.expect("an error")["code"], "SIGNATURE_REQUIRED");
    socket.send(key.frame(&nonce, "s", 2, &ask("a"))).await;
    assert_eq!(socket.answer("a").await.text, words(3));
}

#[tokio::test]
async fn a_node_without_signatures_takes_none_and_no_bound_tokens() {
    let (node, token) = with(Config::scripted().set("signature.enabled", false)).await;
    let key = Key::new(1);
    let _ = node.command_ok(&["client-keys", "enrol", "--subject", "alice", &key.hex()]);
    let mut socket = node.native(&token).await;
    let first = nonce(&mut socket).await;
    let init = json!({"type": "session_init", "session_id": "s", "id": "init"});
    refused(&node, &mut socket, key.frame(&first, "s", 1, &init), "INVALID_REQUEST", "off").await;
    socket.request(init.clone(), "session_init_ack").await;

    let bound = bound_token(&node, &key, "8");
    let mut socket = node.native(&bound).await;
    let second = nonce(&mut socket).await;
    assert_ne!(first, second, "a nonce is of one connection");
    refused(&node, &mut socket, init.clone(), "SIGNATURE_REQUIRED", "missing").await;
    refused(&node, &mut socket, key.frame(&second, "s", 1, &init), "INVALID_REQUEST", "off").await;
}
