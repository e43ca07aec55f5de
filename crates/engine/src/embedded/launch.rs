use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    path::PathBuf,
    process::Stdio,
    sync::mpsc,
    thread,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    process::{Child, Command},
    runtime::Handle,
};

/// Secrets of the node are in variables with this prefix; the worker parses what strangers wrote and gets none of them.
const SECRET_PREFIX: &str = "LLM_NODE__";
/// What the model hub's client reads.
const SECRETS_OF_OTHERS: [&str; 2] = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];

/// The program that is the worker.
///
/// Its **standard input is the socket** to the engine, open in both directions: no descriptor number has to be agreed
/// on, nothing else is inherited (Rust opens everything `CLOEXEC`), and end of file on it tells the worker that the node
/// is gone. Standard error is the node's own; standard output is closed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

impl WorkerCommand {
    /// This executable with the argument `worker`.
    ///
    /// # Errors
    /// When the path of this executable cannot be found.
    pub fn this_executable() -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, args: vec!["worker".into()] })
    }
}

/// A worker that was just started.
pub(super) struct Launched {
    pub(super) reader: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// `None` for a worker that is no process (in tests).
    pub(super) child: Option<Child>,
}

/// Starts workers; tests start tasks in their place.
pub(super) trait Launch: Send + 'static {
    fn launch(&mut self) -> io::Result<Launched>;
}

impl WorkerCommand {
    fn spawn(&self) -> io::Result<Launched> {
        let (ours, theirs) = StdUnixStream::pair()?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            // Its own group: Ctrl-C in the terminal is for the node, which drains first.
            .process_group(0)
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with(SECRET_PREFIX) || SECRETS_OF_OTHERS.contains(&text.as_ref()) {
                command.env_remove(name);
            }
        }
        let child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.program.display())))?;
        ours.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(ours)?.into_split();
        Ok(Launched { reader: Box::new(reader), writer: Box::new(writer), child: Some(child) })
    }
}

/// Starts worker processes, all from one thread that lives as long as this does.
///
/// A worker asks the kernel to be killed when its parent dies (`prctl(2)`, `PR_SET_PDEATHSIG`), and for that the parent is
/// the *thread* that started it. A runtime's threads come and go.
#[derive(Debug)]
pub(super) struct Launcher {
    asks: mpsc::SyncSender<Ask>,
}

type Ask = (Handle, mpsc::SyncSender<io::Result<Launched>>);

impl Launcher {
    pub(super) fn new(command: WorkerCommand) -> Self {
        // One ask at a time: `launch` waits for its answer.
        let (asks, asked) = mpsc::sync_channel::<Ask>(1);
        let parent = move || {
            while let Ok((runtime, answer)) = asked.recv() {
                let _entered = runtime.enter();
                // Who asked may be gone; the worker is killed on drop then.
                let _ = answer.send(command.spawn());
            }
        };
        // Without a thread every launch says so.
        let _ = thread::Builder::new().name("worker-parent".into()).spawn(parent);
        Self { asks }
    }
}

impl Launch for Launcher {
    fn launch(&mut self) -> io::Result<Launched> {
        let gone = || io::Error::other("the thread that starts workers could not be started");
        let (sender, answer) = mpsc::sync_channel(1);
        self.asks.send((Handle::current(), sender)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn shell(script: &str) -> Launched {
        let command = WorkerCommand { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()] };
        command.spawn().expect("launches")
    }

    #[tokio::test]
    async fn the_child_has_the_socket_as_standard_input_and_nothing_else() {
        // Neither opens a descriptor of its own, as a glob or `ls` would.
        let mut worker = shell("for n in 0 1 2 3 4 5 6 7 8 9; do if [ -e /proc/$$/fd/$n ]; then echo $n; fi; done >&0");
        let mut text = String::new();
        worker.reader.read_to_string(&mut text).await.expect("reads");
        assert_eq!(text, "0\n1\n2\n");
    }

    #[tokio::test]
    async fn closing_the_socket_ends_a_child_that_reads_it() {
        let mut worker = shell("cat >/dev/null");
        worker.writer.write_all(b"x").await.expect("writes");
        drop((worker.reader, worker.writer));
        let mut child = worker.child.take().expect("a process");
        assert!(child.wait().await.expect("waits").success());
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let command = WorkerCommand { program: "/nonexistent/worker".into(), args: vec![] };
        let error = Launcher::new(command).launch().err().expect("fails");
        assert!(error.to_string().contains("/nonexistent/worker"), "{error}");
    }
}
