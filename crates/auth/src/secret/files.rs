//! The generated secrets as files: `jwt` signs, `jwt.until-<Unix seconds>` are earlier ones that still verify.
//!
//! A rotation first gives the old secret its second name, then puts the new one in its place, each step atomic: a
//! process that dies between them has changed nothing.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    JwtSecret, SecretError,
    ring::{Earlier, Keyed, Ring},
};

/// Earlier secrets that may be in overlap at once.
pub const EARLIER_SECRETS_MAX: usize = 8;
const UNTIL: &str = ".until-";

/// What became of a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The new secret's name in tokens.
    pub kid: String,
    /// Until when the old one's tokens are valid, Unix seconds; `None` where it ended at once.
    pub old_until: Option<u64>,
}

/// What tells that the files are others.
pub(super) type Stamp = Vec<(PathBuf, u64, i64, i64)>;

/// Where the secrets are.
#[derive(Debug, Clone)]
pub(super) struct SecretFiles(PathBuf);

impl SecretFiles {
    /// The current secret's file.
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Reads them; on first start generates the current one.
    pub(super) fn load(&self) -> Result<(Ring, Stamp), SecretError> {
        let current = JwtSecret::load_or_generate(&self.0)?;
        // Taken before the earlier ones are read: what changes meanwhile is noticed the next time.
        let stamp = self.stamp()?;
        let mut earlier = Vec::new();
        for (path, until) in self.earlier()? {
            // One that was deleted meanwhile has ended.
            match JwtSecret::read(&path) {
                Ok(Some(secret)) => earlier.push(Earlier { keyed: Keyed::new(&secret), until: Some(until) }),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((Ring::new(&current, earlier), stamp))
    }

    /// Names, inodes and times of the files.
    pub(super) fn stamp(&self) -> Result<Stamp, SecretError> {
        let mut paths: Vec<PathBuf> = self.earlier()?.into_iter().map(|(path, _)| path).collect();
        paths.push(self.0.clone());
        let mut stamp: Stamp = paths
            .into_iter()
            .filter_map(|path| {
                let metadata = fs::metadata(&path).ok()?;
                Some((path, metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
            })
            .collect();
        stamp.sort();
        Ok(stamp)
    }

    /// Puts a new secret in the place of the current one, whose tokens stay valid for `overlap`.
    pub(super) fn rotate(&self, overlap: Duration, now: u64) -> Result<Rotated, SecretError> {
        let io = |source| SecretError::Io { path: self.0.clone(), source };
        JwtSecret::load_or_generate(&self.0)?;
        let lock = self.sibling(".lock");
        let lock = fs::File::options().create(true).truncate(false).write(true).open(&lock).map_err(io)?;
        lock.lock().map_err(io)?; // two rotations at once would lose a secret

        let earlier = self.earlier()?;
        let (ended, valid): (Vec<_>, Vec<_>) = earlier.into_iter().partition(|(_, until)| *until <= now);
        for (path, _) in ended {
            fs::remove_file(path).map_err(io)?;
        }
        let old_until = (!overlap.is_zero()).then(|| now.saturating_add(overlap.as_secs().max(1)));
        if let Some(until) = old_until {
            if valid.len() >= EARLIER_SECRETS_MAX {
                return Err(SecretError::TooManyEarlier);
            }
            // Two rotations with the same end have different secrets: the name must be free.
            let free = (until..).map(|until| self.sibling(&format!("{UNTIL}{until}"))).find(|path| !path.exists());
            fs::hard_link(&self.0, free.expect("there are more seconds than files")).map_err(io)?;
        }
        let new = self.sibling(".new");
        let _ = fs::remove_file(&new); // of a rotation that was killed
        let secret = JwtSecret::load_or_generate(&new)?;
        fs::rename(&new, &self.0).map_err(io)?;
        if let Some(dir) = self.0.parent() {
            fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
        }
        Ok(Rotated { kid: Ring::new(&secret, Vec::new()).kid().to_owned(), old_until })
    }

    fn sibling(&self, suffix: &str) -> PathBuf {
        let mut name = self.0.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        self.0.with_file_name(name)
    }

    /// Earlier secrets with the end that their names say.
    fn earlier(&self) -> Result<Vec<(PathBuf, u64)>, SecretError> {
        let io = |source| SecretError::Io { path: self.0.clone(), source };
        let prefix = self.sibling(UNTIL);
        let prefix = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir(self.0.parent().unwrap_or(Path::new("."))).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name();
            let until = name.to_str().and_then(|name| name.strip_prefix(&prefix)).and_then(|end| end.parse().ok());
            found.extend(until.map(|until| (entry.path(), until)));
        }
        Ok(found)
    }
}
