//! The schema, as migrations that are applied in order. `PRAGMA user_version` counts those applied.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::StoreError;

const MIGRATIONS: &[&str] = &["
    CREATE TABLE jobs (
        id              TEXT PRIMARY KEY,
        owner           TEXT NOT NULL,
        model           TEXT,
        max_tokens      INTEGER NOT NULL CHECK (max_tokens > 0),
        used_tokens     INTEGER NOT NULL DEFAULT 0 CHECK (used_tokens >= 0),
        reserved_tokens INTEGER NOT NULL DEFAULT 0 CHECK (reserved_tokens >= 0),
        created_at      INTEGER NOT NULL,
        expires_at      INTEGER,
        closed_at       INTEGER,
        CHECK (used_tokens + reserved_tokens <= max_tokens)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE reservations (
        id         INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id     TEXT NOT NULL REFERENCES jobs (id),
        request_id TEXT NOT NULL,
        tokens     INTEGER NOT NULL CHECK (tokens > 0),
        delivered  INTEGER NOT NULL DEFAULT 0 CHECK (delivered BETWEEN 0 AND tokens),
        created_at INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE settlements (
        reservation_id    INTEGER PRIMARY KEY,
        job_id            TEXT NOT NULL REFERENCES jobs (id),
        request_id        TEXT NOT NULL,
        prompt_tokens     INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        outcome           TEXT NOT NULL,
        settled_at        INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX settlements_by_job ON settlements (job_id, settled_at);
"];

/// Brings the schema up to date, in one transaction.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let applied: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = i64::try_from(MIGRATIONS.len()).expect("a handful");
    if applied > known {
        return Err(StoreError::TooNew { path: path.to_owned(), found: applied, known });
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(applied).expect("not negative")) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}
