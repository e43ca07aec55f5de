//! The HMAC secrets of the node's own tokens: generated, never defaulted, never printed, rotated with overlap.

mod files;
pub(crate) mod ring;
mod store;
#[cfg(test)]
mod tests;

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

pub use files::{EARLIER_SECRETS_MAX, Rotated};
use rand::TryRng;
pub use store::Secrets;
use zeroize::{Zeroize as _, Zeroizing};

/// Shortest secret accepted in bytes (RFC 7518 section 3.2: at least the hash's size).
pub const SECRET_BYTES_MIN: usize = 32;
/// Fewest different bytes in a secret: `aaaa…` is long and no secret.
const SECRET_DISTINCT_BYTES_MIN: usize = 10;
/// Parts of secrets that stand in tutorials.
const EXAMPLE_PARTS: &[&str] =
    &["changeme", "change-me", "change_me", "secret", "password", "example", "default", "your-256-bit", "0123456789"];

/// Why a secret is refused or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Too short.
    #[error(
        "the JWT secret has {0} bytes and needs at least {SECRET_BYTES_MIN}: generate one with `openssl rand -hex 32`"
    )]
    TooShort(usize),
    /// From a tutorial, or of one character.
    #[error(
        "the JWT secret is an example or has too few different characters: generate one with `openssl rand -hex 32`"
    )]
    Example,
    /// The file can be read by others.
    #[error(
        "{path} can be read by others (mode {mode:o}): `chmod 600 {path}`, and if others had access, delete it to get a new one"
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// More secrets are in overlap than the node looks at.
    #[error(
        "{EARLIER_SECRETS_MAX} earlier secrets are still valid; wait until one ends, or delete the `jwt.until-…` files of those \
         whose tokens may end now"
    )]
    TooManyEarlier,
    /// The system has no randomness.
    #[error("the system's random source failed: {0}")]
    Random(String),
}

/// A secret of at least [`SECRET_BYTES_MIN`] bytes. Zeroized when dropped; `Debug` shows nothing.
#[derive(Clone)]
pub struct JwtSecret(Zeroizing<Vec<u8>>);

impl fmt::Debug for JwtSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtSecret(…)")
    }
}

impl JwtSecret {
    /// Takes a configured secret.
    ///
    /// # Errors
    /// [`SecretError::TooShort`], [`SecretError::Example`].
    pub fn new(text: &str) -> Result<Self, SecretError> {
        let bytes = text.trim().as_bytes();
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(SecretError::TooShort(bytes.len()));
        }
        let distinct = bytes.iter().collect::<std::collections::BTreeSet<_>>().len();
        let lower = text.to_ascii_lowercase();
        if distinct < SECRET_DISTINCT_BYTES_MIN || EXAMPLE_PARTS.iter().any(|part| lower.contains(part)) {
            return Err(SecretError::Example);
        }
        Ok(Self(Zeroizing::new(bytes.to_vec())))
    }

    /// Reads the secret from `path`; on first start generates one there (mode 0600).
    ///
    /// # Errors
    /// [`SecretError`]: unreadable, exposed to others, too short.
    pub fn load_or_generate(path: &Path) -> Result<Self, SecretError> {
        match Self::read(path)? {
            Some(secret) => Ok(secret),
            None => Self::generate(path),
        }
    }

    /// Reads the secret from `path`; `None` where there is no file.
    fn read(path: &Path) -> Result<Option<Self>, SecretError> {
        let io = |source| SecretError::Io { path: path.to_owned(), source };
        let mut file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        // Of the open file: what is checked is what is read.
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Exposed { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        let read = file.read_to_string(&mut text).map_err(io);
        let secret = read.and_then(|_| Self::new(&text));
        text.zeroize();
        secret.map(Some)
    }

    fn generate(path: &Path) -> Result<Self, SecretError> {
        let io = |source| SecretError::Io { path: path.to_owned(), source };
        let mut bytes = [0_u8; 32];
        rand::rngs::SysRng.try_fill_bytes(&mut bytes).map_err(|error| SecretError::Random(error.to_string()))?;
        let mut text = hex::encode(bytes);
        bytes.zeroize();
        // `create_new`: of two processes that start at once, one generates and the other reads.
        let created = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let result = match created {
            Ok(mut file) => {
                file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
                Ok(Self(Zeroizing::new(text.as_bytes().to_vec())))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load_or_generate(path),
            Err(error) => Err(io(error)),
        };
        text.zeroize();
        result
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
