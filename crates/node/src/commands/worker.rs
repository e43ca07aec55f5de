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

pub(super) fn run(arguments: Worker) -> Result<ExitCode> {
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
    llama_worker::run(socket)?;
    Ok(ExitCode::SUCCESS)
}
