//! Commands that end by themselves.

use std::{
    fs::File,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// A command's end.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

/// Runs a command that must end by itself, and soon; output goes over files in `folder`.
///
/// # Panics
/// When it does not start, or did not end within `limit`; it is killed then.
#[must_use]
pub fn run_to_exit(binary: &Path, arguments: &[&str], folder: &Path, limit: Duration) -> Finished {
    run_with_input(binary, arguments, "", folder, limit)
}

/// As [`run_to_exit`], for a command that reads `input` from standard input.
///
/// # Panics
/// As [`run_to_exit`].
#[must_use]
pub fn run_with_input(binary: &Path, arguments: &[&str], input: &str, folder: &Path, limit: Duration) -> Finished {
    let stdin = folder.join("command.in");
    std::fs::write(&stdin, input).expect("the folder is writable");
    let (out, err) = (folder.join("command.out"), folder.join("command.err"));
    let mut child = Command::new(binary)
        .args(arguments)
        .stdin(File::open(&stdin).expect("it was just written"))
        .stdout(File::create(&out).expect("the folder is writable"))
        .stderr(File::create(&err).expect("the folder is writable"))
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            break status;
        }
        if start.elapsed() > limit {
            child.kill().expect("the child is ours");
            child.wait().expect("the child is ours");
            let said = std::fs::read_to_string(&err).unwrap_or_default();
            panic!("`llm-node {}` still ran after {limit:?}:\n{said}", arguments.join(" "));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    Finished { code: status.code(), stdout: read(out), stderr: read(err) }
}
