//! The HMAC secret of the node's own tokens: generated, never defaulted, never printed.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rand::TryRng;
use zeroize::{Zeroize, ZeroizeOnDrop};

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
    /// The system has no randomness.
    #[error("the system's random source failed: {0}")]
    Random(String),
}

/// A secret of at least [`SECRET_BYTES_MIN`] bytes. Zeroized when dropped; `Debug` shows nothing.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct JwtSecret(Vec<u8>);

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
        Ok(Self(bytes.to_vec()))
    }

    /// Reads the secret from `path`; on first start generates one there (mode 0600).
    ///
    /// # Errors
    /// [`SecretError`]: unreadable, exposed to others, too short.
    pub fn load_or_generate(path: &Path) -> Result<Self, SecretError> {
        let io = |source| SecretError::Io { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(metadata) => {
                let mode = metadata.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(SecretError::Exposed { path: path.to_owned(), mode });
                }
                let mut text = fs::read_to_string(path).map_err(io)?;
                let secret = Self::new(&text);
                text.zeroize();
                secret
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::generate(path),
            Err(error) => Err(io(error)),
        }
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
                Ok(Self(text.as_bytes().to_vec()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_and_example_secrets_are_refused() {
        for short in ["", "short", &"x7Kq".repeat(7)] {
            assert!(matches!(JwtSecret::new(short), Err(SecretError::TooShort(_))), "{short:?}");
        }
        for example in [&"a".repeat(64), "CHANGEME-CHANGEME-abcdefghijklmnop", "my-super-secret-jwt-key-for-the-node!"]
        {
            assert!(matches!(JwtSecret::new(example), Err(SecretError::Example)), "{example:?}");
        }
        assert!(JwtSecret::new("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08").is_ok());
    }

    #[test]
    fn a_generated_secret_is_private_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwt");
        let first = JwtSecret::load_or_generate(&path).unwrap();
        let again = JwtSecret::load_or_generate(&path).unwrap();
        assert_eq!(first.bytes(), again.bytes());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(format!("{first:?}"), "JwtSecret(…)");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(JwtSecret::load_or_generate(&path), Err(SecretError::Exposed { .. })));
    }
}
