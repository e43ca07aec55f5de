//! Signed HTTP requests (RFC 9421, RFC 9530): each way to forge one is refused with its own code, and counted.

use serde_json::Value;
use testkit::{Config, TestNode};

use crate::{
    signer::{HttpSignature, Key, content_digest, now},
    support::{BINARY, BUDGET, JOB, chat, scripted, words},
};

/// A request as it goes out; a test changes it after it was signed.
#[derive(Clone)]
struct Sent {
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Sent {
    /// A signed chat request; `change` is what the signer does differently.
    fn chat(node: &TestNode, token: &str, key: &Key, change: impl Fn(&mut HttpSignature)) -> Self {
        let (path, body) = ("/v1/chat/completions", chat("hello", 3).to_string());
        let mut headers = vec![
            ("authorization", format!("Bearer {token}")),
            ("content-type", "application/json".to_owned()),
            ("content-digest", content_digest(body.as_bytes())),
        ];
        let mut signature = HttpSignature::by(key);
        change(&mut signature);
        headers.extend(signature.sign(key, "POST", &node.url(path), &headers));
        Self { method: "POST", path, headers, body }
    }

    /// Changed on the way.
    fn but(mut self, change: impl Fn(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
    }

    async fn send(&self, node: &TestNode) -> (u16, Value) {
        let mut request = node.http().request(self.method.parse().expect("a method"), node.url(self.path));
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let response = request.body(self.body.clone()).send().await.expect("the node answers");
        let status = response.status().as_u16();
        let text = response.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

async fn checks(node: &TestNode, outcome: &str) -> f64 {
    let labels = [("transport", "http"), ("outcome", outcome)];
    node.metrics()
        .await
        .get("llm_node_signature_checks_total", &labels)
        .unwrap_or_else(|| panic!("no series {outcome}"))
}

async fn refused(node: &TestNode, sent: &Sent, code: &str, outcome: &str) {
    let before = checks(node, outcome).await;
    let (status, body) = sent.send(node).await;
    assert_eq!(body["error"]["code"], code, "{status} {body}");
    assert!((400..500).contains(&status), "{status}");
    assert_eq!(checks(node, outcome).await, before + 1.0, "{code} is counted as {outcome}");
}

async fn answered(node: &TestNode, sent: &Sent) {
    let (status, body) = sent.send(node).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["choices"][0]["message"]["content"], words(3));
}

fn bound(node: &TestNode, key: &Key) -> String {
    node.command_ok(&["token", "issue", "--subject", "alice", "--job", JOB, "--bind-key", &key.hex()])
}

#[tokio::test]
async fn a_request_that_is_not_the_clients_own_is_refused() {
    let (node, _) = scripted().await;
    let (key, other) = (Key::new(1), Key::new(2));
    let token = bound(&node, &key);
    let weak = format!("01{}", "0".repeat(62));
    let good = || Sent::chat(&node, &token, &key, |_| {});
    let signed = |change: &dyn Fn(&mut HttpSignature)| Sent::chat(&node, &token, &key, change);
    let unsigned = |sent: &mut Sent| sent.headers.retain(|(name, _)| !name.starts_with("signature"));
    let cases: Vec<(Sent, &str, &str)> = vec![
        (good().but(unsigned), "signature_required", "missing"),
        (signed(&|signature| signature.tag = "other"), "signature_required", "missing"),
        (good().but(|sent| sent.body = sent.body.replace("hello", "hullo")), "invalid_signature", "invalid"),
        (
            good().but(|sent| {
                sent.body = sent.body.replace("hello", "hullo");
                sent.set("content-digest", &content_digest(sent.body.as_bytes()));
            }),
            "invalid_signature",
            "invalid",
        ),
        (good().but(|sent| sent.path = "/v1/completions"), "invalid_signature", "invalid"),
        (good().but(|sent| sent.path = "/v1/chat/completions?a=b"), "invalid_signature", "invalid"),
        (good().but(|sent| sent.set("content-digest", "")), "invalid_signature", "malformed"),
        (good().but(|sent| sent.set("signature", "sig1=:AAAA:")), "invalid_signature", "malformed"),
        (good().but(|sent| sent.set("signature", "sig2=:AAAA:")), "invalid_signature", "malformed"),
        (good().but(|sent| sent.set("signature-input", "sig1=((")), "invalid_signature", "malformed"),
        (signed(&|signature| signature.covered.retain(|name| *name != "@method")), "invalid_signature", "malformed"),
        (
            signed(&|signature| signature.covered.retain(|name| *name != "@target-uri")),
            "invalid_signature",
            "malformed",
        ),
        (
            signed(&|signature| signature.covered.retain(|name| *name != "authorization")),
            "invalid_signature",
            "malformed",
        ),
        (
            signed(&|signature| signature.covered.retain(|name| *name != "content-digest")),
            "invalid_signature",
            "malformed",
        ),
        (signed(&|signature| signature.algorithm = "hmac-sha256"), "invalid_signature", "malformed"),
        (signed(&|signature| signature.nonce = "short".into()), "invalid_signature", "malformed"),
        (signed(&|signature| signature.created = now() - 3600), "replayed_message", "stale"),
        // Of the age that is allowed, but from before the node began to remember.
        (signed(&|signature| signature.created = now() - 50), "replayed_message", "stale"),
        (signed(&|signature| signature.created = now() + 3600), "invalid_signature", "stale"),
        (signed(&|signature| signature.key_id = other.thumbprint()), "unknown_key", "unknown_key"),
        (signed(&|signature| signature.key_id = other.hex()), "unknown_key", "unknown_key"),
        (signed(&|signature| signature.key_id.clone_from(&weak)), "weak_key", "weak_key"),
        (signed(&|signature| signature.key_id = "g".repeat(64)), "invalid_hex_encoding", "hex"),
        (Sent::chat(&node, &token, &other, |signature| signature.key_id = key.hex()), "invalid_signature", "invalid"),
    ];
    for (sent, code, outcome) in &cases {
        refused(&node, sent, code, outcome).await;
    }
    answered(&node, &good()).await;
    answered(&node, &signed(&|signature| signature.key_id = key.hex())).await;
}

#[tokio::test]
async fn a_request_is_answered_once() {
    let (node, _) = scripted().await;
    let key = Key::new(1);
    let token = bound(&node, &key);
    let sent = Sent::chat(&node, &token, &key, |_| {});
    answered(&node, &sent).await;
    refused(&node, &sent, "replayed_message", "replayed").await;
    let same_nonce = sent.headers.iter().find(|(name, _)| *name == "signature-input").expect("signed").1.clone();
    let nonce =
        same_nonce.split("nonce=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a nonce").to_owned();
    let again = Sent::chat(&node, &token, &key, |signature| signature.nonce.clone_from(&nonce));
    refused(&node, &again, "replayed_message", "replayed").await;
    assert_eq!(node.settled_job(JOB).await["used_tokens"], 3);
}

#[tokio::test]
async fn requests_without_a_body_are_signed_too() {
    let (node, _) = scripted().await;
    let key = Key::new(1);
    let token = bound(&node, &key);
    let get = |sign: bool| {
        let mut headers = vec![("authorization", format!("Bearer {token}"))];
        if sign {
            let signature =
                HttpSignature { covered: vec!["@method", "@target-uri", "authorization"], ..HttpSignature::by(&key) };
            headers.extend(signature.sign(&key, "GET", &node.url("/v1/models"), &headers));
        }
        Sent { method: "GET", path: "/v1/models", headers, body: String::new() }
    };
    refused(&node, &get(false), "signature_required", "missing").await;
    let (status, body) = get(true).send(&node).await;
    assert_eq!(status, 200, "{body}");
    // A socket whose messages cannot be signed is not opened.
    let upgrade = node.socket("/v1/responses", Some(&token)).await.expect_err("refused");
    assert_eq!(upgrade.status, 401, "{}", upgrade.body);
    assert!(upgrade.body.contains("signature_required"), "{}", upgrade.body);
    // What was signed for one address is good for no other.
    refused(&node, &get(true).but(|sent| sent.path = "/v1/models/x"), "invalid_signature", "invalid").await;
}

#[tokio::test]
async fn what_cannot_be_remembered_is_refused() {
    let node = TestNode::start(BINARY, Config::scripted().set("signature.nonces_max", 16)).await;
    node.create_job("alice", JOB, BUDGET);
    let key = Key::new(1);
    let token = bound(&node, &key);
    // One key may fill a quarter.
    for _ in 0..4 {
        answered(&node, &Sent::chat(&node, &token, &key, |_| {})).await;
    }
    refused(&node, &Sent::chat(&node, &token, &key, |_| {}), "rate_limit_exceeded", "unavailable").await;
    let hits = node.metrics().await.sum("llm_node_limit_hits_total", &[("limit", "nonces_max")]);
    assert_eq!(hits, 1.0);
}

#[tokio::test]
async fn a_node_answers_for_its_own_names_only() {
    let config = Config::scripted().set("signature.authorities", "[\"node.example\"]");
    let node = TestNode::start(BINARY, config).await;
    node.create_job("alice", JOB, BUDGET);
    let key = Key::new(1);
    let token = bound(&node, &key);
    refused(&node, &Sent::chat(&node, &token, &key, |_| {}), "invalid_signature", "other_request").await;
}
