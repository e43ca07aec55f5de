//! The data directory: everything that must survive a restart, and what says that a node runs on it.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// A directory that exists, is ours to write, and is not other users' to read.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    path: PathBuf,
}

/// Says that this process is the node of a data directory. Released by the system when the process ends, however
/// it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// What a running node tells beside itself in `run/addresses.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// The public listener.
    pub(crate) public: SocketAddr,
    /// The operators' listener.
    pub(crate) admin: SocketAddr,
    /// Process id of the node.
    pub(crate) pid: u32,
    /// Whether the public listener speaks TLS.
    #[serde(default)]
    pub(crate) tls: bool,
}

/// `run/addresses.json` for as long as this lives.
#[derive(Debug)]
pub(crate) struct Announcement {
    path: PathBuf,
}

impl DataDir {
    /// `--data-dir`, else `LLM_NODE_DATA_DIR`, else `llm-node` in the user's data directory (XDG base directories).
    ///
    /// # Errors
    /// When neither is given and the user has no home.
    pub(crate) fn locate(flag: Option<PathBuf>) -> Result<PathBuf> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        flag.or_else(|| variable("LLM_NODE_DATA_DIR"))
            .or_else(|| variable("XDG_DATA_HOME").map(|base| base.join("llm-node")))
            .or_else(|| variable("HOME").map(|home| home.join(".local/share/llm-node")))
            .context("there is no HOME to put a data directory into: give one with --data-dir DIR")
    }

    /// Opens the directory; creates it (mode 0700) with its parts where they are missing. Where an earlier version or
    /// `mkdir` let other users in, they are shut out; only a directory that holds other things, too, is left as it is.
    ///
    /// # Errors
    /// When it is no directory, cannot be created, or can be written to by everybody: they could put a secret of their
    /// own into it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => {
                bail!("the data directory {} is a file: name a directory with --data-dir DIR", path.display());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => create_private(path)?,
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("the data directory {} cannot be used: choose another with --data-dir DIR", path.display())
                });
            }
        }
        let path =
            fs::canonicalize(path).with_context(|| format!("the data directory {} cannot be used", path.display()))?;
        let dir = Self { path };
        dir.shut_out_others()?;
        for part in PARTS {
            let part = dir.path.join(part);
            if part.is_dir() { make_private(&part) } else { create_private(&part)? }
        }
        Ok(dir)
    }

    /// Takes from others what they have of a directory that is ours alone.
    fn shut_out_others(&self) -> Result<()> {
        let unreadable = || format!("the data directory {} cannot be read", self.path.display());
        let mut names = fs::read_dir(&self.path).with_context(unreadable)?;
        let ours = names.all(|entry| entry.is_ok_and(|entry| is_ours(&entry.file_name().to_string_lossy())));
        if ours {
            make_private(&self.path);
        }
        let mode = fs::metadata(&self.path).with_context(unreadable)?.permissions().mode();
        if mode & 0o002 != 0 {
            bail!(
                "everybody on this machine can write to the data directory {} (mode {:o}): `chmod o-w` it, or give the \
                 node one of its own with --data-dir DIR",
                self.path.display(),
                mode & 0o7777
            );
        }
        Ok(())
    }

    /// Writes and removes a small file: permissions alone do not tell of a full or read-only disk. For who will write:
    /// a command that only reads works on such a disk, too.
    ///
    /// # Errors
    /// When it cannot be written to (read-only, full, someone else's).
    pub(crate) fn probe(&self) -> Result<()> {
        let probe = self.path.join(format!("run/.probe.{}", std::process::id()));
        let written = write_private(&probe, b"llm-node\n");
        let _ = fs::remove_file(&probe);
        written.map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space on that disk",
                io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only: choose another with --data-dir DIR",
                io::ErrorKind::PermissionDenied => "it must be writable by the user that runs the node",
                _ => "choose another with --data-dir DIR",
            };
            anyhow::Error::new(error)
                .context(format!("the data directory {} cannot be written to; {advice}", self.path.display()))
        })
    }

    /// Takes the directory for this process.
    ///
    /// # Errors
    /// When another node runs on it.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let path = self.path.join("node.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("{} cannot be opened", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => {
                let other = self.addresses().map(|found| format!(" (process {}, {})", found.pid, found.public));
                bail!(
                    "another node runs on the data directory {}{}: stop it, or give this one its own with --data-dir DIR",
                    self.path.display(),
                    other.unwrap_or_default()
                )
            }
            Err(fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("{} cannot be locked", path.display()))
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The database.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("node.sqlite")
    }

    /// The node's own JWT secret.
    pub(crate) fn jwt_secret(&self) -> PathBuf {
        self.path.join("secrets/jwt")
    }

    /// The node's own keys.
    pub(crate) fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    /// Models, downloaded and converted ones too.
    pub(crate) fn models(&self) -> PathBuf {
        self.path.join("models")
    }

    fn addresses_file(&self) -> PathBuf {
        self.path.join("run/addresses.json")
    }

    /// Where the node on this directory listens, if one runs.
    pub(crate) fn addresses(&self) -> Option<Addresses> {
        serde_json::from_slice(&fs::read(self.addresses_file()).ok()?).ok()
    }

    /// Tells where this node listens, until the result is dropped. The file appears whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn announce(&self, addresses: &Addresses) -> Result<Announcement> {
        let path = self.addresses_file();
        let temporary = path.with_extension("json.tmp");
        let text = serde_json::to_vec(addresses).context("addresses are always JSON")?;
        let _ = fs::remove_file(&temporary);
        write_private(&temporary, &text)
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Announcement { path })
    }
}

/// The directories in it.
const PARTS: [&str; 4] = ["keys", "secrets", "models", "run"];

/// Whether a file or directory of this name is one of the node's own. A directory with others in it may be somebody's
/// home, or /tmp: its permissions are not ours to change.
fn is_ours(name: &str) -> bool {
    PARTS.contains(&name) || name.starts_with("node.") || name.starts_with("llm-node.")
}

/// Takes what others have of a directory of ours. One that belongs to another user stays as it is; `doctor` warns.
fn make_private(path: &Path) {
    let Ok(found) = fs::metadata(path) else { return };
    let mode = found.permissions().mode();
    if mode & 0o077 == 0 || found.uid() != rustix::process::geteuid().as_raw() {
        return;
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(0o700)) {
        Ok(()) => tracing::info!(
            path = %path.display(),
            before = format_args!("{:o}", mode & 0o777),
            "other users could look into a directory of the node; now they cannot (0700)"
        ),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "other users can look into a directory of the node")
        }
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // At worst a stale file stays, with the id of a process that is gone.
        let _ = fs::remove_file(&self.path);
    }
}

fn create_private(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
        format!("the directory {} cannot be created: choose another with --data-dir DIR", path.display())
    })
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_no_writable_directory_is_refused_with_advice() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("file");
        fs::write(&file, "x").expect("writes");
        let check = |path: &Path, part: &str| {
            let error = format!("{:#}", DataDir::open(path).expect_err("refused"));
            assert!(error.contains(part) && error.contains("--data-dir"), "{error}");
        };
        check(&file, "is a file");
        check(&file.join("below"), "below");
        check(Path::new("/proc/llm-node"), "/proc/llm-node");
    }

    #[test]
    fn a_new_directory_is_private() {
        let folder = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(&folder.path().join("a/b")).expect("creates");
        for part in [dir.path().to_owned(), dir.path().join("secrets"), dir.models()] {
            assert_eq!(fs::metadata(&part).expect("exists").permissions().mode() & 0o777, 0o700, "{}", part.display());
        }
        DataDir::open(dir.path()).expect("opens again");
    }

    #[test]
    fn other_users_are_shut_out_of_what_is_ours_alone() {
        let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path();
        // As `scripts/fetch-model.sh` of an earlier version left it.
        fs::create_dir(path.join("models")).expect("ours");
        for part in [path.to_owned(), path.join("models")] {
            set(&part, 0o755);
        }
        DataDir::open(path).expect("opens");
        for part in [path.to_owned(), path.join("models"), path.join("secrets")] {
            assert_eq!(mode(&part), 0o700, "{}", part.display());
        }

        fs::write(path.join("letter.txt"), "x").expect("writes");
        for (before, after) in [(0o755, Some(0o755)), (0o750, Some(0o750)), (0o777, None), (0o703, None)] {
            set(path, before);
            match (DataDir::open(path), after) {
                (Ok(_), Some(after)) => assert_eq!(mode(path), after, "it is not ours alone"),
                (Err(error), None) => assert!(error.to_string().contains("everybody"), "{error}"),
                (other, _) => panic!("{before:o}: {other:?}"),
            }
        }
        set(&path.join("secrets"), 0o755);
        set(path, 0o755);
        DataDir::open(path).expect("opens");
        assert_eq!(mode(&path.join("secrets")), 0o700, "its parts are ours always");
    }

    #[test]
    fn two_nodes_cannot_share_a_directory() {
        let folder = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(folder.path()).expect("opens");
        let first = dir.lock().expect("the first");
        let addresses = Addresses {
            public: ([127, 0, 0, 1], 8080).into(),
            admin: ([127, 0, 0, 1], 9091).into(),
            pid: 42,
            tls: true,
        };
        let announcement = dir.announce(&addresses).expect("announces");
        let error = dir.lock().expect_err("the second").to_string();
        assert!(error.contains("another node runs") && error.contains("process 42"), "{error}");
        drop(first);
        dir.lock().expect("after the first");

        assert_eq!(dir.addresses(), Some(addresses));
        drop(announcement);
        assert_eq!(dir.addresses(), None);
    }
}
