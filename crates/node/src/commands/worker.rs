//! `llm-node worker`: the child process that computes, and converts weights. All C++ runs here.

use std::{
    os::{fd::AsFd as _, unix::net::UnixStream},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use llama_worker::{RepackMode, repack_plan};

use crate::{
    cli::Worker,
    config::{
        Log, LogFormat,
        value::{LogFilter, Raw, Value as _},
    },
    logging, output,
};

/// The kernel ends this process with its parent, whatever it is doing: hung, in a long computation, or stopped. A closed
/// socket alone is only noticed by who reads it.
#[cfg(target_os = "linux")]
fn die_with_parent() -> Result<()> {
    use rustix::process::{Signal, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL)).context("the parent's death cannot be watched")
}

/// Elsewhere the closed socket must do.
#[cfg(not(target_os = "linux"))]
fn die_with_parent() -> Result<()> {
    Ok(())
}

/// Whether the process at the other end of the socket is no longer the parent: it died before [`die_with_parent`].
#[cfg(target_os = "linux")]
fn is_orphan(socket: &UnixStream) -> Result<bool> {
    let creator = rustix::net::sockopt::socket_peercred(socket).context("the socket's other end is not known")?.pid;
    Ok(rustix::process::getppid() != Some(creator))
}

#[cfg(not(target_os = "linux"))]
fn is_orphan(_socket: &UnixStream) -> Result<bool> {
    Ok(false)
}

pub(super) fn run(arguments: Worker) -> Result<ExitCode> {
    die_with_parent()?;
    // The node's level is not known here; what the engine has to say at `debug` is llama.cpp's own chatter.
    let level = std::env::var("LLM_NODE_WORKER_LOG").ok().and_then(|level| LogFilter::read(&Raw::Text(level)));
    let mut log = Log { format: LogFormat::Auto, ..Log::default() };
    log.level = level.unwrap_or(log.level);
    let _handle = logging::init(&log)?;
    if let Some(input) = arguments.repack {
        let (Some(output_path), Some(mode)) = (arguments.repack_to, arguments.repack_mode) else {
            bail!("--repack needs --repack-to and --repack-mode");
        };
        let mode = match mode.as_str() {
            "lossless" => RepackMode::Lossless,
            "fast" => RepackMode::Fast,
            other => bail!("--repack-mode {other}: it is lossless or fast"),
        };
        let Some(target) = repack_plan(&input, mode) else {
            output::print("unchanged")?;
            return Ok(ExitCode::SUCCESS);
        };
        llama_worker::quantize(&input, &output_path, target)?;
        output::print("repacked")?;
        return Ok(ExitCode::SUCCESS);
    }
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("standard input cannot be used")?;
    let socket = UnixStream::from(stdin);
    if socket.peer_addr().is_err() {
        bail!("this command is started by `llm-node serve`, with a socket as standard input");
    }
    if is_orphan(&socket)? {
        bail!("the node that started this worker is gone");
    }
    llama_worker::run(socket)?;
    Ok(ExitCode::SUCCESS)
}
