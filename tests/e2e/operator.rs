//! What an operator meets: commands, errors at start, health, metrics, reload, logs.

use serde_json::json;
use testkit::{Config, TestNode, eventually};

use crate::support::{BINARY, JOB, chat, get, pace, post, prompt, scripted, session, with};

#[tokio::test]
async fn a_bad_configuration_exits_78_with_every_error() {
    let config = Config::scripted()
        .set("server.lisen", "\"127.0.0.1:1\"")
        .set("server.connections_max", 0)
        .set("auth.jwt_secret", "\"short\"")
        .set("engine.kind", "\"magic\"");
    let node = TestNode::prepare(BINARY, &config);
    let finished = node.command(&["serve"]);
    assert_eq!(finished.code, Some(78), "{}", finished.stderr);
    for part in ["server.lisen", "server.listen", "connections_max", "jwt_secret", "engine.kind"] {
        assert!(finished.stderr.contains(part), "{part} in {}", finished.stderr);
    }
    assert!(!finished.stderr.contains("short\""), "a secret is not shown: {}", finished.stderr);
    assert_eq!(node.command(&["config", "check"]).code, Some(78));
    assert_eq!(node.command(&["serve", "--no-such-flag"]).code, Some(2));
}

#[tokio::test]
async fn unsafe_listeners_do_not_start() {
    let open = Config::scripted().set("server.listen", "\"0.0.0.0:0\"");
    for config in
        [open.clone(), open.set("auth.enabled", false), Config::scripted().set("admin.listen", "\"0.0.0.0:0\"")]
    {
        let finished = TestNode::prepare(BINARY, &config).command(&["serve"]);
        assert_eq!(finished.code, Some(78), "{}", finished.stderr);
        assert!(finished.stderr.contains("loopback"), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_said() {
    let check = |config: &Config, prepare: &dyn Fn(&TestNode), arguments: &[&str], part: &str| {
        let node = TestNode::prepare(BINARY, config);
        prepare(&node);
        let mut all = vec!["serve", "--admin-listen", "127.0.0.1:0"];
        if !arguments.contains(&"--listen") {
            all.extend(["--listen", "127.0.0.1:0"]);
        }
        all.extend(arguments);
        let finished = node.command(&all);
        assert_eq!(finished.code, Some(1), "{}", finished.stderr);
        assert!(finished.stderr.contains(part), "{part} in {}", finished.stderr);
    };
    let embedded = Config::scripted().set("engine.kind", "\"embedded\"");
    check(&embedded, &|_| (), &[], "there is no model");
    check(&embedded, &|_| (), &["--model", "/nowhere/x.gguf"], "/nowhere/x.gguf does not exist");
    let broken = |node: &TestNode| {
        std::fs::create_dir_all(node.data_dir().join("models")).expect("ours");
        std::fs::write(node.data_dir().join("models/broken.gguf"), b"GGUF\x03\0\0\0nothing more").expect("ours");
    };
    check(&embedded, &broken, &[], "broken.gguf");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("has one").to_string();
    check(&Config::scripted(), &|_| (), &["--listen", &address], "another process listens");
    let not_a_directory = |node: &TestNode| {
        std::fs::remove_dir_all(node.data_dir()).expect("ours");
        std::fs::write(node.data_dir(), "a file").expect("ours");
    };
    check(&Config::scripted(), &not_a_directory, &[], "is a file");
}

#[tokio::test]
async fn two_nodes_do_not_share_a_data_directory() {
    let (node, _) = scripted().await;
    let second = node.command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("another node runs"), "{}", second.stderr);
}

#[tokio::test]
async fn health_says_what_is_so() {
    let (node, _) = scripted().await;
    assert_eq!(get(&node, "/health").await.1["status"], "healthy");
    assert_eq!(get(&node, "/v1/health").await.0, 200);
    assert_eq!(get(&node, "/health/ready").await.0, 200);
    assert_eq!(get(&node, "/health/live").await.0, 200);
    assert_eq!(get(&node, "/v1/version").await.1["name"], "llm-node");
    // An upstream that does not answer: alive, not ready.
    let dead =
        Config::scripted().set("engine.kind", "\"upstream\"").set("engine.upstream_urls", "[\"http://127.0.0.1:9\"]");
    let node = TestNode::start_unready(BINARY, dead).await;
    eventually("it says that no upstream answers", async || node.log().contains("no upstream answers").then_some(()))
        .await;
    assert_eq!(get(&node, "/health/live").await.0, 200);
    assert_eq!(get(&node, "/health/ready").await.0, 503);
}

/// A node that has no model yet answers: alive, not ready, and how far it is.
async fn assert_preparing(data_dir: std::path::PathBuf, reached: impl Fn(&serde_json::Value) -> bool) {
    let address = eventually("it listens", async || {
        let text = std::fs::read_to_string(data_dir.join("run/addresses.json")).ok()?;
        let found: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(found["public"].as_str()?.to_owned())
    })
    .await;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let get = async |path: &str| http.get(format!("http://{address}{path}")).send().await.expect("the node answers");
    assert_eq!(get("/health/live").await.status(), 200);
    assert_eq!(get("/health").await.status(), 200);
    eventually("it says how far it is", async || {
        let response = get("/health/ready").await;
        assert_eq!(response.status(), 503);
        let body: serde_json::Value = response.json().await.expect("JSON");
        assert_eq!(body["status"], "not_ready", "{body}");
        (reached(&body) && body["percent"].is_number()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn health_says_how_far_a_digest_is() {
    use std::io::Read as _;
    // The header of the real model, with so many zeros for weights that their digest takes a while.
    let node = TestNode::prepare(BINARY, &Config::scripted());
    let path = node.folder().join("large.gguf");
    let mut head = Vec::new();
    std::fs::File::open(testkit::model()).expect("a model").take(16 << 20).read_to_end(&mut head).expect("reads");
    std::fs::write(&path, head).expect("writes");
    std::fs::File::options().write(true).open(&path).expect("ours").set_len(64 << 30).expect("holes take no space");
    node.write_config(&Config::model(&path));
    let mut node = node;
    node.spawn().await;
    assert_preparing(node.data_dir(), |body| body["step"] == "digest" && body["percent"].as_f64() > Some(0.0)).await;
    node.sigterm();
    assert_eq!(node.ended().await, Some(0));
}

#[tokio::test]
async fn sigterm_ends_a_node_that_waits_for_a_download() {
    // A hub that takes connections and never answers.
    let hub = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    hub.set_nonblocking(true).expect("a socket option");
    let node = TestNode::prepare(BINARY, &Config::scripted());
    let mut child = std::process::Command::new(BINARY)
        .args([
            "serve",
            "--model",
            "hf:owner/repo:file.gguf",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .args(["--data-dir", &node.data_dir().display().to_string()])
        .env("HF_ENDPOINT", format!("http://{}", hub.local_addr().expect("has one")))
        .spawn()
        .expect("starts");
    let _connection = eventually("the download begins", async || hub.accept().ok()).await;
    assert_preparing(node.data_dir(), |body| body["step"] == "download").await;
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    // Neither an end nor the default of SIGHUP.
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("the child is ours");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the child is ours");
    let status = eventually("it ends", async || child.try_wait().expect("the child is ours")).await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn chat_answers_lines_of_standard_input() {
    use std::io::Write as _;
    let (node, _) = with(pace(1000).set("engine.scripted_text", "\"echo\"")).await;
    let mut child = std::process::Command::new(BINARY)
        .args(["chat", "--max-tokens", "20", "--data-dir", &node.data_dir().display().to_string()])
        .env_remove("LLM_NODE_TOKEN")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"one two\n/nonsense\n/new\nthree four\n/exit\nnever asked\n").expect("it reads");
    drop(stdin);
    eventually("it ends", async || child.try_wait().expect("the child is ours")).await;
    let output = child.wait_with_output().expect("it ended");
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["one", "two", "three", "four"], "{told}");
    assert!(told.contains("[2 tokens,") && told.contains("/help lists them"), "{told}");
    assert_eq!(node.job("quickstart")["used_tokens"], 4);
}

#[tokio::test]
async fn metrics_count_what_a_client_counted() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    for _ in 0..3 {
        let id = socket.send(prompt("s", "one two", 4)).await;
        socket.answer(&id).await;
    }
    post(&node, "/v1/chat/completions", Some(&token), &chat("hi", 5)).await;
    post(&node, "/v1/chat/completions", Some("wrong"), &chat("hi", 5)).await;
    let metrics = node.metrics().await;
    let get = |name: &str, labels: &[(&str, &str)]| metrics.get(name, labels);
    assert_eq!(get("ws_connections_total", &[]), Some(1.0));
    assert_eq!(get("ws_active_connections", &[]), Some(1.0));
    assert_eq!(get("ws_active_sessions", &[]), Some(1.0));
    assert_eq!(get("ws_messages_received_total", &[]), Some(4.0));
    assert_eq!(get("llm_node_charged_tokens_total", &[]), Some(17.0));
    assert_eq!(get("llm_node_output_tokens_total", &[]), Some(17.0));
    assert_eq!(get("llm_node_requests_total", &[("endpoint", "native_ws"), ("outcome", "length")]), Some(3.0));
    assert_eq!(get("llm_node_token_checks_total", &[("outcome", "invalid")]), Some(1.0));
    assert_eq!(get("llm_node_http_errors_total", &[("code", "INVALID_TOKEN")]), Some(1.0));
    assert_eq!(get("gen_ai_server_time_to_first_token_seconds_count", &[]), Some(4.0));
    assert_eq!(get("gen_ai_server_request_duration_seconds_count", &[]), Some(4.0));
    assert_eq!(get("ws_errors_total", &[("code", "TIMEOUT")]), Some(0.0), "series exist before they count");
    for name in [
        "gen_ai_server_time_per_output_token_seconds_count",
        "ws_message_size_bytes_count",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.has(name), "{name}");
    }
    for hidden in ["alice", JOB, "session=", "one two"] {
        assert!(!metrics.text().contains(&format!("\"{hidden}\"")), "{hidden} is in a label");
    }
    if let Some(promtool) = std::env::var_os("LLM_NODE_TEST_PROMTOOL") {
        promtool_accepts(&promtool, metrics.text());
    }
}

fn promtool_accepts(promtool: &std::ffi::OsStr, text: &str) {
    use std::io::Write as _;
    let mut child = std::process::Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("promtool starts");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn metrics_can_be_moved_and_turned_off() {
    let (node, _) = with(Config::scripted().set("metrics.endpoint", "\"/stats\"")).await;
    let status = async |node: &TestNode, path: &str| {
        node.http().get(format!("http://{}{path}", node.admin())).send().await.expect("answers").status().as_u16()
    };
    assert_eq!((status(&node, "/stats").await, status(&node, "/metrics").await), (200, 404));
    let (node, _) = with(Config::scripted().set("metrics.enabled", false)).await;
    assert_eq!(status(&node, "/metrics").await, 404);
}

#[tokio::test]
async fn a_reload_takes_effect_and_an_invalid_file_changes_nothing() {
    let (node, token) = scripted().await;
    let reloads =
        async |outcome: &str| node.metrics().await.get("llm_node_config_reloads_total", &[("outcome", outcome)]);
    let generated = async || {
        post(&node, "/v1/chat/completions", Some(&token), &chat("hi", 50)).await.1["usage"]["completion_tokens"].clone()
    };
    assert_eq!(generated().await, 50);
    node.write_config(&pace(200).set("jobs.max_tokens_per_request", 7).set("jobs.max_tokens_default", 7));
    node.sighup();
    eventually("it is applied", async || (reloads("applied").await == Some(1.0)).then_some(())).await;
    assert_eq!(generated().await, 7);
    node.write_config(&pace(200).set("jobs.max_tokens_per_request", "\"many\""));
    node.sighup();
    eventually("it is refused", async || (reloads("invalid").await >= Some(1.0)).then_some(())).await;
    assert_eq!(generated().await, 7);
    assert!(node.log().contains("max_tokens_per_request"), "the reason is logged");
}

#[tokio::test]
async fn prompts_and_answers_are_in_no_log() {
    let (node, token) =
        with(Config::scripted().set("log.level", "\"trace\"").set("engine.scripted_text", "\"echo\"")).await;
    let secret = "xyzzy-plugh-secret";
    post(&node, "/v1/chat/completions", Some(&token), &chat(secret, 5)).await;
    let mut socket = session(&node, &token, "s").await;
    let id = socket.send(prompt("s", secret, 5)).await;
    assert!(socket.answer(&id).await.text.contains("xyzzy"), "it was echoed");
    assert!(!node.log().contains("xyzzy"), "a prompt is in the log");
    assert!(!node.log().contains(&token), "a token is in the log");
}

#[tokio::test]
async fn quickstart_and_doctor_and_chat_work() {
    let (node, _) = scripted().await;
    let version = node.command_ok(&["version", "--json"]);
    assert!(version.contains("llm-node"));
    let doctor = node.command(&["doctor", "--json"]);
    let checks: serde_json::Value = serde_json::from_str(&doctor.stdout).expect("JSON");
    assert!(checks.as_array().is_some_and(|checks| checks.len() > 5), "{checks}");
    let token = node.token("alice", JOB);
    let inspected: serde_json::Value =
        serde_json::from_str(&node.command_ok(&["token", "inspect", token.trim(), "--json"])).expect("JSON");
    assert_eq!((&inspected["sub"], &inspected["job_id"]), (&json!("alice"), &json!(JOB)));
}

/// The permissions of a file or directory.
fn mode(path: &std::path::Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    let found = std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    found.permissions().mode() & 0o777
}

#[tokio::test]
async fn what_the_node_keeps_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    // A directory that everybody can look into, as `mkdir` makes it.
    let mut node = TestNode::prepare(BINARY, &Config::scripted());
    std::fs::set_permissions(node.data_dir(), std::fs::Permissions::from_mode(0o755)).expect("ours");
    node.spawn().await;
    node.until_ready().await;
    let token = node.job_and_token("alice", JOB, 100);
    post(&node, "/v1/chat/completions", Some(&token), &chat("hi", 5)).await;
    let mut left = vec![node.data_dir()];
    let mut seen = 0;
    while let Some(path) = left.pop() {
        assert_eq!(mode(&path) & 0o077, 0, "{} is open to others: {:o}", path.display(), mode(&path));
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).expect("ours").map(|entry| entry.expect("ours").path()));
        }
        seen += 1;
    }
    assert!(seen >= 8, "directories, database, its log and index, secret, lock, addresses: {seen}");
    let doctor: serde_json::Value = serde_json::from_str(&node.command(&["doctor", "--json"]).stdout).expect("JSON");
    let permissions = doctor.as_array().expect("checks").iter().find(|check| check["name"] == "permissions");
    assert_eq!(permissions.expect("a check")["verdict"], "ok", "{doctor}");
}

#[test]
fn the_script_that_fetches_the_model_makes_private_directories() {
    use std::os::unix::fs::PermissionsExt as _;
    // It gets no further than to the directories: the Python that it finds can do nothing.
    let folder = tempfile::tempdir().expect("temporary files can be made");
    let python = folder.path().join("python3");
    std::fs::write(&python, "#!/bin/sh\nexit 1\n").expect("writes");
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").expect("a path"));
    let output = std::process::Command::new("bash")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/fetch-model.sh"))
        .arg(folder.path().join("a/data"))
        .env("PATH", path)
        .output()
        .expect("there is a bash");
    assert!(String::from_utf8_lossy(&output.stderr).contains("python3-venv"), "{output:?}");
    for made in ["a", "a/data", "a/data/models"] {
        assert_eq!(mode(&folder.path().join(made)), 0o700, "{made}");
    }
}
