//! The official SDKs, unmodified, against the real model, and against a node that is full.

use std::{path::PathBuf, process::Stdio, time::Duration};

use testkit::{Config, TestNode};
use tokio::{process::Command, time::timeout};

use crate::support::{embedded, pace, prompt, session, with};

/// The checks take seconds; on a machine that builds beside them, more.
const TIME_LIMIT: Duration = Duration::from_secs(240);
const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/sdk");

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name).map(PathBuf::from).unwrap_or_else(|| panic!("{name} is not set; `make test` sets it"))
}

/// Runs a script of one of the SDKs; one that hangs is killed, and the test fails.
async fn check(program: PathBuf, folder: PathBuf, script: &str, node: &TestNode, token: &str) {
    let child = Command::new(program)
        .arg(script)
        .current_dir(folder)
        .env("OPENAI_BASE_URL", node.url("/v1"))
        .env("OPENAI_API_KEY", token)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let output = timeout(TIME_LIMIT, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("{script} still ran after {TIME_LIMIT:?}"))
        .expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("all checks passed"), "{}", text(&output.stdout));
}

async fn python_check(script: &str, node: &TestNode, token: &str) {
    check(variable("LLM_NODE_TEST_PYTHON"), format!("{SDK}/python").into(), script, node, token).await;
}

async fn npm_check(script: &str, node: &TestNode, token: &str) {
    let folder = variable("LLM_NODE_TEST_SDK_NODE");
    assert!(
        folder.join("node_modules/openai").is_dir(),
        "{} has no node_modules; `make test` installs them",
        folder.display()
    );
    check("node".into(), folder, script, node, token).await;
}

#[tokio::test]
async fn python() {
    let (node, token) = embedded().await;
    python_check("sdk.py", &node, &token).await;
}

#[tokio::test]
async fn npm() {
    let (node, token) = embedded().await;
    npm_check("sdk.js", &node, &token).await;
}

/// Both against one node whose one place is taken by an answer that goes on.
#[tokio::test]
async fn a_full_node_is_their_rate_limit_error() {
    let config: Config = pace(1).set("engine.scripted_in_flight_max", 1);
    let (node, token) = with(config).await;
    let mut socket = session(&node, &token, "s").await;
    socket.send(prompt("s", "hello", 4000)).await;
    socket.expect("stream_chunk").await;
    python_check("limits.py", &node, &token).await;
    npm_check("limits.js", &node, &token).await;
}
