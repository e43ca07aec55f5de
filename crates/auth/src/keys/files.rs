//! The directory of the keys: `keyring.json`, `<kid>.pem` for each secret in a file, and a lock for whoever changes them.
//!
//! Every file appears whole or not at all, and is on disk before the keyring names it.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{KeysError, Ring};

/// Largest keyring read, in bytes: [`super::KEYS_MAX`] keys with their statements have a third of it.
const RING_BYTES_MAX: u64 = 1 << 20;
/// Largest key file read, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;

/// Where the keys are.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    dir: PathBuf,
}

/// Nobody else changes the keys while this lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Tells one state of the keyring's file from another without reading it: it is replaced, never written in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    changed_ns: i128,
    bytes: u64,
}

impl Files {
    /// Opens the directory; creates it (mode 0700) where it is missing.
    pub(crate) fn open(dir: &Path) -> Result<Self, KeysError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| io_error(dir, source))?;
        Ok(Self { dir: dir.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    fn ring_file(&self) -> PathBuf {
        self.dir.join("keyring.json")
    }

    pub(crate) fn key_file(&self, kid: &str) -> PathBuf {
        self.dir.join(format!("{kid}.pem"))
    }

    /// Waits until nobody else changes the keys.
    pub(crate) fn lock(&self) -> Result<Lock, KeysError> {
        let path = self.dir.join("lock");
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.and_then(|file| file.lock().map(|()| file)).map_err(|source| io_error(&path, source))?;
        Ok(Lock { _file: file })
    }

    /// The keyring's state on disk; `None` when there is no keyring.
    pub(crate) fn stamp(&self) -> Result<Option<Stamp>, KeysError> {
        let path = self.ring_file();
        match fs::metadata(&path) {
            Ok(found) => {
                let changed_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
                Ok(Some(Stamp { inode: found.ino(), changed_ns, bytes: found.len() }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error(&path, source)),
        }
    }

    pub(crate) fn read_ring(&self) -> Result<Option<Ring>, KeysError> {
        let path = self.ring_file();
        match read_limited(&path, RING_BYTES_MAX) {
            Ok(json) => Ok(Some(Ring::from_json(json.as_bytes())?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error(&path, source)),
        }
    }

    pub(crate) fn write_ring(&self, ring: &Ring, _lock: &Lock) -> Result<(), KeysError> {
        let json = serde_json::to_vec_pretty(ring).expect("a keyring is always JSON");
        self.write(&self.ring_file(), &json)
    }

    /// Writes a secret (mode 0600). One of that name is replaced: it is the same key.
    pub(crate) fn write_key(&self, kid: &str, pem: &str, _lock: &Lock) -> Result<(), KeysError> {
        self.write(&self.key_file(kid), pem.as_bytes())
    }

    pub(crate) fn read_key(&self, kid: &str) -> Result<Zeroizing<String>, KeysError> {
        read_private(&self.key_file(kid))
    }

    pub(crate) fn remove_key(&self, kid: &str, _lock: &Lock) -> Result<(), KeysError> {
        let path = self.key_file(kid);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(io_error(&path, source)),
            _ => Ok(()),
        }
    }

    /// Names of the key files that are there.
    pub(crate) fn key_names(&self) -> Result<Vec<String>, KeysError> {
        let entries = fs::read_dir(&self.dir).map_err(|source| io_error(&self.dir, source))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.strip_suffix(".pem").map(ToOwned::to_owned)).collect())
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
        let temporary = path.with_extension("tmp");
        let _ = fs::remove_file(&temporary);
        let written = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, path))
            .and_then(|()| File::open(&self.dir)?.sync_all());
        written.map_err(|source| io_error(path, source))
    }
}

/// Reads a file with a secret.
///
/// # Errors
/// [`KeysError::Exposed`] when others can read it; [`KeysError::Io`].
pub fn read_private(path: &Path) -> Result<Zeroizing<String>, KeysError> {
    let metadata = fs::metadata(path).map_err(|source| io_error(path, source))?;
    let mode = metadata.permissions().mode() & 0o777;
    // A pipe or a terminal (`/dev/stdin`) has no readers but this one.
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(KeysError::Exposed { path: path.to_owned(), mode });
    }
    read_limited(path, KEY_FILE_BYTES_MAX).map_err(|source| io_error(path, source))
}

fn read_limited(path: &Path, bytes_max: u64) -> io::Result<Zeroizing<String>> {
    use io::Read as _;
    // Room for all of a secret from the start: growing would leave copies of it behind.
    let room = bytes_max.min(KEY_FILE_BYTES_MAX) + 1;
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(room).unwrap_or(0)));
    File::open(path)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

pub(crate) fn io_error(path: &Path, source: io::Error) -> KeysError {
    KeysError::Io { path: path.to_owned(), source }
}
