//! What must survive a restart. The only crate that knows SQL.
//!
//! One thread owns the one connection that the node writes with (`writer`): operations that arrive together are
//! committed together (group commit), each in a savepoint of its own, and a caller hears "done" only after the commit.
//! Other processes (`llm-node job …` beside a running node) open the same file; WAL and a busy timeout make that safe.

mod jobs;
mod schema;
mod writer;

use std::path::{Path, PathBuf};

pub use jobs::{JobRow, JobStatus, NewJobRow, Recovered, ReservationId, ReserveOutcome, Settlement};
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
            _ => Self::Sqlite(error.to_string()),
        }
    }
}

impl StoreError {
    fn open(path: &Path, error: &rusqlite::Error) -> Self {
        Self::Open { path: path.to_owned(), reason: error.to_string() }
    }
}
