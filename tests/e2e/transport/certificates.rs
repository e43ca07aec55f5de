//! Certificates of clients, and what becomes of files that change or are wrong.

use testkit::{Config, TestNode, eventually};

use super::{Authority, HOST, TlsNode, client, handshakes, http, quoted, with_certificate, write, write_pair};
use crate::support::{BINARY, open_session, prompt, words};

#[tokio::test]
async fn a_client_without_the_right_certificate_is_refused() {
    let (own, foreign) = (Authority::new("of clients"), Authority::new("of others"));
    let (good, bad) = (own.client("alice"), foreign.client("alice"));
    // A server's certificate of the right authority is not a client's.
    let server = own.server(&[HOST]);
    for mode in ["required", "optional"] {
        let files = tempfile::tempdir().expect("temporary files can be made");
        let authority = Authority::new("of servers");
        let config = with_certificate(Config::scripted(), &files, "server", &authority.server(&[HOST]))
            .set("server.tls_client_ca", quoted(&write(&files, "clients.pem", &own.pem())))
            .set("server.tls_client_auth", format!("{mode:?}"));
        let node = TestNode::start_unready(BINARY, config).await;
        let asked = async |identity| {
            let tls = client(&authority.pem(), identity);
            http(&node, &tls).get(super::url(&node, "/health")).send().await.map(|response| response.status().as_u16())
        };
        assert!(asked(Some(&bad)).await.is_err(), "{mode}: another authority's");
        assert!(asked(Some(&server)).await.is_err(), "{mode}: a server's");
        assert_eq!(asked(None).await.is_ok(), mode == "optional", "{mode}: none");
        assert_eq!(asked(Some(&good)).await.expect("let in"), 200, "{mode}");
        let refused = if mode == "required" { 3.0 } else { 2.0 };
        eventually("refusals are counted", async || (handshakes(&node, "failed").await >= refused).then_some(())).await;
        // It opens the connection, and is no token.
        let good = http(&node, &client(&authority.pem(), Some(&good)));
        assert_eq!(good.get(super::url(&node, "/v1/models")).send().await.expect("an answer").status(), 401);
    }
}

/// The end of the certificate that is in force.
async fn ends(node: &TestNode) -> f64 {
    let labels = [("listener", "public")];
    node.metrics().await.get("llm_node_tls_certificate_expiry_timestamp_seconds", &labels).expect("a series")
}

async fn reloads(node: &TestNode, outcome: &str) -> f64 {
    let labels = [("listener", "public"), ("outcome", outcome)];
    node.metrics().await.get("llm_node_tls_reloads_total", &labels).expect("a series")
}

#[tokio::test]
async fn a_new_certificate_is_taken_and_open_sockets_stay() {
    let node = TlsNode::start().await;
    let mut socket = node.socket("/v1/ws", &node.tls).await.expect("a socket");
    open_session(&mut socket, "s").await;
    let before = ends(&node.node).await;
    // On change, by itself.
    let next = Authority::new("the next authority");
    write_pair(&node.files, "server", &next.server_until(&[HOST], 2080));
    eventually("the new one is in force", async || (ends(&node.node).await != before).then_some(())).await;
    assert_eq!(reloads(&node.node, "applied").await, 1.0);
    let new = client(&next.pem(), None);
    let response = http(&node.node, &new).get(node.url("/health")).send().await.expect("the new one is believed");
    assert_eq!(response.status(), 200);
    let old = http(&node.node, &node.tls).get(node.url("/health")).send().await;
    assert!(old.is_err(), "the old one is not presented any more");
    let id = socket.send(prompt("s", "hello", 3)).await;
    assert_eq!(socket.answer(&id).await.text, words(3), "an open socket goes on");
    // On SIGHUP at once, whether something changed or not.
    node.node.sighup();
    eventually("it is read again", async || (reloads(&node.node, "applied").await == 2.0).then_some(())).await;
}

#[tokio::test]
async fn an_invalid_new_certificate_changes_nothing_and_says_why() {
    let node = TlsNode::start().await;
    let before = ends(&node.node).await;
    let (good, other) = (node.authority.server(&[HOST]), node.authority.server(&[HOST]));
    let mut refused = 0.0;
    let mut refuse = async |certificate: &str, key: &str, part: &str| {
        write(&node.files, "server.crt", certificate);
        write(&node.files, "server.key", key);
        node.node.sighup();
        refused += 1.0;
        eventually(part, async || (reloads(&node.node, "invalid").await >= refused).then_some(())).await;
        refused = reloads(&node.node, "invalid").await;
        assert!(node.node.log().contains(part), "{part} is not logged");
        let response = http(&node.node, &node.tls).get(node.url("/health")).send().await;
        assert_eq!(response.expect("the old one is in force").status(), 200, "{part}");
    };
    refuse("nonsense", &good.key, "no `BEGIN CERTIFICATE`").await;
    refuse(&good.certificate, &other.key, "does not belong to the certificate").await;
    refuse(&good.certificate, "", "no whole `BEGIN PRIVATE KEY`").await;
    let ended = node.authority.server_until(&[HOST], 2021);
    refuse(&ended.certificate, &ended.key, "has ended").await;
    assert_eq!(ends(&node.node).await, before);
    assert!(!node.node.log().contains(good.key.lines().nth(1).expect("a line")), "a key is in the log");
}

#[tokio::test]
async fn every_error_is_said_before_it_starts() {
    let check = |config: Config, parts: &[&str]| {
        let node = TestNode::prepare(BINARY, &config);
        let finished = node.command(&["serve", "--admin-listen", "127.0.0.1:0"]);
        assert_eq!(finished.code, Some(78), "{}", finished.stderr);
        for part in parts {
            assert!(finished.stderr.contains(part), "{part} in {}", finished.stderr);
        }
    };
    let local = Config::scripted().set("server.listen", "\"127.0.0.1:0\"");
    check(local.clone().set("server.tls_cert", "\"x.crt\""), &["server.tls_cert: needs server.tls_key"]);
    check(local.clone().set("server.tls_key", "\"x.key\""), &["server.tls_key: needs server.tls_cert"]);
    check(local.clone().set("admin.tls_client_ca", "\"x\""), &["admin.tls_client_ca: needs admin.tls_cert"]);
    check(local.clone().set("server.trusted_proxies", "[\"0.0.0.0/0\"]"), &["server.trusted_proxies"]);
    let missing = local
        .set("server.tls_cert", "\"/nowhere/x.crt\"")
        .set("server.tls_key", "\"/nowhere/x.key\"")
        .set("admin.tls_cert", "\"/nowhere/y.crt\"")
        .set("admin.tls_key", "\"/nowhere/y.key\"");
    check(
        missing,
        &["server.tls_cert: /nowhere/x.crt cannot be read", "admin.tls_cert: /nowhere/y.crt cannot be read"],
    );
    let exposed = Config::scripted()
        .set("server.listen", "\"0.0.0.0:0\"")
        .set("admin.listen", "\"0.0.0.0:0\"")
        .set("auth.enabled", false);
    let node = TestNode::prepare(BINARY, &exposed);
    let finished = node.command(&["serve"]);
    assert_eq!(finished.code, Some(78), "{}", finished.stderr);
    for part in ["has 4 errors", "server.tls_cert and server.tls_key", "admin.tls_cert and admin.tls_key", "anybody"] {
        assert!(finished.stderr.contains(part), "{part} in {}", finished.stderr);
    }
}

#[tokio::test]
async fn with_tls_or_a_proxy_any_address_is_taken() {
    let authority = Authority::new("test authority");
    let files = tempfile::tempdir().expect("temporary files can be made");
    let pair = authority.server(&[HOST]);
    let both = with_certificate(Config::scripted(), &files, "server", &pair);
    let both = with_certificate(both, &files, "admin", &pair);
    for config in [both, Config::scripted().set("server.behind_proxy", true)] {
        let node = TestNode::prepare(BINARY, &config);
        let finished = node.command(&["config", "check"]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let config = config.set("server.listen", "\"0.0.0.0:0\"").set("admin.listen", "\"0.0.0.0:0\"");
        node.write_config(&config);
        let finished = node.command(&["config", "check"]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn doctor_looks_at_them() {
    use std::os::unix::fs::PermissionsExt;
    let authority = Authority::new("test authority");
    let files = tempfile::tempdir().expect("temporary files can be made");
    let config = with_certificate(Config::scripted(), &files, "server", &authority.server(&[HOST]));
    let node = TestNode::prepare(BINARY, &config);
    let key = files.path().join("server.key");
    let doctor = || -> Vec<(String, String)> {
        let finished = node.command(&["doctor", "--json"]);
        let checks: serde_json::Value = serde_json::from_str(&finished.stdout).expect("JSON");
        let checks = checks.as_array().expect("a list").iter().filter(|check| check["name"] == "certificate");
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        checks.map(|check| (text(&check["verdict"]), text(&check["found"]))).collect()
    };
    let expect = |verdict: &str, part: &str| {
        let found = doctor();
        assert!(found.iter().any(|(v, text)| v == verdict && text.contains(part)), "{verdict} {part} in {found:?}");
    };
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).expect("ours");
    expect("warn", "others can read its key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("ours");
    expect("ok", HOST);
    assert_eq!(doctor().len(), 1);
    write_pair(&files, "server", &authority.server_until(&[HOST], 2021));
    expect("fail", "ended");
    write(&files, "server.key", "nonsense");
    expect("fail", "no whole `BEGIN PRIVATE KEY`");
}
