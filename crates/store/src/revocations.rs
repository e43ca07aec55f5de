//! Revoked tokens, and subjects whose tokens up to a time are revoked.
//!
//! Every revocation takes the next number of a count that never runs backwards, so that a node notices in one cheap
//! question what a command beside it revoked.

use protocol::Subject;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::{Durability, Store, StoreError};

/// Revocations that are kept at once; ended ones are forgotten. About 20 MB in memory.
pub const REVOCATIONS_MAX: usize = 100_000;

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoked {
    /// One token, by its `jti`.
    Token(String),
    /// All tokens of a subject that were issued at this time (Unix seconds) or before.
    Subject {
        /// Whose.
        subject: Subject,
        /// Up to when.
        issued_until: u64,
    },
}

/// A revocation as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationRow {
    /// Its number.
    pub change: i64,
    /// What.
    pub revoked: Revoked,
    /// When nothing is left that it could refuse (Unix seconds).
    pub forget_at: u64,
    /// When it was revoked (Unix seconds).
    pub revoked_at: u64,
}

const COLUMNS: &str = "change, kind, value, issued_until, forget_at, revoked_at";
const TOKEN: &str = "token";
const SUBJECT: &str = "subject";

impl Store {
    /// Revokes, durably. What is revoked already stays so: the later time counts. Returns false, and revokes nothing,
    /// where there are [`REVOCATIONS_MAX`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revoke(&self, revoked: Revoked, forget_at: u64, revoked_at: u64) -> Result<bool, StoreError> {
        self.run(Durability::Power, move |connection| {
            let (kind, value, issued_until) = match &revoked {
                Revoked::Token(jti) => (TOKEN, jti.as_str(), None),
                Revoked::Subject { subject, issued_until } => (SUBJECT, subject.as_str(), Some(signed(*issued_until))),
            };
            let earlier: Option<(Option<i64>, i64)> = connection
                .prepare_cached(
                    "DELETE FROM revocations WHERE kind = ?1 AND value = ?2 RETURNING issued_until, forget_at",
                )?
                .query_row(params![kind, value], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            if earlier.is_none() && count(connection)? >= REVOCATIONS_MAX {
                return Ok(false);
            }
            let (until, forget) = earlier.unwrap_or_default();
            connection
                .prepare_cached(
                    "INSERT INTO revocations (kind, value, issued_until, forget_at, revoked_at)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    kind,
                    value,
                    issued_until.map(|new| new.max(until.unwrap_or(0))),
                    signed(forget_at).max(forget),
                    signed(revoked_at)
                ])?;
            Ok(true)
        })
        .await
    }

    /// Revocations after the one numbered `change`, in order; at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revocations_since(&self, change: i64, limit: u32) -> Result<Vec<RevocationRow>, StoreError> {
        self.run(Durability::Process, move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM revocations WHERE change > ?1 ORDER BY change LIMIT ?2"
            ))?;
            let rows = statement.query_map(params![change, limit], read)?.collect::<Result<_, _>>()?;
            Ok(rows)
        })
        .await
    }

    /// Forgets revocations that have nothing left to refuse.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_revocations(&self, now: u64) -> Result<(), StoreError> {
        self.run(Durability::Process, move |connection| {
            connection.execute("DELETE FROM revocations WHERE forget_at <= ?1", [signed(now)])?;
            Ok(())
        })
        .await
    }
}

fn count(connection: &Connection) -> Result<usize, StoreError> {
    let count: i64 = connection.query_row("SELECT COUNT(*) FROM revocations", [], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

fn read(row: &Row<'_>) -> rusqlite::Result<RevocationRow> {
    let number = |column: usize| row.get::<_, i64>(column).map(unsigned);
    let (kind, value): (String, String) = (row.get(1)?, row.get(2)?);
    let revoked = if kind == SUBJECT {
        let subject = Subject::new(value).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(error))
        })?;
        Revoked::Subject { subject, issued_until: number(3)? }
    } else {
        Revoked::Token(value)
    };
    Ok(RevocationRow { change: row.get(0)?, revoked, forget_at: number(4)?, revoked_at: number(5)? })
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &str, issued_until: u64) -> Revoked {
        Revoked::Subject { subject: Subject::new(name).unwrap(), issued_until }
    }

    #[tokio::test]
    async fn a_revocation_survives_and_never_runs_backwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.sqlite");
        let store = Store::open(&path).unwrap();
        let token = Revoked::Token("jti-1".into());
        assert!(store.revoke(token.clone(), 100, 5).await.unwrap());
        assert!(store.revoke(subject("alice", 50), 200, 6).await.unwrap());
        assert!(store.revoke(subject("alice", 40), 150, 7).await.unwrap());
        drop(store);

        let beside = Store::open(&path).unwrap();
        let rows = beside.revocations_since(0, 10).await.unwrap();
        let found: Vec<_> = rows.iter().map(|row| (&row.revoked, row.forget_at)).collect();
        assert_eq!(found, [(&token, 100), (&subject("alice", 50), 200)]);
        let last = rows.last().unwrap().change;
        assert_eq!(beside.revocations_since(last, 10).await.unwrap(), []);

        beside.forget_revocations(200).await.unwrap();
        assert_eq!(beside.revocations_since(0, 10).await.unwrap(), []);
        assert!(beside.revoke(token, 300, 8).await.unwrap());
        let rows = beside.revocations_since(last, 10).await.unwrap();
        assert_eq!(rows.len(), 1, "numbers of forgotten rows are not used again");
    }

    #[tokio::test]
    async fn a_subject_named_like_a_token_is_not_that_token() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.sqlite")).unwrap();
        assert!(store.revoke(Revoked::Token("x".into()), 100, 5).await.unwrap());
        assert!(store.revoke(subject("x", 50), 100, 5).await.unwrap());
        assert_eq!(store.revocations_since(0, 10).await.unwrap().len(), 2);
    }
}
