//! The schema, as migrations that are applied in order. `PRAGMA user_version` counts those applied.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::StoreError;

const MIGRATIONS: &[&str] = &[
    "
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
",
    "
    -- 'change' counts enrolments and withdrawals over all keys.
    CREATE TABLE client_keys (
        subject      TEXT NOT NULL,
        thumbprint   TEXT NOT NULL,
        public_key   BLOB NOT NULL CHECK (length(public_key) = 32),
        label        TEXT,
        enrolled_at  INTEGER NOT NULL,
        withdrawn_at INTEGER,
        change       INTEGER NOT NULL UNIQUE,
        PRIMARY KEY (subject, thumbprint)
    ) STRICT, WITHOUT ROWID;

    ALTER TABLE jobs ADD COLUMN signature_required INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX jobs_by_owner ON jobs (owner);
",
    "
    -- The head of the job's chain of receipts; it stays when receipts are forgotten.
    ALTER TABLE jobs ADD COLUMN receipts_issued INTEGER NOT NULL DEFAULT 0 CHECK (receipts_issued >= 0);
    ALTER TABLE jobs ADD COLUMN receipt_hash TEXT;

    -- 'document' is the signed receipt in canonical form, byte for byte as it was hashed for the next one.
    CREATE TABLE receipts (
        id             TEXT PRIMARY KEY,
        reservation_id INTEGER NOT NULL UNIQUE REFERENCES settlements (reservation_id),
        job_id         TEXT NOT NULL REFERENCES jobs (id),
        sequence       INTEGER NOT NULL CHECK (sequence > 0),
        subject        TEXT NOT NULL,
        document       TEXT NOT NULL,
        finished_at    INTEGER NOT NULL,
        UNIQUE (job_id, sequence)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX receipts_by_time ON receipts (finished_at);
",
    "
    -- 'change' counts revocations; AUTOINCREMENT, because a number must not come again after its row was forgotten.
    CREATE TABLE revocations (
        change       INTEGER PRIMARY KEY AUTOINCREMENT,
        kind         TEXT NOT NULL CHECK (kind IN ('token', 'subject')),
        value        TEXT NOT NULL,
        issued_until INTEGER CHECK ((kind = 'subject') = (issued_until IS NOT NULL)),
        forget_at    INTEGER NOT NULL,
        revoked_at   INTEGER NOT NULL,
        UNIQUE (kind, value)
    ) STRICT;
",
];

/// Brings the schema up to date, in one transaction.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let applied: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = i64::try_from(MIGRATIONS.len()).expect("a handful");
    if applied > known {
        return Err(StoreError::TooNew { path: path.to_owned(), found: applied, known });
    }
    if applied == known {
        // Nothing to write: commands that only read work on a full disk.
        return Ok(());
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(applied).expect("not negative")) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}
