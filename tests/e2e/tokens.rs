//! Tokens over their life: rotation of the secret, revocation, other issuers. Beside a running node, over real sockets.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use testkit::{Config, Issuer, IssuerKey, IssuerMood, TestNode, eventually};

use crate::support::{BINARY, JOB, chat, count, generated, post, prompt, scripted, with, words};

/// What is done beside the node must hold there within this time.
const EFFECT: Duration = Duration::from_secs(1);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// The status of a cheap request with a token, and its code where it is refused.
async fn status(node: &TestNode, token: &str) -> (u16, String) {
    let (status, body) =
        post(node, "/v1/inference", Some(token), &json!({"model": "default", "prompt": "x", "max_tokens": 1})).await;
    (status, body["error_type"].as_str().unwrap_or_default().to_owned())
}

async fn accepted(node: &TestNode, token: &str) -> bool {
    status(node, token).await.0 == 200
}

/// Waits until a token is refused with this code, and for no longer than [`EFFECT`].
async fn refused_soon(node: &TestNode, token: &str, code: &str) {
    let start = Instant::now();
    let found = eventually("the token is refused", async || {
        let (status, found) = status(node, token).await;
        (status == 401).then_some(found)
    })
    .await;
    assert_eq!(found, code);
    assert!(start.elapsed() <= EFFECT, "it took {:?}", start.elapsed());
}

#[tokio::test]
async fn a_revoked_token_is_refused_within_a_second_and_after_a_restart() {
    let (mut node, token) = scripted().await;
    let other = node.token("alice", JOB);
    let inspected: Value =
        serde_json::from_str(&node.command_ok(&["token", "inspect", "--json", &token])).expect("JSON");
    let said = node.command_ok(&["token", "revoke", "--json", &token]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["jti"], inspected["jti"]);
    refused_soon(&node, &token, "TOKEN_REVOKED").await;
    assert!(accepted(&node, &other).await, "another token of the same subject");
    let refused = node.socket("/v1/ws", Some(&token)).await.expect_err("revoked");
    assert_eq!(refused.status, 401);
    let inspected = node.command(&["token", "inspect", &token]);
    assert!(inspected.code == Some(1) && inspected.stderr.contains("revoked"), "{}", inspected.stderr);

    node.kill9().await;
    node.spawn().await;
    node.until_ready().await;
    assert_eq!(status(&node, &token).await, (401, "TOKEN_REVOKED".into()));
    assert!(accepted(&node, &other).await);
    let metrics = node.metrics().await;
    assert_eq!(metrics.get("llm_node_token_refusals_total", &[("reason", "revoked")]), Some(1.0));
    assert_eq!(metrics.get("llm_node_token_checks_total", &[("outcome", "revoked")]), Some(1.0));
}

#[tokio::test]
async fn a_subject_loses_all_tokens_issued_so_far_and_can_have_new_ones() {
    let (node, token) = scripted().await;
    let bound_for_bob = node.job_and_token("bob", "8", 1000);
    let second = node.token("alice", JOB);
    let _ = node.command_ok(&["token", "revoke", "--subject", "alice"]);
    refused_soon(&node, &token, "TOKEN_REVOKED").await;
    refused_soon(&node, &second, "TOKEN_REVOKED").await;
    let fresh = node.token("alice", JOB);
    assert!(accepted(&node, &fresh).await, "what is issued after the command is good");
    assert!(accepted(&node, &bound_for_bob).await, "another subject");
    let future = (now() + 3600).to_string();
    let refused = node.command(&["token", "revoke", "--subject", "alice", "--issued-until", &future]);
    assert!(refused.code == Some(1) && refused.stderr.contains("future"), "{}", refused.stderr);
}

#[tokio::test]
async fn the_secret_is_rotated_beside_the_node_and_loses_no_request() {
    let (node, old) = scripted().await;
    let rotated: Value = serde_json::from_str(&node.command_ok(&["token", "rotate-secret", "--json"])).expect("JSON");
    // At once: the node has not looked yet.
    let new = node.token("alice", JOB);
    assert!(accepted(&node, &new).await, "a token of the new secret");
    assert!(accepted(&node, &old).await, "a token of the old one");
    let header = |token: &str| token.split('.').next().expect("a header").to_owned();
    assert_ne!(header(&old), header(&new), "they name their secrets");
    assert!(rotated["old_until"].as_u64() > Some(now()));
    // What the node itself issues is signed by the new secret.
    let mut socket = node.native(&old).await;
    let init = json!({"type": "session_init", "session_id": "s", "job_id": JOB});
    let ack = socket.request(init, "session_init_ack").await;
    assert_eq!(header(ack["token"].as_str().expect("a token")), header(&new));

    let _ = node.command_ok(&["token", "rotate-secret", "--overlap", "0"]);
    refused_soon(&node, &new, "INVALID_TOKEN").await;
    assert!(accepted(&node, &node.token("alice", JOB)).await);
}

#[tokio::test]
async fn a_configured_secret_changes_live_and_is_not_rotated_by_command() {
    let (first, second) = ("7f3c9a51e0d84b62a1f5c7e9308d4b6f", "2a9c1e5d7b3f8046c7e9308d4b6f7f3c");
    let config = |secret: &str| Config::scripted().set("auth.jwt_secret", format!("{secret:?}"));
    let (node, old) = with(config(first)).await;
    let refused = node.command(&["token", "rotate-secret"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("jwt_secret_previous"), "{}", refused.stderr);
    node.write_config(&config(second).set("auth.jwt_secret_previous", format!("{first:?}")));
    let new = node.token("alice", JOB);
    eventually("the new secret is in force", async || accepted(&node, &new).await.then_some(())).await;
    assert!(accepted(&node, &old).await, "the one before verifies");
    node.write_config(&config(second));
    eventually("the old secret ends", async || (!accepted(&node, &old).await).then_some(())).await;
    assert!(accepted(&node, &new).await);
}

#[tokio::test]
async fn the_life_of_tokens_changes_on_reload() {
    let (node, token) = scripted().await;
    let life = async |node: &TestNode| {
        let mut socket = node.native(&token).await;
        let init = json!({"type": "session_init", "session_id": "s", "job_id": JOB});
        let ack = socket.request(init, "session_init_ack").await;
        ack["expires_at"].as_u64().expect("an expiry").saturating_sub(now())
    };
    assert!(life(&node).await > 3600);
    node.write_config(&Config::scripted().set("auth.token_expiry", "\"5m\""));
    eventually("the new life is in force", async || (life(&node).await <= 300).then_some(())).await;
}

#[tokio::test]
async fn a_token_is_bound_to_a_key_and_says_so() {
    let (node, _) = scripted().await;
    // The public key of RFC 8032 section 7.1 test 1; its thumbprint is that of RFC 8037 appendix A.3.
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let issue = ["token", "issue", "--subject", "alice", "--job", JOB, "--bind-key", key];
    let token = node.command_ok(&issue);
    let claims: Value = serde_json::from_str(&node.command_ok(&["token", "inspect", "--json", &token])).expect("JSON");
    assert_eq!(claims["cnf"]["jkt"], "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    let weak = "0100000000000000000000000000000000000000000000000000000000000000";
    let refused = node.command(&["token", "issue", "--subject", "alice", "--job", JOB, "--bind-key", weak]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

/// A node that trusts these issuers, and a job for each issuer's subject `u-1`.
async fn trusting(issuers: &[&Issuer], interval: &str) -> TestNode {
    let urls: Vec<String> = issuers.iter().map(|issuer| format!("{:?}", issuer.url())).collect();
    let config = Config::scripted()
        .set("auth.issuers", format!("[{}]", urls.join(", ")))
        .set("auth.issuer_permissions", "[\"read\", \"execute\"]")
        .set("auth.issuer_refresh_interval", format!("{interval:?}"));
    let node = TestNode::start(BINARY, config).await;
    for (index, issuer) in issuers.iter().enumerate() {
        node.create_job(&format!("{}|u-1", issuer.url()), &format!("7{index}"), 1_000_000);
    }
    node
}

fn claims(issuer: &str, job: &str) -> Value {
    json!({
        "iss": issuer, "aud": "llm-node", "sub": "u-1", "iat": now(), "exp": now() + 600, "jti": "t-1", "job_id": job,
        "permissions": ["admin"],
    })
}

// The issuer must answer while a command is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_a_trusted_issuer_are_taken_for_what_is_configured() {
    let keys = [IssuerKey::rs256("r"), IssuerKey::es256("e"), IssuerKey::ed25519("d")];
    let issuer = Issuer::start(&keys.each_ref()).await;
    let node = trusting(&[&issuer], "10s").await;
    for key in &keys {
        let token = key.token(&claims(issuer.url(), "70"));
        let (status, body) = post(&node, "/v1/chat/completions", Some(&token), &chat("hello", 2)).await;
        assert_eq!(status, 200, "{key:?}: {body}");
        let mut socket = session_of(&node, &token, "70").await;
        let id = socket.send(prompt("s", "hello", 3)).await;
        assert_eq!(socket.answer(&id).await.text, words(3));
        let inspected = node.command_ok(&["token", "inspect", "--json", &token]);
        let inspected: Value = serde_json::from_str(&inspected).expect("JSON");
        assert_eq!(inspected["permissions"], json!(["read", "execute"]), "what the token says of itself is not asked");
        assert_eq!(inspected["sub"], format!("{}|u-1", issuer.url()));
    }
    // The node's own subject of that name is somebody else, and cannot be made by the command.
    let refused = node.command(&["token", "issue", "--subject", &format!("{}|u-1", issuer.url()), "--job", "70"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("another issuer"), "{}", refused.stderr);
    let own = node.token("u-1", "70");
    assert_eq!(status(&node, &own).await.0, 403, "u-1 of the node is not u-1 of the issuer");
    // Revocation reaches them too.
    let token = keys[0].token(&claims(issuer.url(), "70"));
    let _ = node.command_ok(&["token", "revoke", "--jti", &format!("{}|t-1", issuer.url())]);
    refused_soon(&node, &token, "TOKEN_REVOKED").await;
}

async fn session_of(node: &TestNode, token: &str, job: &str) -> testkit::Socket {
    let mut socket = node.native(token).await;
    socket.request(json!({"type": "session_init", "session_id": "s", "job_id": job}), "session_init_ack").await;
    socket
}

#[tokio::test]
async fn what_the_node_refreshes_for_an_issuers_subject_ends_with_the_issuers_token() {
    let key = IssuerKey::es256("k");
    let issuer = Issuer::start(&[&key]).await;
    let node = trusting(&[&issuer], "10s").await;
    let claims = claims(issuer.url(), "70");
    let mut socket = node.native(&key.token(&claims)).await;
    let ack =
        socket.request(json!({"type": "session_init", "session_id": "s", "job_id": "70"}), "session_init_ack").await;
    assert!(ack["expires_at"].as_u64() <= claims["exp"].as_u64().map(|exp| exp + 1), "{ack}");
}

#[tokio::test]
async fn a_key_of_one_issuer_vouches_for_no_other() {
    let (key_a, key_b) = (IssuerKey::es256("k"), IssuerKey::es256("k"));
    let (a, b) = (Issuer::start(&[&key_a]).await, Issuer::start(&[&key_b]).await);
    let node = trusting(&[&a, &b], "1s").await;
    assert!(accepted(&node, &key_a.token(&claims(a.url(), "70"))).await);
    assert!(accepted(&node, &key_b.token(&claims(b.url(), "71"))).await);
    let stranger = Issuer::start(&[&key_a]).await;
    for (what, token) in [
        ("A's key for B's subject, under B's name of a key", key_a.token(&claims(b.url(), "71"))),
        ("B's key for A's subject", key_b.token(&claims(a.url(), "70"))),
        ("an issuer that nobody trusts", key_a.token(&claims(stranger.url(), "70"))),
        ("A's key for the node's own tokens", key_a.token(&claims("llm-node", "70"))),
    ] {
        assert_eq!(status(&node, &token).await, (401, "INVALID_TOKEN".into()), "{what}");
    }
    assert_eq!(stranger.asked(), 0, "a token makes the node ask nobody");
}

#[tokio::test]
async fn a_rotation_at_the_issuer_is_noticed() {
    let (old, new) = (IssuerKey::rs256("old"), IssuerKey::rs256("new"));
    let issuer = Issuer::start(&[&old]).await;
    let node = trusting(&[&issuer], "1s").await;
    let token = |key: &IssuerKey| key.token(&claims(issuer.url(), "70"));
    assert!(accepted(&node, &token(&old)).await);
    issuer.publish(&[&old, &new]);
    eventually("the new key is taken", async || accepted(&node, &token(&new)).await.then_some(())).await;
    assert!(accepted(&node, &token(&old)).await, "both, while both are published");
    issuer.publish(&[&new]);
    eventually("the old key is refused", async || {
        // An unknown key makes the node ask again.
        let _ = status(&node, &IssuerKey::ed25519("x").token(&claims(issuer.url(), "70"))).await;
        (!accepted(&node, &token(&old)).await).then_some(())
    })
    .await;
    issuer.mood(IssuerMood::Status(500));
    assert!(accepted(&node, &token(&new)).await, "known keys serve while the issuer is down");
}

#[tokio::test]
async fn a_flood_of_unknown_keys_asks_the_issuer_seldom() {
    let key = IssuerKey::ed25519("k");
    let issuer = Issuer::start(&[&key]).await;
    let node = trusting(&[&issuer], "1h").await;
    assert!(accepted(&node, &key.token(&claims(issuer.url(), "70"))).await);
    let asked = issuer.asked();
    let flood: Vec<_> = (0..300)
        .map(|number| {
            let header = json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": format!("k{number}") });
            let token = key.token_with_header(&header, &claims(issuer.url(), "70"));
            let request = node.http().post(node.url("/v1/inference")).bearer_auth(token).json(&json!({}));
            tokio::spawn(async move { request.send().await.expect("an answer").status().as_u16() })
        })
        .collect();
    for request in flood {
        assert_eq!(request.await.expect("it ends"), 401);
    }
    assert_eq!(issuer.asked(), asked);
    assert!(accepted(&node, &key.token(&claims(issuer.url(), "70"))).await, "others go on");
    let metrics = node.metrics().await;
    let limited = metrics.get("llm_node_issuer_key_fetches_total", &[("outcome", "limited")]);
    assert!(limited >= Some(300.0), "{limited:?}");
    assert_eq!(metrics.get("llm_node_token_refusals_total", &[("reason", "unknown_key")]), Some(300.0));
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_is_told_from_a_bad_token() {
    let key = IssuerKey::ed25519("k");
    let issuer = Issuer::start(&[&key]).await;
    issuer.mood(IssuerMood::Status(503));
    let node = trusting(&[&issuer], "1s").await;
    let token = key.token(&claims(issuer.url(), "70"));
    assert_eq!(status(&node, &token).await, (503, "ISSUER_UNAVAILABLE".into()));
    assert!(accepted(&node, &node.job_and_token("alice", JOB, 1000)).await, "the node's own tokens need nobody");
    issuer.mood(IssuerMood::Well);
    eventually("the issuer is well again", async || accepted(&node, &token).await.then_some(())).await;
    let metrics = node.metrics().await;
    assert!(generated(&metrics) > 0.0 && count(&node.job("70"), "/used_tokens") > 0);
}

#[tokio::test]
async fn by_default_tokens_of_an_issuer_have_no_rights_and_bad_addresses_do_not_start() {
    let key = IssuerKey::ed25519("k");
    let issuer = Issuer::start(&[&key]).await;
    let config = Config::scripted().set("auth.issuers", format!("[{:?}]", issuer.url()));
    let node = TestNode::start(BINARY, config).await;
    node.create_job(&format!("{}|u-1", issuer.url()), "70", 1000);
    let token = key.token(&claims(issuer.url(), "70"));
    assert_eq!(status(&node, &token).await, (403, "PERMISSION_DENIED".into()));
    let plain = Config::scripted().set("auth.issuers", "[\"http://issuer.test\"]");
    let finished = TestNode::prepare(BINARY, &plain).command(&["serve"]);
    assert!(finished.code == Some(78) && finished.stderr.contains("auth.issuers"), "{}", finished.stderr);
}
