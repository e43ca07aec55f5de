//! A disk that takes no more: requests are refused before anything is generated, what runs goes on and is charged once.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;
use testkit::{Config, TestNode, eventually};

use crate::support::{
    BINARY, BUDGET, JOB, chat, count, generated, get, open_session, pace, post, prompt, send, session,
};

/// Set for the process that has mounts of its own.
const MOUNTS: &str = "LLM_NODE_TEST_MOUNTS";
/// Size of the disk that is filled.
const DISK: &str = "size=4m,mode=0700";
const ANSWER: u64 = 150;

/// What keeps the node from writing.
enum Obstacle {
    /// A small disk of its own that holds the data directory, and what fills it.
    FullDisk(Mount),
    /// A limit of file sizes on the running process (`ulimit -f`): for machines where nothing may be mounted, too.
    FileSize,
}

impl Obstacle {
    fn raise(&self, node: &TestNode) {
        match self {
            Self::FullDisk(mount) => mount.fill(),
            Self::FileSize => limit_file_size(node, Some(1)),
        }
    }

    fn remove(&self, node: &TestNode) {
        match self {
            Self::FullDisk(mount) => mount.free(),
            Self::FileSize => limit_file_size(node, getrlimit(Resource::Fsize).maximum),
        }
    }

    /// A part of what health says.
    fn said(&self) -> &'static str {
        match self {
            Self::FullDisk(_) => "the disk that holds the database is full",
            Self::FileSize => "the database cannot be written",
        }
    }
}

fn limit_file_size(node: &TestNode, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(node.pid()).expect("a process id"));
    let limit = Rlimit { current: bytes, maximum: getrlimit(Resource::Fsize).maximum };
    prlimit(pid, Resource::Fsize, limit).expect("the process is ours");
}

/// A tmpfs; unmounted at the end.
struct Mount(PathBuf);

impl Mount {
    fn over(folder: PathBuf) -> Self {
        run(&["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", text(&folder)]);
        Self(folder)
    }

    fn remount(&self, options: &str) {
        run(&["mount", "-o", &format!("remount,{options}"), text(&self.0)]);
    }

    fn fill(&self) {
        let mut file = File::create(self.0.join("node.filler")).expect("there is room for a name");
        while file.write_all(&[0; 4096]).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("node.filler")).expect("it was filled");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: whatever a failed test left open ends with the process, and the mount with its namespace.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the test's own path")
}

fn run(command: &[&str]) {
    let status = Command::new(command[0]).args(&command[1..]).status().expect("it is installed");
    assert!(status.success(), "{command:?}: {status}");
}

/// How this user gets mounts of its own, where the machine lets it.
fn unshare() -> Option<Vec<&'static str>> {
    let folder = tempfile::tempdir().expect("temporary files can be made");
    [vec!["--mount"], vec!["--user", "--map-root-user", "--mount"]].into_iter().find(|flags| {
        let mount = ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", text(folder.path())];
        Command::new("unshare").args(flags).args(mount).output().is_ok_and(|output| output.status.success())
    })
}

/// Whether the test runs with mounts of its own. If the machine lets it and it does not yet, it is run so, in a process
/// of its own: then this gives `None`.
fn with_mounts(test: &str) -> Option<bool> {
    if std::env::var_os(MOUNTS).is_some() {
        return Some(true);
    }
    let Some(flags) = unshare() else { return Some(false) };
    let output = Command::new("unshare")
        .args(flags)
        .arg(std::env::current_exe().expect("a test has one"))
        .args(["--exact", test, "--nocapture"])
        .env(MOUNTS, "1")
        .output()
        .expect("it ran before");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "in a mount namespace:\n{said}");
    None
}

fn config() -> Config {
    pace(50).set("jobs.journal_interval", "\"50ms\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_requests_and_loses_nothing() {
    let Some(mounts) = with_mounts("disk::a_full_disk_refuses_requests_and_loses_nothing") else { return };
    let node = TestNode::prepare(BINARY, &config());
    let obstacle = if mounts { Obstacle::FullDisk(Mount::over(node.data_dir())) } else { Obstacle::FileSize };
    let mut node = Box::pin(refuses_and_loses_nothing(node, &obstacle)).await;
    let Obstacle::FullDisk(mount) = &obstacle else { return };

    // Killed in the middle of an answer while the disk is full: it does not start on a full disk, and says so. With
    // room again, what the journal knew is charged, once.
    let before = count(&node.job(JOB), "/used_tokens");
    let token = node.token("alice", JOB);
    let mut socket = session(&node, &token, "s").await;
    socket.send(prompt("s", "hello", 1000)).await;
    eventually("some of it is journalled", async || {
        let text = node.command_ok(&["job", "show", JOB, "--json"]);
        text.contains("reserved_tokens").then_some(())
    })
    .await;
    for _ in 0..20 {
        socket.expect("stream_chunk").await;
    }
    mount.fill();
    node.kill9().await;
    let serve = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let refused = node.command(&serve);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("free some space"), "{}", refused.stderr);
    mount.free();
    mount.remount("ro");
    let refused = node.command(&serve);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("read-only"), "{}", refused.stderr);
    mount.remount("rw");
    node.spawn().await;
    let job = node.job(JOB);
    assert_eq!(count(&job, "/reserved_tokens"), 0, "{job}");
    let used = count(&job, "/used_tokens") - before;
    assert!((1..=100).contains(&used), "what was delivered, but for what the journal missed: {job}");
    drop(node); // before its disk
}

/// The obstacle that needs no mount, on every machine.
#[tokio::test]
async fn a_limit_of_file_sizes_refuses_requests_and_loses_nothing() {
    let node = TestNode::prepare(BINARY, &config());
    drop(Box::pin(refuses_and_loses_nothing(node, &Obstacle::FileSize)).await);
}

async fn refuses_and_loses_nothing(mut node: TestNode, obstacle: &Obstacle) -> TestNode {
    node.spawn().await;
    node.until_ready().await;
    let token = node.job_and_token("alice", JOB, BUDGET);
    let mut running = session(&node, &token, "s").await;
    let mut other = node.native(&token).await;
    open_session(&mut other, "other").await;
    let id = running.send(prompt("s", "hello", ANSWER)).await;
    let first = running.expect("stream_chunk").await;
    obstacle.raise(&node);

    for _ in 0..3 {
        let response = send(&node, "/v1/chat/completions", Some(&token), &chat("hi", 5)).await;
        assert_eq!(response.status(), 503);
        let retry: u64 = response.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
        assert!((1..=60).contains(&retry), "{retry}");
        let error: serde_json::Value = response.json().await.expect("JSON");
        assert_eq!(error["error"]["code"], "storage_unavailable", "{error}");
    }
    let refused = other.send(prompt("other", "hi", 5)).await;
    let answer = other.answer(&refused).await;
    assert_eq!(answer.error.expect("an error")["code"], "STORAGE_UNAVAILABLE");
    let (status, health) = get(&node, "/health").await;
    assert_eq!((status, &health["status"]), (503, &json!("unhealthy")));
    assert!(health["issues"].to_string().contains(obstacle.said()), "{health}");
    assert_eq!(get(&node, "/health/ready").await.0, 503);
    assert_eq!(get(&node, "/health/live").await.0, 200);

    // The running answer is delivered to its end; that it could not be recorded yet is said.
    let mut tokens = count(&first, "/tokens");
    let error = loop {
        let frame = running.json().await;
        assert_eq!(frame["id"], json!(id), "{frame}");
        match frame["type"].as_str().expect("a type") {
            "stream_chunk" => tokens += count(&frame, "/tokens"),
            "error" => break frame,
            _ => panic!("{frame}"),
        }
    };
    assert_eq!((tokens, &error["code"]), (ANSWER, &json!("INTERNAL_ERROR")), "{error}");
    let metrics = node.metrics().await;
    assert_eq!(metrics.get("llm_node_unsettled_answers", &[]), Some(1.0));
    assert_eq!(generated(&metrics), ANSWER as f64, "nothing was generated without a reservation");
    assert_eq!(metrics.get("llm_node_charged_tokens_total", &[]), Some(0.0));
    if matches!(obstacle, Obstacle::FullDisk(_)) {
        let log = node.log();
        let told = log.lines().filter(|line| line.contains("nothing can be recorded"));
        let told: Vec<&str> = told.collect();
        assert_eq!(told.len(), 1, "said once, however often it is hit: {told:?}");
        assert!(told[0].contains("is full") && told[0].contains("free some space"), "{told:?}");
        assert_eq!(count(&node.job(JOB), "/reserved_tokens"), ANSWER, "commands that only read work");
    }

    obstacle.remove(&node);
    eventually("it is healthy again", async || (get(&node, "/health").await.0 == 200).then_some(())).await;
    let job = node.settled_job(JOB).await;
    assert_eq!(count(&job, "/used_tokens"), ANSWER, "what was delivered is charged: {job}");
    let (status, body) = post(&node, "/v1/chat/completions", Some(&token), &chat("hi", 5)).await;
    assert_eq!(status, 200, "{body}");
    let metrics = node.metrics().await;
    assert_eq!(metrics.get("llm_node_unsettled_answers", &[]), Some(0.0));
    assert_eq!(metrics.get("llm_node_charged_tokens_total", &[]), Some((ANSWER + 5) as f64));
    node.kill9().await;
    node.spawn().await;
    assert_eq!(count(&node.job(JOB), "/used_tokens"), ANSWER + 5, "once: a restart finds nothing to settle");
    node
}
