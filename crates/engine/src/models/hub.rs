use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt;
use hf_hub::{HFClient, HFError, repository::RepoTreeEntry};
use sha2::{Digest, Sha256};

use super::{ModelError, ModelFiles, Progress, Stage, Step, models_dir, reference, reference::HubReference};

/// Attempts that bring nothing new, in a row, before a download is given up (until the next start).
const FRUITLESS_ATTEMPTS_MAX: u32 = 3;
/// A download that brings nothing for so long is interrupted and resumed.
const STALL_MAX: Duration = Duration::from_secs(60);

/// What the hub says about a file.
struct Remote {
    size_bytes: u64,
    /// Changes with the content.
    object_id: String,
    sha256: Option<String>,
}

/// Finds or downloads a file and, where its name is one of a set, its sibling shards. `endpoint` is for tests; `None`
/// is the hub or the environment's `HF_ENDPOINT`.
pub(super) fn fetch(
    reference: &HubReference,
    endpoint: Option<&str>,
    data_dir: &Path,
    progress: &dyn Progress,
) -> Result<ModelFiles, ModelError> {
    let names = match reference::shards(Path::new(&reference.file)) {
        Some(shards) => shards.iter().map(|shard| shard.to_string_lossy().into_owned()).collect(),
        None => vec![reference.file.clone()],
    };
    let references: Vec<HubReference> =
        names.into_iter().map(|file| HubReference { file, ..reference.clone() }).collect();
    let shards: Vec<PathBuf> = references.iter().map(|reference| destination(reference, data_dir)).collect();
    let missing: Vec<_> = references.iter().zip(&shards).filter(|(_, path)| !path.is_file()).collect();
    if !missing.is_empty() {
        let io_error = ModelError::io(data_dir);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io_error)?;
        let mut client = HFClient::builder();
        if let Some(endpoint) = endpoint {
            client = client.endpoint(endpoint).retry_max_attempts(1);
        }
        let client = client.build().map_err(|error| explain(reference, error))?;
        for (reference, path) in missing {
            runtime.block_on(download(&client, reference, path, progress))?;
        }
    }
    Ok(ModelFiles { shards })
}

fn destination(reference: &HubReference, data_dir: &Path) -> PathBuf {
    let repo = match &reference.revision {
        Some(revision) => format!("{}@{revision}", reference.repo),
        None => reference.repo.clone(),
    };
    models_dir(data_dir).join(&reference.owner).join(repo).join(&reference.file)
}

async fn download(
    client: &HFClient,
    reference: &HubReference,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), ModelError> {
    let remote = inspect(client, reference).await?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(ModelError::io(directory))?;
    }
    // The object's id in the name: what was begun of an older version is not continued with a newer one.
    let object_id: String = remote.object_id.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{object_id}.part"));
    let part = PathBuf::from(part);

    let mut done_bytes = part.metadata().map_or(0, |metadata| metadata.len());
    let step = Step::start(progress, Stage::Download, &reference.to_string(), remote.size_bytes);
    progress.inc(done_bytes.min(remote.size_bytes));
    let mut fruitless = 0;
    while done_bytes < remote.size_bytes {
        let before = done_bytes;
        let result = append(client, reference, &part, &mut done_bytes, remote.size_bytes, progress).await;
        fruitless = if done_bytes > before { 0 } else { fruitless + 1 };
        let detail = match result {
            Ok(()) => "the connection ended early".to_owned(),
            Err(Attempt::Hub(error)) if is_final(&error) => return Err(explain(reference, error)),
            Err(Attempt::Hub(error)) => explain(reference, error).to_string(),
            Err(Attempt::Stalled) => format!("nothing came for {} s", STALL_MAX.as_secs()),
            Err(Attempt::Local(error)) => return Err(error),
        };
        if done_bytes < remote.size_bytes && fruitless >= FRUITLESS_ATTEMPTS_MAX {
            let (reference, total_bytes) = (reference.to_string(), remote.size_bytes);
            return Err(ModelError::HubInterrupted { reference, done_bytes, total_bytes, detail });
        }
    }
    drop(step);
    if let Some(expected) = &remote.sha256 {
        let actual = sha256(&part, remote.size_bytes, progress)?;
        if actual != *expected {
            fs::remove_file(&part).map_err(ModelError::io(&part))?;
            return Err(ModelError::DigestMismatch {
                expected: format!("sha256:{expected}"),
                actual: format!("sha256:{actual}"),
            });
        }
    }
    fs::rename(&part, path).map_err(ModelError::io(path))
}

enum Attempt {
    Hub(HFError),
    Stalled,
    Local(ModelError),
}

/// Appends what is missing, as far as one connection carries.
async fn append(
    client: &HFClient,
    reference: &HubReference,
    part: &Path,
    done_bytes: &mut u64,
    size_bytes: u64,
    progress: &dyn Progress,
) -> Result<(), Attempt> {
    let local = |error| Attempt::Local(ModelError::io(part)(error));
    let repository = client.model(&reference.owner, &reference.repo);
    let missing = size_bytes - *done_bytes;
    let range = (*done_bytes > 0).then_some(*done_bytes..size_bytes);
    let request = repository
        .download_file_stream()
        .filename(&reference.file)
        .maybe_revision(reference.revision.clone())
        .maybe_range(range)
        .send();
    let answer = tokio::time::timeout(STALL_MAX, request).await.map_err(|_elapsed| Attempt::Stalled)?;
    let (length, mut chunks) = answer.map_err(Attempt::Hub)?;
    let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(local)?;
    if length.is_some_and(|length| length != missing) {
        // The server ignored the range and begins at the beginning; so do we.
        file.set_len(0).map_err(local)?;
        *done_bytes = 0;
    }
    loop {
        let chunk = match tokio::time::timeout(STALL_MAX, chunks.next()).await {
            Err(_elapsed) => return Err(Attempt::Stalled),
            Ok(None) => break,
            Ok(Some(chunk)) => chunk.map_err(Attempt::Hub)?,
        };
        // Never more than the hub announced.
        let room = usize::try_from(size_bytes - *done_bytes).unwrap_or(usize::MAX);
        let chunk = &chunk[..chunk.len().min(room)];
        file.write_all(chunk).map_err(local)?;
        *done_bytes += chunk.len() as u64;
        progress.inc(chunk.len() as u64);
        if *done_bytes == size_bytes {
            break;
        }
    }
    file.sync_all().map_err(local)
}

async fn inspect(client: &HFClient, reference: &HubReference) -> Result<Remote, ModelError> {
    let repository = client.model(&reference.owner, &reference.repo);
    let request = repository
        .get_paths_info()
        .paths(vec![reference.file.clone()])
        .maybe_revision(reference.revision.clone())
        .send();
    let entries = tokio::time::timeout(STALL_MAX, request)
        .await
        .map_err(|_elapsed| ModelError::HubUnreachable { detail: "it does not answer".into() })?
        .map_err(|error| explain(reference, error))?;
    entries
        .into_iter()
        .find_map(|entry| match entry {
            RepoTreeEntry::File { oid, size, path, lfs, .. } if path == reference.file => {
                Some(Remote { size_bytes: size, object_id: oid, sha256: lfs.and_then(|lfs| lfs.sha256) })
            }
            _ => None,
        })
        .ok_or_else(|| ModelError::HubRefused {
            reference: reference.to_string(),
            detail: "the repository has no such file".into(),
        })
}

/// Whether another attempt would end alike.
fn is_final(error: &HFError) -> bool {
    matches!(
        error,
        HFError::AuthRequired { .. }
            | HFError::Forbidden { .. }
            | HFError::RepoNotFound { .. }
            | HFError::RevisionNotFound { .. }
            | HFError::EntryNotFound { .. }
    )
}

fn explain(reference: &HubReference, error: HFError) -> ModelError {
    match error {
        HFError::Request { source, .. } => {
            // reqwest's own message names the address; the last cause says what happened.
            let mut cause: &dyn std::error::Error = &source;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            ModelError::HubUnreachable { detail: cause.to_string() }
        }
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => ModelError::HubRefused {
            reference: reference.to_string(),
            detail: "access is restricted; accept the model's terms on the hub and set HF_TOKEN".into(),
        },
        error => ModelError::HubRefused { reference: reference.to_string(), detail: error.to_string() },
    }
}

fn sha256(path: &Path, size_bytes: u64, progress: &dyn Progress) -> Result<String, ModelError> {
    let _step = Step::start(progress, Stage::Digest, "SHA-256 of the download", size_bytes);
    let mut file = File::open(path).map_err(ModelError::io(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(ModelError::io(path))?;
        if read == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
        progress.inc(read as u64);
    }
}
