//! From the model setting to weights that a worker can load: found or downloaded, digested, converted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use engine::models::{self, ModelFiles, Stage};

use crate::{
    config::{ENV_PREFIX, Engine, Repack},
    data_dir::DataDir,
    progress::Shown,
};

/// Weights that are ready to load.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    /// What the worker loads: the weights, or their conversion.
    pub(crate) load: PathBuf,
    /// `sha256:<hex>` of the weights as they came: the model's identity, converted or not.
    pub(crate) digest: String,
}

/// The model setting, or the one model in the data directory.
///
/// # Errors
/// When there is none, or more than one to choose from.
pub(crate) fn setting(engine: &Engine, dir: &DataDir) -> Result<String> {
    if let Some(model) = &engine.model {
        return Ok(model.clone());
    }
    let entries = fs::read_dir(dir.models()).with_context(|| format!("{} cannot be read", dir.models().display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && path.extension().is_some_and(|extension| extension == "gguf"))
        .collect();
    found.sort();
    match found.as_slice() {
        [] => bail!(
            "there is no model: name one with --model FILE or --model hf:owner/repo:file.gguf, or put a .gguf file into \
             {} (`scripts/fetch-model.sh` fetches the default one there)",
            dir.models().display()
        ),
        [only] => Ok(only.display().to_string()),
        // The shards of one model stand for one.
        [first, rest @ ..] if rest.iter().all(|other| shard_stem(other) == shard_stem(first)) => {
            Ok(first.display().to_string())
        }
        several => {
            bail!("there are {} models in {}: choose one with --model FILE", several.len(), dir.models().display())
        }
    }
}

/// `x` of `x-00001-of-00003.gguf`; nothing for a model in one file.
fn shard_stem(path: &Path) -> Option<&str> {
    let stem = path.file_stem()?.to_str()?;
    let (name, numbers) = stem.split_at_checked(stem.len().checked_sub("-00001-of-00003".len())?)?;
    numbers.contains("-of-").then_some(name)
}

/// Finds or downloads the weights, checks their digest, and converts them where that is configured. Blocks.
///
/// # Errors
/// What is wrong with the model, and what to do.
pub(crate) fn prepare(engine: &Engine, dir: &DataDir, progress: &Shown) -> Result<Prepared> {
    let setting = setting(engine, dir)?;
    progress.stage(if setting.starts_with("hf:") { Stage::Download } else { Stage::Digest });
    if let Err(error) = models::remove_stale_temporaries(dir.path()) {
        tracing::warn!(%error, "temporary files of an earlier process could not be removed");
    }
    let files = models::resolve(&setting, dir.path(), progress)?;
    let digest = models::digest(&files, dir.path(), progress)?;
    if let Some(expected) = &engine.model_sha256 {
        models::verify_digest(&digest, expected.as_str())?;
    }
    let load = repacked(engine.repack, &files, &digest, dir, progress)?;
    Ok(Prepared { load, digest })
}

/// The conversion of the weights, made at the first load and kept.
fn repacked(mode: Repack, files: &ModelFiles, digest: &str, dir: &DataDir, progress: &Shown) -> Result<PathBuf> {
    let original = files.first().to_owned();
    let name = match mode {
        Repack::Off => return Ok(original),
        Repack::Lossless => "lossless",
        Repack::Fast => "fast",
    };
    if files.shards.len() > 1 {
        tracing::info!("a model of several shards is loaded as it is; engine.repack concerns models in one file");
        return Ok(original);
    }
    let target = models::repack_cache_path(dir.path(), digest, name);
    // An empty file remembers that there was nothing to convert.
    match fs::metadata(&target) {
        Ok(found) if found.len() == 0 => return Ok(original),
        Ok(_) => return Ok(target),
        Err(_) => {}
    }
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    }
    tracing::info!(mode = name, "converting the weights to a format with faster CPU kernels; this is done once");
    progress.stage(Stage::Convert);
    // In a child process: a failed assertion of llama.cpp must not end the node.
    let mut command = Command::new(std::env::current_exe().context("the path of this program is not known")?);
    for (variable, _) in std::env::vars_os() {
        // It parses a file of strangers, and needs none of the node's secrets.
        if variable.to_string_lossy().starts_with(ENV_PREFIX) {
            command.env_remove(variable);
        }
    }
    let converted = command
        .arg("worker")
        .arg("--repack")
        .arg(&original)
        .arg("--repack-to")
        .arg(&target)
        .args(["--repack-mode", name])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("the conversion cannot be started")?;
    match (converted.status.success(), converted.stdout.trim_ascii()) {
        (true, b"repacked") => Ok(target),
        (true, _) => {
            fs::write(&target, b"").with_context(|| format!("{} cannot be written", target.display()))?;
            Ok(original)
        }
        (false, _) => {
            tracing::warn!(status = %converted.status, "the weights could not be converted; they are loaded as they are");
            Ok(original)
        }
    }
}
