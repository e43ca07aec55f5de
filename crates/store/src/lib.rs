//! What must survive a restart. The only crate that knows SQL.
//!
//! One thread owns the one connection that the node writes with (`writer`): operations that arrive together are
//! committed together (group commit), each in a savepoint of its own, and a caller hears "done" only after the commit.
//! Other processes (`llm-node job …` beside a running node) open the same file; WAL and a busy timeout make that safe.

mod client_keys;
mod jobs;
mod receipts;
mod revocations;
mod schema;
mod writer;

use std::path::{Path, PathBuf};

pub use client_keys::{ClientKeyRow, Enrolment, KEYS_PER_SUBJECT_MAX, KeyChanges};
pub use jobs::{JobRow, JobStatus, NewJobRow, Recovered, ReservationId, ReserveOutcome, SettleOutcome, Settlement};
pub use receipts::{ChainLink, MakeReceipt};
pub use revocations::{REVOCATIONS_MAX, RevocationRow, Revoked};
pub use writer::{Durability, Store};

/// Why the store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or created.
    #[error("cannot open the database {path}: {reason}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// What SQLite or the system says.
        reason: String,
    },
    /// The file was written by a newer version of this program.
    #[error("the database {path} has schema {found}, this version knows up to {known}: use the newer llm-node again")]
    TooNew {
        /// Which file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The disk is full; nothing was written.
    #[error("the disk that holds the database is full")]
    Full,
    /// The system refuses to write (a quota, a limit of file sizes, a file system gone read-only, a broken disk).
    #[error("the database cannot be written or read: {0}")]
    Io(String),
    /// Another operation of the same transaction failed so badly that all were undone.
    #[error("the transaction was rolled back")]
    RolledBack,
    /// A row of that id exists.
    #[error("it exists already")]
    Exists,
    /// SQLite failed.
    #[error("database: {0}")]
    Sqlite(String),
    /// The store's thread has ended.
    #[error("the store is closed")]
    Closed,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            Some(rusqlite::ErrorCode::SystemIoFailure | rusqlite::ErrorCode::ReadOnly) => Self::Io(error.to_string()),
            _ => Self::Sqlite(error.to_string()),
        }
    }
}

impl StoreError {
    /// What the operator must do about it.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Full => "free some space on that disk",
            Self::Io(_) => {
                "look at the disk, its quota and the limit of file sizes (`df -h`, `quota`, `ulimit -f`, `dmesg`)"
            }
            _ => "look at the log of what else uses this file",
        }
    }

    fn open(path: &Path, error: &rusqlite::Error) -> Self {
        Self::Open { path: path.to_owned(), reason: error.to_string() }
    }
}
