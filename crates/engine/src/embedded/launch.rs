use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    path::PathBuf,
    process::Stdio,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    process::{Child, Command},
};

/// Secrets of the node are in variables with this prefix; the worker parses what strangers wrote and gets none of them.
const SECRET_PREFIX: &str = "LLM_NODE__";

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

impl Launch for WorkerCommand {
    fn launch(&mut self) -> io::Result<Launched> {
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
            if name.to_string_lossy().starts_with(SECRET_PREFIX) {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn shell(script: &str) -> Launched {
        WorkerCommand { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()] }.launch().expect("launches")
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
        let error =
            WorkerCommand { program: "/nonexistent/worker".into(), args: vec![] }.launch().err().expect("fails");
        assert!(error.to_string().contains("/nonexistent/worker"), "{error}");
    }
}
