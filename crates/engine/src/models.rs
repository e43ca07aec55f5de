//! From a model setting to verified files on this machine.
//!
//! A setting is a path (`/models/x.gguf`; any shard of `x-00001-of-00003.gguf` stands for all) or
//! `hf:owner/repo[@revision]:file.gguf`, which is downloaded once to `<data_dir>/models/` and found there without a
//! network afterwards.
//!
//! Everything here blocks: call it in `spawn_blocking`.

mod digest;
mod gguf;
mod hub;
mod reference;
mod repack;

#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use self::{
    digest::{digest, verify_digest},
    gguf::check_gguf,
    reference::ModelReference,
    repack::{remove_stale_temporaries, repack_cache_path},
};

/// The files of one model, found and whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The shards in order; one for a model in one file. Never empty.
    pub shards: Vec<PathBuf>,
}

impl ModelFiles {
    /// What the worker loads: it finds the other shards beside the first.
    #[must_use]
    pub fn first(&self) -> &Path {
        &self.shards[0]
    }
}

/// A long step on the way to weights that can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// They are fetched from a hub.
    Download,
    /// Their SHA-256 is computed.
    Digest,
    /// They are converted to a format with faster kernels.
    Convert,
}

/// Shows how a long step goes. Calls come from the thread that does the work.
pub trait Progress: Send + Sync {
    /// A step begins. `total_bytes` is 0 where it is unknown.
    fn start(&self, stage: Stage, label: &str, total_bytes: u64);
    /// So many more bytes are done.
    fn inc(&self, bytes: u64);
    /// The step is over, well or not.
    fn finish(&self);
}

/// Shows nothing.
impl Progress for () {
    fn start(&self, _stage: Stage, _label: &str, _total_bytes: u64) {}
    fn inc(&self, _bytes: u64) {}
    fn finish(&self) {}
}

/// Begins a step and ends it when dropped, errors included.
struct Step<'a>(&'a dyn Progress);

impl<'a> Step<'a> {
    fn start(progress: &'a dyn Progress, stage: Stage, label: &str, total_bytes: u64) -> Self {
        progress.start(stage, label, total_bytes);
        Self(progress)
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// Why there is no model. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The setting is neither a path nor a hub reference.
    #[error("`{setting}` is no model: {reason}. Write a path to a .gguf file, or hf:owner/repo:file.gguf")]
    Setting {
        /// As configured.
        setting: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file is not there.
    #[error("the model file {} does not exist; correct the path or put the file there", .0.display())]
    Missing(PathBuf),
    /// Some shards are not there.
    #[error("the model has {total} shards and these are missing: {}", list(.missing))]
    MissingShards {
        /// How many there should be.
        total: u32,
        /// Which are not there.
        missing: Vec<PathBuf>,
    },
    /// It is something else.
    #[error("{} is not a GGUF model: {reason}", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A copy or download that was cut short.
    #[error(
        "{} is cut short: it has {actual_bytes} bytes and its header promises {expected_bytes}; copy or download it again",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its size.
        actual_bytes: u64,
        /// The size that its header promises.
        expected_bytes: u64,
    },
    /// The weights are not those that the configuration names.
    #[error("the weights have the digest {actual} and the configuration expects {expected}; they are not used")]
    DigestMismatch {
        /// As configured.
        expected: String,
        /// As computed.
        actual: String,
    },
    /// The configured digest is no digest.
    #[error("`{0}` is no digest; write sha256: and 64 hexadecimal digits")]
    InvalidDigest(String),
    /// The file was written to while it was read.
    #[error("{} changed while it was read; wait until it is complete", .0.display())]
    Changed(PathBuf),
    /// The model hub does not answer.
    #[error(
        "the model hub cannot be reached ({detail}); connect this machine, or copy the file here and configure its path"
    )]
    HubUnreachable {
        /// The transport's words.
        detail: String,
    },
    /// The hub has no such file, or does not give it to us.
    #[error("the model hub does not give {reference}: {detail}")]
    HubRefused {
        /// What was asked for.
        reference: String,
        /// The hub's words.
        detail: String,
    },
    /// The download ended early every time. What arrived is kept for the next try.
    #[error(
        "the download of {reference} stopped at {done_bytes} of {total_bytes} bytes ({detail}); start again to resume"
    )]
    HubInterrupted {
        /// What was asked for.
        reference: String,
        /// Bytes on disk.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
        /// Why the last attempt ended.
        detail: String,
    },
    /// A file or directory cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ModelError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Where the models of a data directory are.
fn models_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("models")
}

/// Finds the files of a model setting, downloads what the hub has and this machine has not, and checks that each is a
/// whole GGUF file.
///
/// # Errors
/// [`ModelError`]; nothing is left half-written but a partial download, which the next call resumes.
pub fn resolve(setting: &str, data_dir: &Path, progress: &dyn Progress) -> Result<ModelFiles, ModelError> {
    let files = match ModelReference::parse(setting)? {
        ModelReference::Path(path) => local(&path)?,
        ModelReference::Hub(reference) => hub::fetch(&reference, None, data_dir, progress)?,
    };
    for shard in &files.shards {
        check_gguf(shard)?;
    }
    Ok(files)
}

fn local(path: &Path) -> Result<ModelFiles, ModelError> {
    let shards = reference::shards(path).unwrap_or_else(|| vec![path.to_owned()]);
    let missing: Vec<PathBuf> = shards.iter().filter(|shard| !shard.is_file()).cloned().collect();
    match (missing.len(), shards.len()) {
        (0, _) => Ok(ModelFiles { shards }),
        (_, 1) => Err(ModelError::Missing(path.to_owned())),
        (_, total) => Err(ModelError::MissingShards { total: u32::try_from(total).unwrap_or(u32::MAX), missing }),
    }
}
