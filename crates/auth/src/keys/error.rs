//! What goes wrong with the node's keys, in words for the operator.

use std::{io, path::PathBuf};

use signing::{KeyError, SignError};

use super::{RingError, pkcs11::TokenError};

/// Why keys cannot be used or changed. Nothing in it is secret.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A secret that others can read.
    #[error(
        "{path} can be read by others (mode {mode:o}): `chmod 600 {path}`; if others had access, the key is theirs too: rotate it"
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file is no key, or its passphrase is wrong.
    #[error("{path}: {source}")]
    KeyFile {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
    /// A step that makes no sense now.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The hardware token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Signing failed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The random source.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No keyring to work on.
    #[error("there are no keys yet in {0}: `llm-node serve` or `llm-node keys generate` makes the first")]
    NoKeys(PathBuf),
    /// Key files, and nothing that says which is which.
    #[error(
        "{0} has key files but no keyring.json: restore it with `llm-node keys restore`, or move the key files away to \
         start as a new node"
    )]
    NoRing(PathBuf),
    /// The secret half is not here.
    #[error("the secret half of the key {0} is not here")]
    Gone(String),
    /// A file holds another key than its name says.
    #[error("{path} does not hold the key that its name says")]
    OtherKey {
        /// Which file.
        path: PathBuf,
    },
    /// Keys that would be lost.
    #[error(
        "there are keys here already (node {0}): restore with --replace to put those of the backup in their place; \
         keys of the same node are kept, retired"
    )]
    NotEmpty(String),
    /// The statement of the active key about the next one cannot be made.
    #[error(
        "the active key cannot sign that it trusts the next one ({0}): repair that, or publish the next key without \
         such a statement with --without-statement, and tell your clients its thumbprint"
    )]
    NoStatement(String),
    /// A backup cannot be made or read.
    #[error("{0}")]
    Backup(String),
}
