use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ModelError, ModelFiles, Progress, Stage, Step, models_dir};

const READ_BYTES: usize = 1 << 20;

/// What a remembered digest is good for: the very same file contents, as far as a file system tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    path: PathBuf,
    size_bytes: u64,
    modified_seconds: i64,
    modified_nanoseconds: i64,
    inode: u64,
    device: u64,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    shards: Vec<Identity>,
    digest: String,
}

/// `sha256:<hex>` of a model's weights; for several shards it is over their contents in order, as if concatenated.
///
/// Computed once and remembered under `<data_dir>/models/digests/`, so that the next start does not read the weights
/// again. A file whose path, size, modification time, inode or device differs is read anew. Not being able to remember
/// (a read-only data directory) costs time, not correctness.
///
/// # Errors
/// [`ModelError::Io`], or [`ModelError::Changed`] when a file was written to meanwhile.
pub fn digest(files: &ModelFiles, data_dir: &Path, progress: &dyn Progress) -> Result<String, ModelError> {
    let shards = files.shards.iter().map(|path| identify(path)).collect::<Result<Vec<_>, _>>()?;
    let memory = memory_path(files.first(), data_dir);
    if let Some(remembered) = recall(&memory)
        && remembered.shards == shards
        && is_digest(&remembered.digest)
    {
        return Ok(remembered.digest);
    }
    let total_bytes = shards.iter().map(|shard| shard.size_bytes).sum();
    let step = Step::start(progress, Stage::Digest, "SHA-256 of the weights", total_bytes);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    for shard in &shards {
        let mut file = File::open(&shard.path).map_err(ModelError::io(&shard.path))?;
        loop {
            let read = file.read(&mut buffer).map_err(ModelError::io(&shard.path))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            progress.inc(read as u64);
        }
        if identify(&shard.path)? != *shard {
            return Err(ModelError::Changed(shard.path.clone()));
        }
    }
    drop(step);
    let digest = format!("sha256:{}", hex::encode(hasher.finalize()));
    if let Err(error) = remember(&memory, &Remembered { shards, digest: digest.clone() }) {
        tracing::warn!(path = %memory.display(), %error, "the digest of the weights cannot be remembered");
    }
    Ok(digest)
}

/// Compares a computed digest with the configured one.
///
/// # Errors
/// [`ModelError::InvalidDigest`] or [`ModelError::DigestMismatch`].
pub fn verify_digest(actual: &str, expected: &str) -> Result<(), ModelError> {
    let expected = expected.to_ascii_lowercase();
    if !is_digest(&expected) {
        return Err(ModelError::InvalidDigest(expected));
    }
    if actual == expected { Ok(()) } else { Err(ModelError::DigestMismatch { expected, actual: actual.to_owned() }) }
}

pub(super) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

fn identify(path: &Path) -> Result<Identity, ModelError> {
    let path = fs::canonicalize(path).map_err(ModelError::io(path))?;
    let metadata = fs::metadata(&path).map_err(ModelError::io(&path))?;
    Ok(Identity {
        size_bytes: metadata.len(),
        modified_seconds: metadata.mtime(),
        modified_nanoseconds: metadata.mtime_nsec(),
        inode: metadata.ino(),
        device: metadata.dev(),
        path,
    })
}

fn memory_path(first: &Path, data_dir: &Path) -> PathBuf {
    let key = Sha256::digest(first.as_os_str().as_encoded_bytes());
    models_dir(data_dir).join("digests").join(format!("{}.json", hex::encode(&key[..16])))
}

/// Whatever is wrong with it, a memory that cannot be read is none.
fn recall(path: &Path) -> Option<Remembered> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Whole or not at all, also when the machine fails meanwhile.
fn remember(path: &Path, remembered: &Remembered) -> std::io::Result<()> {
    let text = serde_json::to_vec_pretty(remembered)?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = File::create(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
