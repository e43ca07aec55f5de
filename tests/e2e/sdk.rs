//! The official SDKs, unmodified, against the real model.

use std::{path::PathBuf, process::Command};

use crate::support::embedded;

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name).map(PathBuf::from).unwrap_or_else(|| panic!("{name} is not set; `make test` sets it"))
}

async fn run(program: PathBuf, arguments: &[&str], folder: &str) {
    let (node, token) = embedded().await;
    let (base, folder) = (node.url("/v1"), folder.to_owned());
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let output = tokio::task::spawn_blocking(move || {
        Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .env("OPENAI_BASE_URL", base)
            .env("OPENAI_API_KEY", token)
            .output()
            .expect("it starts")
    })
    .await
    .expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("all checks passed"), "{}", text(&output.stdout));
}

const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/sdk");

#[tokio::test(flavor = "multi_thread")]
async fn python() {
    run(variable("LLM_NODE_TEST_PYTHON"), &["sdk.py"], &format!("{SDK}/python")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn npm() {
    let folder = variable("LLM_NODE_TEST_SDK_NODE");
    assert!(
        folder.join("node_modules/openai").is_dir(),
        "{} has no node_modules; `make test` installs them",
        folder.display()
    );
    run("node".into(), &["sdk.js"], &folder.display().to_string()).await;
}
