//! Keys in a hardware token: SoftHSM2 by PKCS#11.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use testkit::{Config, TestNode};

use super::{active, jwks, keep_jwks, keys, receipt, signs_soon, verifies};
use crate::support::{BINARY, BUDGET, JOB};

/// The variable that names SoftHSM's module; `scripts/setup-test.sh` sets it.
const MODULE_VARIABLE: &str = "LLM_NODE_TEST_SOFTHSM";

/// SoftHSM with tokens of its own: it is told where by a variable, so the binary is started by a script that sets it.
struct SoftHsm {
    folder: tempfile::TempDir,
    module: String,
}

impl SoftHsm {
    fn new() -> Self {
        let module = std::env::var(MODULE_VARIABLE)
            .unwrap_or_else(|_| panic!("{MODULE_VARIABLE} must name libsofthsm2.so; `make test` sets it"));
        let folder = tempfile::tempdir().expect("temporary files can be made");
        let tokens = folder.path().join("tokens");
        fs::create_dir(&tokens).expect("the folder is writable");
        let conf =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        fs::write(folder.path().join("softhsm2.conf"), conf).expect("the folder is writable");
        let script =
            format!("#!/bin/sh\nSOFTHSM2_CONF='{}' exec '{BINARY}' \"$@\"\n", Self::conf(folder.path()).display());
        let binary = folder.path().join("llm-node");
        fs::write(&binary, script).expect("the folder is writable");
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o700)).expect("it is ours");
        let hsm = Self { folder, module };
        hsm.util(&["--init-token", "--free", "--label", "node", "--so-pin", "12345678", "--pin", "4321"]);
        hsm
    }

    fn conf(folder: &Path) -> PathBuf {
        folder.join("softhsm2.conf")
    }

    fn util(&self, arguments: &[&str]) {
        let conf = Self::conf(self.folder.path());
        let output = Command::new("softhsm2-util").env("SOFTHSM2_CONF", conf).args(arguments).output();
        let output = output.expect("softhsm2-util is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn binary(&self) -> String {
        self.folder.path().join("llm-node").display().to_string()
    }

    fn config(&self, token: &str, pin: &str) -> Config {
        Config::scripted()
            .set("signature.pkcs11_module", format!("{:?}", self.module))
            .set("signature.pkcs11_token", format!("{token:?}"))
            .set("signature.pkcs11_pin", format!("{pin:?}"))
    }
}

#[tokio::test]
async fn a_key_in_a_token_signs_for_the_node() {
    let hsm = SoftHsm::new();
    let node = TestNode::start(&hsm.binary(), hsm.config("node", "4321")).await;
    let token = node.job_and_token("alice", JOB, BUDGET);
    let first = active(&node).await;
    let listed = keys(&node, &["list"]);
    assert!(listed[0]["secret"].as_str().expect("a place").starts_with("token node, id "), "{listed}");
    let files = fs::read_dir(node.data_dir().join("keys")).expect("a directory");
    let pem =
        files.filter(|file| file.as_ref().is_ok_and(|file| file.path().extension().is_some_and(|end| end == "pem")));
    assert_eq!(pem.count(), 0, "no secret is in a file");
    let before = receipt(&node, &token).await.expect("a receipt");

    let rotated = keys(&node, &["rotate", "--now"]);
    let second = rotated["active"]["kid"].as_str().expect("a kid").to_owned();
    signs_soon(&node, &second).await;
    let after = receipt(&node, &token).await.expect("a receipt");
    assert!(after.contains(&second) && before.contains(&first));
    let set = keep_jwks(&node, "jwks.json").await;
    assert!(verifies(&node, &before, &set) && verifies(&node, &after, &set));

    // A key that OpenSSL made and SoftHSM imported.
    let path = node.folder().join("theirs.pem").display().to_string();
    super::openssl(&["genpkey", "-algorithm", "ed25519", "-out", &path]);
    hsm.util(&["--import", &path, "--token", "node", "--label", "theirs", "--id", "abcd", "--pin", "4321"]);
    let third = keys(&node, &["import", "--token-label", "theirs"])["kid"].as_str().expect("a kid").to_owned();
    assert_eq!(jwks_hex(&node, &third), super::openssl(&["pkey", "-in", &path, "-pubout"]).trim());
    let _ = node.command_ok(&["keys", "rotate", "--now"]);
    signs_soon(&node, &third).await;
    assert!(receipt(&node, &token).await.expect("a receipt").contains(&third));
    assert_eq!(jwks(&node).await.len(), 3);
}

fn jwks_hex(node: &TestNode, kid: &str) -> String {
    node.command_ok(&["keys", "export-public", kid])
}

#[tokio::test]
async fn a_token_that_is_not_right_is_named() {
    let hsm = SoftHsm::new();
    let node = TestNode::prepare(&hsm.binary(), &Config::scripted());
    let check = |config: &Config, part: &str| {
        node.write_config(config);
        let ended = node.command(&["keys", "generate"]);
        assert!(ended.code == Some(1) && ended.stderr.contains(part), "{part}: {}", ended.stderr);
    };
    check(&hsm.config("other", "4321"), "no token is named other");
    check(&hsm.config("node", "1234"), "pkcs11_pin");
    check(&hsm.config("node", "4321").set("signature.pkcs11_module", "\"/nowhere.so\""), "load its module");
    node.write_config(&hsm.config("node", "4321"));
    let _ = node.command_ok(&["keys", "generate"]);
    let missing = node.command(&["keys", "import", "--token-id", "abcd"]);
    assert!(missing.code == Some(1) && missing.stderr.contains("0 Ed25519 keys"), "{}", missing.stderr);
    let token = node.command(&["keys", "generate", "--in", "file"]);
    assert_eq!(token.code, Some(0), "{}", token.stderr);
}
