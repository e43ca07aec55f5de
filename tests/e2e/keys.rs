//! The node's own keys over their life, beside a running node. What is signed is verified by OpenSSL or offline from the
//! published set.

mod hardware;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{Config, TestNode, eventually};

use crate::support::{BINARY, JOB, scripted, with};

/// What is done beside the node must hold there within this time.
const EFFECT: Duration = Duration::from_secs(1);

/// Gets a document of the public listener; gives it with its `Cache-Control`.
async fn document(node: &TestNode, path: &str) -> (Value, String) {
    let response = node.http().get(node.url(path)).send().await.expect("the node answers");
    assert_eq!(response.status(), 200, "{path}");
    let cache = response.headers().get("cache-control").map(|value| value.to_str().expect("ASCII").to_owned());
    (response.json().await.expect("JSON"), cache.unwrap_or_default())
}

async fn jwks(node: &TestNode) -> Vec<Value> {
    document(node, "/.well-known/jwks.json").await.0["keys"].as_array().expect("keys").clone()
}

/// The key that the node signs with, as it says.
async fn active(node: &TestNode) -> String {
    document(node, "/.well-known/llm-node").await.0["key_id"].as_str().expect("a key").to_owned()
}

/// A command that prints JSON.
fn keys(node: &TestNode, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = ["keys"].iter().chain(arguments).chain(&["--json"]).copied().collect();
    serde_json::from_str(&node.command_ok(&arguments)).expect("JSON")
}

/// Waits until `kid` signs, and for no longer than [`EFFECT`].
async fn signs_soon(node: &TestNode, kid: &str) {
    let start = Instant::now();
    eventually("the key signs", async || (active(node).await == kid).then_some(())).await;
    assert!(start.elapsed() <= EFFECT, "it took {:?}", start.elapsed());
}

/// Asks for an answer and fetches its receipt.
async fn receipt(node: &TestNode, token: &str) -> Result<String, String> {
    let body = json!({"model": "default", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]});
    let request = node.http().post(node.url("/v1/chat/completions")).bearer_auth(token).json(&body);
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let id = answer.headers().get("x-receipt-id").map(|id| id.to_str().expect("ASCII").to_owned());
    let text = answer.text().await.map_err(|error| error.to_string())?;
    let id = id.filter(|_| status == 200).ok_or(format!("{status}: {text}"))?;
    let request = node.http().get(node.url(&format!("/v1/receipts/{id}"))).bearer_auth(token);
    let found = request.send().await.map_err(|error| error.to_string())?;
    let status = found.status();
    let text = found.text().await.map_err(|error| error.to_string())?;
    if status == 200 { Ok(text) } else { Err(format!("{status}: {text}")) }
}

/// Verifies a receipt offline by the set of keys in a file.
fn verifies(node: &TestNode, receipt: &str, keys: &Path) -> bool {
    let file = node.folder().join("receipt.json");
    fs::write(&file, receipt).expect("the folder is writable");
    let path = |path: &Path| path.display().to_string();
    node.command(&["receipt", "verify", &path(&file), "--jwks", &path(keys)]).code == Some(0)
}

/// Keeps the published set as a client would.
async fn keep_jwks(node: &TestNode, name: &str) -> PathBuf {
    let file = node.folder().join(name);
    fs::write(&file, json!({ "keys": jwks(node).await }).to_string()).expect("the folder is writable");
    file
}

fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().expect("openssl is installed");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "openssl {}: {said}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("text")
}

fn secret_file(node: &TestNode, kid: &str) -> String {
    node.data_dir().join(format!("keys/{kid}.pem")).display().to_string()
}

#[tokio::test]
async fn the_first_start_makes_a_key_and_publishes_it() {
    let (mut node, token) = scripted().await;
    let (about, cache) = document(&node, "/.well-known/llm-node").await;
    assert_eq!(about["node_id"], about["key_id"], "the node is named by its first key");
    assert_eq!(about["key_statements"], json!([]));
    assert!(about["version"].is_string() && about["endpoints"]["jwks"] == "/.well-known/jwks.json", "{about}");
    assert_eq!(cache, "public, max-age=300");
    let (set, cache) = document(&node, "/.well-known/jwks.json").await;
    assert_eq!(cache, "public, max-age=300");
    let key = &set["keys"][0];
    assert_eq!((&key["kty"], &key["crv"], &key["status"]), (&json!("OKP"), &json!("Ed25519"), &json!("active")));
    assert_eq!(key["kid"], about["key_id"]);
    assert!(key.get("d").is_none(), "no secret is published");

    let receipt = receipt(&node, &token).await.expect("a receipt");
    assert!(verifies(&node, &receipt, &keep_jwks(&node, "jwks.json").await));
    node.kill9().await;
    node.spawn().await;
    node.until_ready().await;
    assert_eq!(document(&node, "/.well-known/llm-node").await.0["node_id"], about["node_id"], "also after a restart");
}

#[tokio::test]
async fn a_rotation_under_load_loses_no_request_and_no_receipt() {
    let (node, token) = scripted().await;
    let first = active(&node).await;
    let early = node.command(&["keys", "rotate"]);
    assert!(early.code == Some(1) && early.stderr.contains("no next key"), "{}", early.stderr);

    let load = async {
        let mut receipts = Vec::new();
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            receipts.push(receipt(&node, &token).await);
        }
        receipts
    };
    let rotations = async {
        let next = keys(&node, &["generate"])["kid"].as_str().expect("a kid").to_owned();
        eventually("the next key is published", async || (jwks(&node).await.len() == 2).then_some(())).await;
        assert_eq!(active(&node).await, first, "published ahead, and not used yet");
        let early = node.command(&["keys", "rotate"]);
        assert!(early.code == Some(1) && early.stderr.contains("--now"), "{}", early.stderr);
        assert_eq!(keys(&node, &["rotate", "--now"])["active"]["kid"], next);
        signs_soon(&node, &next).await;
        let third = keys(&node, &["rotate", "--now"])["active"]["kid"].as_str().expect("a kid").to_owned();
        signs_soon(&node, &third).await;
        [next, third]
    };
    let (receipts, later) = tokio::join!(load, rotations);

    let set = keep_jwks(&node, "jwks.json").await;
    let status: Vec<Value> = jwks(&node).await.iter().map(|key| key["status"].clone()).collect();
    assert_eq!(status, ["retired", "retired", "active"]);
    let mut signers = Vec::new();
    for receipt in &receipts {
        let receipt = receipt.as_ref().expect("no request is lost");
        let parsed: Value = serde_json::from_str(receipt).expect("JSON");
        assert_eq!(parsed["node_id"], json!(first), "the node keeps its name");
        let kid = parsed["key_id"].as_str().expect("a key").to_owned();
        if !signers.contains(&kid) {
            assert!(verifies(&node, receipt, &set), "{receipt}");
            signers.push(kid);
        }
    }
    assert!(signers.contains(&first) && signers.contains(&later[1]), "{signers:?} of {} receipts", receipts.len());
    let statements = document(&node, "/.well-known/llm-node").await.0["key_statements"].clone();
    assert_eq!((&statements[0]["signed_by"], &statements[0]["key_id"]), (&json!(first), &json!(later[0])));
    assert_eq!((&statements[1]["signed_by"], &statements[1]["key_id"]), (&json!(later[0]), &json!(later[1])));

    let metrics = node.metrics().await;
    let uses = |kid: &str, outcome: &str| {
        metrics.get("llm_node_key_uses_total", &[("kid", kid), ("operation", "sign"), ("outcome", outcome)])
    };
    assert!(uses(&first, "ok") > Some(0.0) && uses(&later[1], "ok") > Some(0.0), "{:?}", uses(&first, "ok"));
    assert_eq!(metrics.sum("llm_node_key_uses_total", &[("operation", "sign")]), receipts.len() as f64);
    assert_eq!(uses(&first, "failed"), Some(0.0));
}

#[tokio::test]
async fn the_use_of_a_retired_key_is_refused_and_counted() {
    let (node, _) = with(Config::scripted().set("auth.token_algorithm", "\"ed25519\"")).await;
    let token = node.token("alice", JOB);
    let first = active(&node).await;
    receipt(&node, &token).await.expect("a token by the node's key");
    let rotated = keys(&node, &["rotate", "--now"]);
    signs_soon(&node, rotated["active"]["kid"].as_str().expect("a kid")).await;
    receipt(&node, &token).await.expect("in the overlap");
    assert!(Path::new(&secret_file(&node, &first)).exists());
    assert_eq!(keys(&node, &["retire", &first])["secret"], "none");
    assert!(!Path::new(&secret_file(&node, &first)).exists(), "its secret is destroyed");
    let refused = eventually("the token is refused", async || receipt(&node, &token).await.err()).await;
    assert!(refused.starts_with("401"), "{refused}");
    let labels = [("kid", first.as_str()), ("operation", "verify"), ("outcome", "retired")];
    assert!(node.metrics().await.get("llm_node_key_uses_total", &labels) >= Some(1.0));
    let active = rotated["active"]["kid"].as_str().expect("a kid");
    let refused = node.command(&["keys", "retire", active]);
    assert!(refused.code == Some(1) && refused.stderr.contains("active key"), "{}", refused.stderr);
}

#[tokio::test]
async fn openssl_reads_our_files_and_we_read_its() {
    let (node, _) = with(Config::scripted().set("signature.private_key_passphrase", "\"correct horse\"")).await;
    let kid = active(&node).await;
    let ours = secret_file(&node, &kid);
    assert!(fs::read_to_string(&ours).expect("a file").starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    let public = openssl(&["pkey", "-in", &ours, "-passin", "pass:correct horse", "-pubout"]);
    assert_eq!(public.trim(), node.command_ok(&["keys", "export-public"]), "the same key");

    // OpenSSL signs with our file, and verifies by what we export.
    let path = |name: &str| node.folder().join(name).display().to_string();
    fs::write(path("message"), "what is signed").expect("the folder is writable");
    fs::write(path("public.pem"), &public).expect("the folder is writable");
    let (message, signature) = (path("message"), path("signature"));
    openssl(&[
        "pkeyutl",
        "-sign",
        "-rawin",
        "-in",
        &message,
        "-inkey",
        &ours,
        "-passin",
        "pass:correct horse",
        "-out",
        &signature,
    ]);
    openssl(&[
        "pkeyutl",
        "-verify",
        "-rawin",
        "-in",
        &message,
        "-pubin",
        "-inkey",
        &path("public.pem"),
        "-sigfile",
        &signature,
    ]);

    for (name, options) in
        [("plain.pem", &[][..]), ("encrypted.pem", &["-aes-256-cbc", "-pass", "pass:other words"][..])]
    {
        let theirs = path(name);
        let arguments: Vec<&str> =
            ["genpkey", "-algorithm", "ed25519", "-out", &theirs].iter().chain(options).copied().collect();
        openssl(&arguments);
        fs::write(path("passphrase"), "other words\n").expect("the folder is writable");
        for file in [&theirs, &path("passphrase")] {
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(file, permissions).expect("it is ours");
        }
        let imported = keys(&node, &["import", &theirs, "--passphrase-file", &path("passphrase")]);
        let kid = imported["kid"].as_str().expect("a kid").to_owned();
        let public = openssl(&["pkey", "-in", &theirs, "-passin", "pass:other words", "-pubout"]);
        assert_eq!(node.command_ok(&["keys", "export-public", &kid]), public.trim());
        let _ = node.command_ok(&["keys", "rotate", "--now"]);
        signs_soon(&node, &kid).await;
    }
}

#[tokio::test]
async fn a_backup_brings_the_node_back() {
    let (mut node, token) = scripted().await;
    let first = active(&node).await;
    let path = |name: &str| node.folder().join(name).display().to_string();
    let (backup, passphrase) = (path("backup.age"), path("passphrase"));
    fs::write(&passphrase, "a long passphrase\n").expect("the folder is writable");
    let exposed = node.command(&["keys", "backup", &backup, "--passphrase-file", &passphrase]);
    assert!(exposed.code == Some(1) && exposed.stderr.contains("chmod 600"), "{}", exposed.stderr);
    fs::set_permissions(&passphrase, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it is ours");
    let make = ["keys", "backup", &backup, "--passphrase-file", &passphrase];
    let _ = node.command_ok(&make);
    assert_eq!(node.command(&make).code, Some(1), "a backup is never written over");

    // A key that came after the backup signs, then the backup is put back beside the running node.
    let _ = node.command_ok(&["keys", "rotate", "--now"]);
    let second =
        eventually("the second key signs", async || Some(active(&node).await).filter(|kid| *kid != first)).await;
    let late = receipt(&node, &token).await.expect("a receipt");
    let restore = ["keys", "restore", &backup, "--passphrase-file", &passphrase];
    let refused = node.command(&restore);
    assert!(refused.code == Some(1) && refused.stderr.contains("--replace"), "{}", refused.stderr);
    let _ = node.command_ok(&[&restore[..], &["--replace"]].concat());
    signs_soon(&node, &first).await;
    assert!(verifies(&node, &late, &keep_jwks(&node, "jwks.json").await), "what {second} signed stays verifiable");

    node.kill9().await;
    fs::remove_dir_all(node.data_dir().join("keys")).expect("it is ours");
    let _ = node.command_ok(&restore);
    node.spawn().await;
    node.until_ready().await;
    assert_eq!(active(&node).await, first);
}

#[tokio::test]
async fn a_node_whose_key_is_not_right_does_not_start() {
    let node = TestNode::prepare(BINARY, &Config::scripted());
    let start = |config: &Config| {
        node.write_config(config);
        let ended = node.command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        assert!(ended.code != Some(0), "it must not serve");
        ended.stderr
    };
    let other = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let said = start(&Config::scripted().set("signature.public_key", format!("\"{other}\"")));
    assert!(said.contains("signature.public_key"), "{said}");
    let said = start(&Config::scripted().set("signature.public_key", "\"00\""));
    assert!(said.contains("64 hexadecimal digits"), "{said}");
    let said = start(&Config::scripted().set("signature.private_key", "\"/nowhere/key.pem\""));
    assert!(said.contains("/nowhere/key.pem"), "{said}");
    let said = start(&Config::scripted().set("signature.pkcs11_token", "\"x\""));
    assert!(said.contains("pkcs11_module"), "{said}");

    let kid: Value = serde_json::from_str(&node_list(&node)).expect("JSON");
    let file = secret_file(&node, kid[0]["kid"].as_str().expect("a kid"));
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("it is ours");
    let said = start(&Config::scripted());
    assert!(said.contains("can be read by others"), "{said}");
}

fn node_list(node: &TestNode) -> String {
    node.write_config(&Config::scripted());
    node.command_ok(&["keys", "list", "--json"])
}
