use std::{io, path::PathBuf};

use engine_ipc::FrameError;

/// Why the worker ended other than by request.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The socket to the engine failed.
    #[error(transparent)]
    Socket(#[from] FrameError),
    /// The first frame was not `Configure`.
    #[error("the engine's first frame was not Configure")]
    NotConfigured,
    /// The model cannot be loaded; the engine was told the same reason.
    #[error("{0}")]
    LoadFailed(String),
    /// llama.cpp failed in the middle of work.
    #[error("a step failed: {0}")]
    Step(String),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// Why a model file could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// A path that llama.cpp cannot be given.
    #[error("{0} is not a path that llama.cpp can open (not UTF-8, or with a zero byte)")]
    Path(PathBuf),
    /// The input is not a whole GGUF.
    #[error("{0}")]
    Input(String),
    /// llama.cpp refused; its own words.
    #[error("llama.cpp could not convert the weights: {0}")]
    Llama(String),
    /// Writing or renaming failed.
    #[error("cannot write the converted model {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
