//! `POST /v1/sessions`: a client that has a key and nothing else.

use serde_json::{Value, json};
use testkit::{Config, TestNode};

use crate::{
    signer::{Key, nonce, now},
    support::{BINARY, prompt, words},
};

/// A reply of the route: status, body, and the nonce for the next proof.
struct Reply {
    status: u16,
    body: Value,
    nonce: String,
}

async fn ask(node: &TestNode, proofs: &[String], wish: &Value) -> Reply {
    let mut request = node.http().post(node.url("/v1/sessions")).json(wish);
    for proof in proofs {
        request = request.header("dpop", proof);
    }
    let response = request.send().await.expect("the node answers");
    let status = response.status().as_u16();
    let nonce = response.headers().get("dpop-nonce").expect("a nonce for the next").to_str().expect("text").to_owned();
    Reply { status, body: response.json().await.expect("JSON"), nonce }
}

/// The claims of a good proof.
fn claims(node: &TestNode, nonce: &str) -> Value {
    json!({
        "jti": format!("{:032x}", rand::random::<u128>()), "htm": "POST", "htu": node.url("/v1/sessions"), "iat": now(),
        "nonce": nonce,
    })
}

async fn node_with_job_of(key: &Key) -> TestNode {
    let node = TestNode::start(BINARY, Config::scripted()).await;
    let create = ["job", "create", "--owner-key", &key.hex(), "--id", "7", "--max-tokens", "1000"];
    let _ = node.command_ok(&create);
    node
}

#[tokio::test]
async fn a_key_alone_is_enough_to_begin() {
    let key = Key::new(1);
    let node = node_with_job_of(&key).await;
    assert_eq!(node.job("7")["owner"], format!("ed25519:{}", key.thumbprint()));

    let first = ask(
        &node,
        &[key.proof(&json!({"jti": "1234567890123456", "htm": "POST", "htu": node.url("/v1/sessions"), "iat": now()}))],
        &json!({}),
    )
    .await;
    assert_eq!((first.status, &first.body["error"]), (400, &json!("use_dpop_nonce")), "{}", first.body);
    let reply = ask(&node, &[key.proof(&claims(&node, &first.nonce))], &json!({})).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    assert_eq!((&reply.body["job_id"], &reply.body["cnf"]["jkt"]), (&json!("7"), &json!(key.thumbprint())));
    assert!(reply.body["expires_in"].as_u64().is_some_and(|seconds| seconds > 0), "{}", reply.body);
    let token = reply.body["access_token"].as_str().expect("a token");

    // With it the client speaks, if the key signs.
    let mut socket = node.native(token).await;
    let nonce = nonce(&mut socket).await;
    let init = json!({"type": "session_init", "session_id": "s", "id": "i"});
    assert_eq!(socket.request(init.clone(), "error").await["code"], "SIGNATURE_REQUIRED");
    socket.send(key.frame(&nonce, "s", 1, &init)).await;
    socket.expect("session_init_ack").await;
    let mut asked = prompt("s", "hello", 3);
    asked["id"] = json!("a");
    socket.send(key.frame(&nonce, "s", 2, &asked)).await;
    assert_eq!(socket.answer("a").await.text, words(3));
    assert_eq!(node.settled_job("7").await["used_tokens"], 3);
}

#[tokio::test]
async fn a_proof_that_is_none_for_this_request_is_refused() {
    let (key, other) = (Key::new(1), Key::new(2));
    let node = node_with_job_of(&key).await;
    let nonce = ask(&node, &[], &json!({})).await.nonce;
    let with = |member: &str, value: Value| {
        let mut claims = claims(&node, &nonce);
        claims[member] = value;
        claims
    };
    let checks = async |outcome: &str| {
        let labels = [("transport", "dpop"), ("outcome", outcome)];
        node.metrics().await.get("llm_node_signature_checks_total", &labels).expect("a series")
    };
    let good = key.proof(&claims(&node, &nonce));
    let forged = {
        let (signed, _) = good.rsplit_once('.').expect("a signature");
        let foreign = other.proof(&claims(&node, &nonce));
        format!("{signed}.{}", foreign.rsplit_once('.').expect("a signature").1)
    };
    let cases: Vec<(Vec<String>, &str, &str, &str)> = vec![
        (vec![], "invalid_dpop_proof", "INVALID_DPOP_PROOF", "missing"),
        (vec![good.clone(), good.clone()], "invalid_dpop_proof", "INVALID_DPOP_PROOF", "malformed"),
        (vec!["x.y.z".into()], "invalid_dpop_proof", "INVALID_DPOP_PROOF", "malformed"),
        (vec![format!("{}{}", good, "A".repeat(5000))], "invalid_dpop_proof", "INVALID_DPOP_PROOF", "malformed"),
        (vec![forged], "invalid_dpop_proof", "INVALID_DPOP_PROOF", "invalid"),
        (vec![key.proof(&with("htm", json!("GET")))], "invalid_dpop_proof", "INVALID_DPOP_PROOF", "other_request"),
        (
            vec![key.proof(&with("htu", json!("https://evil.example/v1/sessions")))],
            "invalid_dpop_proof",
            "INVALID_DPOP_PROOF",
            "other_request",
        ),
        (
            vec![key.proof(&with("htu", json!(node.url("/v1/other"))))],
            "invalid_dpop_proof",
            "INVALID_DPOP_PROOF",
            "other_request",
        ),
        (vec![key.proof(&with("iat", json!(now() - 3600)))], "invalid_dpop_proof", "INVALID_DPOP_PROOF", "stale"),
        (vec![key.proof(&with("iat", json!(now() + 3600)))], "invalid_dpop_proof", "INVALID_DPOP_PROOF", "stale"),
        (vec![key.proof(&with("nonce", json!(null)))], "use_dpop_nonce", "USE_DPOP_NONCE", "nonce"),
        (vec![key.proof(&with("nonce", json!("0".repeat(32))))], "use_dpop_nonce", "USE_DPOP_NONCE", "nonce"),
    ];
    for (proofs, error, code, outcome) in &cases {
        let before = checks(outcome).await;
        let reply = ask(&node, proofs, &json!({})).await;
        assert_eq!((&reply.body["error"], &reply.body["code"]), (&json!(error), &json!(code)), "{}", reply.body);
        assert_eq!(reply.status, 400);
        assert_eq!(checks(outcome).await, before + 1.0, "{code} is counted as {outcome}");
    }

    // A good proof is good once.
    assert_eq!(ask(&node, std::slice::from_ref(&good), &json!({})).await.status, 201);
    let replayed = ask(&node, &[good], &json!({})).await;
    assert_eq!(
        (&replayed.body["error"], &replayed.body["code"]),
        (&json!("invalid_dpop_proof"), &json!("REPLAYED_MESSAGE"))
    );
}

#[tokio::test]
async fn a_key_gets_tokens_of_its_owners_jobs_only() {
    let (key, other) = (Key::new(1), Key::new(2));
    let node = node_with_job_of(&key).await;
    let nonce = ask(&node, &[], &json!({})).await.nonce;
    let asks = async |key: &Key, wish: Value| ask(&node, &[key.proof(&claims(&node, &nonce))], &wish).await;
    let check = async |key: &Key, wish: Value, status: u16, code: &str| {
        let reply = asks(key, wish).await;
        assert_eq!((reply.status, &reply.body["code"]), (status, &json!(code)), "{}", reply.body);
        reply.body["error_description"].clone()
    };
    let foreign = check(&other, json!({"job_id": "7"}), 403, "INVALID_JOB").await;
    let unknown = check(&other, json!({"job_id": "12345"}), 403, "INVALID_JOB").await;
    assert_eq!(foreign, unknown, "whether a job exists is not told");
    check(&other, json!({}), 403, "INVALID_JOB").await;
    check(&key, json!({"permissions": ["admin"]}), 403, "PERMISSION_DENIED").await;
    check(&key, json!({"job_id": 7}), 400, "INVALID_REQUEST").await;

    // A key that is enrolled for a subject gets tokens of that subject's jobs.
    node.create_job("alice", "8", 1000);
    check(&other, json!({"job_id": "8"}), 403, "INVALID_JOB").await;
    let _ = node.command_ok(&["client-keys", "enrol", "--subject", "alice", &other.hex()]);
    let reply = testkit::eventually("the key is known", async || {
        Some(asks(&other, json!({"job_id": "8", "permissions": ["read"], "expires_in": 60})).await)
            .filter(|reply| reply.status == 201)
    })
    .await;
    assert_eq!((&reply.body["subject"], &reply.body["scope"]), (&json!("alice"), &json!("read")));
    assert!(reply.body["expires_in"].as_u64().is_some_and(|seconds| (58..=60).contains(&seconds)));

    // With two open jobs the key must say which; a closed one counts no more.
    let _ = node.command_ok(&["job", "create", "--owner-key", &key.hex(), "--id", "9", "--max-tokens", "1000"]);
    check(&key, json!({}), 400, "INVALID_JOB_ID").await;
    let _ = node.command_ok(&["job", "close", "7"]);
    assert_eq!(asks(&key, json!({})).await.body["job_id"], "9");
    check(&key, json!({"job_id": "7"}), 403, "INVALID_JOB").await;
}

#[tokio::test]
async fn chat_works_with_a_key_alone() {
    let key = Key::new(1);
    let node = node_with_job_of(&key).await;
    let file = node.folder().join("key.pem");
    std::fs::write(&file, key.pem()).expect("the folder is writable");
    let chat = node.command_with_input(
        &["chat", "--url", &node.url(""), "--key", &file.display().to_string(), "--max-tokens", "3"],
        "hello\n",
    );
    assert_eq!(chat.code, Some(0), "{}", chat.stderr);
    assert!(chat.stdout.contains(&words(3)), "{}", chat.stdout);
    assert_eq!(node.settled_job("7").await["used_tokens"], 3);
}
