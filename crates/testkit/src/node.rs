//! A running node.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Config, Finished, Handshake, Metrics, Socket, eventually, process, run_to_exit, run_with_input};

/// Time for a command that ends by itself.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// Lines of the node's log that a failed test prints.
const LOG_LINES_MAX: usize = 200;

/// The real binary, serving on loopback. Dropping it kills it; a panicking test prints its log.
#[derive(Debug)]
pub struct TestNode {
    binary: PathBuf,
    folder: TempDir,
    child: Option<Child>,
    public: String,
    admin: String,
    http: reqwest::Client,
}

impl TestNode {
    /// Starts `binary` (a test crate's `env!("CARGO_BIN_EXE_llm-node")`) and waits until it is ready.
    ///
    /// # Panics
    /// When it ends, or is not ready within [`crate::DEADLINE`].
    pub async fn start(binary: &str, config: Config) -> Self {
        let mut node = Self::prepare(binary, &config);
        node.spawn().await;
        node.until_ready().await;
        node
    }

    /// Starts it and waits only until it listens.
    ///
    /// # Panics
    /// When it ends, or does not listen within [`crate::DEADLINE`].
    pub async fn start_unready(binary: &str, config: Config) -> Self {
        let mut node = Self::prepare(binary, &config);
        node.spawn().await;
        node
    }

    /// A configuration and a data directory, with no process yet.
    ///
    /// # Panics
    /// When there is no room for temporary files.
    #[must_use]
    pub fn prepare(binary: &str, config: &Config) -> Self {
        let folder = tempfile::Builder::new().prefix("llm-node-test-").tempdir().expect("temporary files can be made");
        fs::create_dir(folder.path().join("data")).expect("the folder is writable");
        let node = Self {
            binary: PathBuf::from(binary),
            folder,
            child: None,
            public: String::new(),
            admin: String::new(),
            http: reqwest::Client::builder().no_proxy().build().expect("a client"),
        };
        node.write_config(config);
        node
    }

    /// Replaces the configuration file; a running node notices by itself or by SIGHUP.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_config(&self, config: &Config) {
        fs::write(self.config_file(), config.to_toml()).expect("the folder is writable");
    }

    /// Starts the process (again) and waits until it listens.
    ///
    /// # Panics
    /// When it ends or does not listen in time.
    pub async fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let addresses = self.data_dir().join("run/addresses.json");
        // What an earlier process left must not be mistaken for this one's.
        let _ = fs::remove_file(&addresses);
        let log = File::options().create(true).append(true).open(self.log_file()).expect("the folder is writable");
        let child = Command::new(&self.binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(self.common_arguments())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        let pid = child.id();
        self.child = Some(child);
        let found = eventually("the node listens", async || {
            self.assert_running();
            let text = fs::read_to_string(&addresses).ok()?;
            let found: Value = serde_json::from_str(&text).ok()?;
            (found["pid"] == pid).then_some(found)
        })
        .await;
        let address = |name: &str| found[name].as_str().unwrap_or_else(|| panic!("{name} in {found}")).to_owned();
        (self.public, self.admin) = (address("public"), address("admin"));
    }

    /// Waits until `/health/ready` says so.
    ///
    /// # Panics
    /// When the process ends or the deadline passes.
    pub async fn until_ready(&mut self) {
        let url = self.url("/health/ready");
        let http = self.http.clone();
        eventually("the node is ready", async || {
            self.assert_running();
            let response = http.get(&url).send().await.ok()?;
            (response.status() == 200).then_some(())
        })
        .await;
    }

    fn assert_running(&mut self) {
        let child = self.child.as_mut().expect("it was started");
        if let Some(status) = child.try_wait().expect("the child is ours") {
            panic!("the node ended with {status}");
        }
    }

    /// The arguments that name this node's files.
    fn common_arguments(&self) -> [String; 4] {
        let text = |path: PathBuf| path.display().to_string();
        ["--config".into(), text(self.config_file()), "--data-dir".into(), text(self.data_dir())]
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("llm-node.toml")
    }

    /// A folder of this test, beside the data directory.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("node.log")
    }

    /// All that the node said so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// A URL of the public listener.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.public)
    }

    /// Address and port of the public listener.
    #[must_use]
    pub fn public(&self) -> &str {
        &self.public
    }

    /// Address and port of the admin listener.
    #[must_use]
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// A client without retries or proxies.
    #[must_use]
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Runs a command beside the node, on the same files.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Finished {
        let common = self.common_arguments();
        let arguments: Vec<&str> = arguments.iter().copied().chain(common.iter().map(String::as_str)).collect();
        run_to_exit(&self.binary, &arguments, self.folder.path(), COMMAND_TIMEOUT)
    }

    /// As [`Self::command`], for a command that reads standard input.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn command_with_input(&self, arguments: &[&str], input: &str) -> Finished {
        let common = self.common_arguments();
        let arguments: Vec<&str> = arguments.iter().copied().chain(common.iter().map(String::as_str)).collect();
        run_with_input(&self.binary, &arguments, input, self.folder.path(), COMMAND_TIMEOUT)
    }

    /// As [`Self::command`], for a command that must succeed; gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn command_ok(&self, arguments: &[&str]) -> String {
        let finished = self.command(arguments);
        assert_eq!(finished.code, Some(0), "llm-node {}:\n{}", arguments.join(" "), finished.stderr);
        finished.stdout.trim().to_owned()
    }

    /// Makes a job.
    ///
    /// # Panics
    /// When the command fails.
    pub fn create_job(&self, owner: &str, id: &str, max_tokens: u64) {
        let max_tokens = max_tokens.to_string();
        let _ = self.command_ok(&["job", "create", "--owner", owner, "--id", id, "--max-tokens", &max_tokens]);
    }

    /// A job as `job show --json` has it.
    ///
    /// # Panics
    /// When the command fails.
    #[must_use]
    pub fn job(&self, id: &str) -> Value {
        let text = self.command_ok(&["job", "show", id, "--json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// A job once nothing of it is reserved: every answer is settled.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn settled_job(&self, id: &str) -> Value {
        eventually("the job is settled", async || Some(self.job(id)).filter(|job| job["reserved_tokens"] == 0)).await
    }

    /// A token of `subject` for a job.
    ///
    /// # Panics
    /// When the command fails.
    #[must_use]
    pub fn token(&self, subject: &str, job: &str) -> String {
        self.command_ok(&["token", "issue", "--subject", subject, "--job", job])
    }

    /// A job of a subject, and a token for it.
    ///
    /// # Panics
    /// When a command fails.
    #[must_use]
    pub fn job_and_token(&self, subject: &str, job: &str, max_tokens: u64) -> String {
        self.create_job(subject, job, max_tokens);
        self.token(subject, job)
    }

    /// Opens the native socket with a token.
    ///
    /// # Panics
    /// When the node refuses.
    pub async fn native(&self, token: &str) -> Socket {
        self.socket("/v1/ws", Some(token)).await.unwrap_or_else(|refused| panic!("{refused:?}"))
    }

    /// Opens a socket at a path.
    ///
    /// # Errors
    /// [`Handshake`] when the node refuses.
    pub async fn socket(&self, path: &str, token: Option<&str>) -> Result<Socket, Handshake> {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        Socket::open(&format!("ws://{}{path}", self.public), &headers).await
    }

    /// Scrapes the admin listener.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn metrics(&self) -> Metrics {
        let response = self.http.get(format!("http://{}/metrics", self.admin)).send().await.expect("/metrics answers");
        assert_eq!(response.status(), 200);
        Metrics::new(response.text().await.expect("/metrics is text"))
    }

    /// The node's process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// The worker's process id, once there is one.
    ///
    /// # Panics
    /// When there is none.
    pub async fn worker_pid(&self) -> u32 {
        let node = self.pid();
        eventually("the node has a worker", async || process::children(node).first().copied()).await
    }

    /// Kills a process that belongs to this node, at once (SIGKILL).
    ///
    /// # Panics
    /// When `pid` is neither the node nor its child.
    pub fn kill(&self, pid: u32) {
        assert!(pid == self.pid() || process::children(self.pid()).contains(&pid), "{pid} is not ours to kill");
        process::signal(pid, rustix::process::Signal::KILL);
    }

    /// Stops a process of this node (SIGSTOP): it hangs until it is killed.
    ///
    /// # Panics
    /// When `pid` is not the node's child.
    pub fn freeze(&self, pid: u32) {
        assert!(process::children(self.pid()).contains(&pid), "{pid} is not ours to stop");
        process::signal(pid, rustix::process::Signal::STOP);
    }

    /// Kills the node at once and waits for its end; its worker must follow by itself.
    ///
    /// # Panics
    /// When the worker outlives it.
    pub async fn kill9(&mut self) {
        let workers = process::children(self.pid());
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("the child is ours");
        child.wait().expect("the child is ours");
        eventually("the worker ends with its node", async || {
            (!workers.iter().any(|&pid| process::is_alive(pid))).then_some(())
        })
        .await;
    }

    /// Asks it to end (SIGTERM).
    pub fn sigterm(&self) {
        process::signal(self.pid(), rustix::process::Signal::TERM);
    }

    /// Asks it to read its configuration again (SIGHUP).
    pub fn sighup(&self) {
        process::signal(self.pid(), rustix::process::Signal::HUP);
    }

    /// Waits for the process to end by itself and gives its exit code.
    ///
    /// # Panics
    /// When it does not within [`crate::DEADLINE`].
    pub async fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let status = eventually("the node ends", async || child.try_wait().expect("the child is ours")).await;
        status.code()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when the process is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES_MAX)..];
            // libtest captures the macro's output only; through it the log stands under the failed test's name.
            #[expect(clippy::print_stderr, reason = "this is where a failed test's log goes")]
            {
                eprintln!("--- the node's log ---\n{}\n--- end of the log ---", tail.join("\n"));
            }
        }
    }
}
