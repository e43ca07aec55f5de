use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::models_dir;

/// A temporary file that nobody wrote to for so long is of a process that died. A conversion writes all the time.
const TEMPORARY_AGE_MAX: Duration = Duration::from_secs(15 * 60);
/// How deep `models/` is searched: `models/<owner>/<repo>/<directory>/`.
const DEPTH_MAX: u32 = 4;

/// Where the weights with this digest are kept after their conversion to `target` (a format's name, such as `q8_0`).
///
/// Whoever converts writes to a file beside it whose name ends in `.tmp`, then renames: a file under this path is whole.
/// Two processes that convert at the same time do the work twice and leave the same result.
#[must_use]
pub fn repack_cache_path(data_dir: &Path, digest: &str, target: &str) -> PathBuf {
    let safe = |text: &str| -> String {
        text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    let digest = safe(digest.strip_prefix("sha256:").unwrap_or(digest));
    models_dir(data_dir).join("repacked").join(format!("{digest}.{}.gguf", safe(target)))
}

/// Removes `.tmp` files that dead processes left under `<data_dir>/models/`; partial downloads (`.part`) stay, they are
/// resumed. Returns how many went.
///
/// # Errors
/// When a directory cannot be read or a file cannot be removed.
pub fn remove_stale_temporaries(data_dir: &Path) -> io::Result<usize> {
    remove_older(&models_dir(data_dir), SystemTime::now() - TEMPORARY_AGE_MAX, DEPTH_MAX)
}

fn remove_older(directory: &Path, limit: SystemTime, depth: u32) -> io::Result<usize> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        // Symbolic links are neither followed nor removed.
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            removed += remove_older(&entry.path(), limit, depth - 1)?;
        } else if kind.is_file()
            && entry.path().extension().is_some_and(|extension| extension == "tmp")
            && entry.metadata()?.modified()? < limit
        {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}
