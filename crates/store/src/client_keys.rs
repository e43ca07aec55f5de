//! Public keys of clients, by the subject that they sign for.
//!
//! Every enrolment and withdrawal takes the next number of a count, so that a node notices in one cheap question what
//! a command beside it has changed.

use protocol::Subject;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{Durability, Store, StoreError};

/// Keys that one subject may have, withdrawn ones not counted.
pub const KEYS_PER_SUBJECT_MAX: usize = 32;

/// A key as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientKeyRow {
    /// Who signs with it.
    pub subject: Subject,
    /// Its RFC 7638 thumbprint.
    pub thumbprint: String,
    /// The Ed25519 public key.
    pub public_key: [u8; 32],
    /// What its owner calls it.
    pub label: Option<String>,
    /// Unix seconds.
    pub enrolled_at: u64,
    /// Unix seconds; set once it was withdrawn.
    pub withdrawn_at: Option<u64>,
}

/// What became of the wish to enrol a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enrolment {
    /// It can be used.
    Enrolled,
    /// It could be used before.
    Already,
    /// It was withdrawn, and this enrolment may not undo that.
    Withdrawn,
    /// The subject has [`KEYS_PER_SUBJECT_MAX`] keys.
    Full,
}

/// Which subjects' keys changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChanges {
    /// The count now; ask from here the next time.
    pub latest: i64,
    /// Whose keys changed since; `None` where they are too many to name.
    pub subjects: Option<Vec<Subject>>,
}

const COLUMNS: &str = "subject, thumbprint, public_key, label, enrolled_at, withdrawn_at";
const NEXT: &str = "(SELECT COALESCE(MAX(change), 0) + 1 FROM client_keys)";

impl Store {
    /// Enrols a key for its subject, durably. `again` also takes one that was withdrawn.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn enrol_client_key(&self, key: ClientKeyRow, again: bool) -> Result<Enrolment, StoreError> {
        self.run(Durability::Power, move |connection| {
            match find(connection, &key.subject, &key.thumbprint)? {
                Some(found) if found.withdrawn_at.is_none() => return Ok(Enrolment::Already),
                Some(_) if !again => return Ok(Enrolment::Withdrawn),
                _ => {}
            }
            let active: u32 = connection.query_row(
                "SELECT COUNT(*) FROM client_keys WHERE subject = ?1 AND withdrawn_at IS NULL",
                [key.subject.as_str()],
                |row| row.get(0),
            )?;
            if active as usize >= KEYS_PER_SUBJECT_MAX {
                return Ok(Enrolment::Full);
            }
            connection.execute(
                &format!(
                    "INSERT INTO client_keys (subject, thumbprint, public_key, label, enrolled_at, change)
                     VALUES (?1, ?2, ?3, ?4, ?5, {NEXT})
                     ON CONFLICT (subject, thumbprint) DO UPDATE
                     SET label = excluded.label, enrolled_at = excluded.enrolled_at, withdrawn_at = NULL,
                         change = excluded.change"
                ),
                params![key.subject.as_str(), key.thumbprint, key.public_key, key.label, signed(key.enrolled_at)],
            )?;
            Ok(Enrolment::Enrolled)
        })
        .await
    }

    /// Withdraws a key, durably; withdrawing twice changes nothing. `Ok(None)`: the subject has no such key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn withdraw_client_key(
        &self,
        subject: Subject,
        thumbprint: String,
        now: u64,
    ) -> Result<Option<ClientKeyRow>, StoreError> {
        self.run(Durability::Power, move |connection| {
            connection.execute(
                &format!(
                    "UPDATE client_keys SET withdrawn_at = ?3, change = {NEXT}
                     WHERE subject = ?1 AND thumbprint = ?2 AND withdrawn_at IS NULL"
                ),
                params![subject.as_str(), thumbprint, signed(now)],
            )?;
            find(connection, &subject, &thumbprint)
        })
        .await
    }

    /// Keys of one subject or of all, withdrawn ones too, oldest first; at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn client_keys(&self, subject: Option<Subject>, limit: u32) -> Result<Vec<ClientKeyRow>, StoreError> {
        self.run(Durability::Process, move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM client_keys WHERE ?1 IS NULL OR subject = ?1
                 ORDER BY subject, enrolled_at, thumbprint LIMIT ?2"
            ))?;
            let rows = statement.query_map(params![subject.as_ref().map(Subject::as_str), limit], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Whose keys changed after the count was `since`; more than `limit` subjects are not named.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn client_key_changes(&self, since: i64, limit: u32) -> Result<KeyChanges, StoreError> {
        self.run(Durability::Process, move |connection| {
            let latest: i64 = connection
                .prepare_cached("SELECT COALESCE(MAX(change), 0) FROM client_keys")?
                .query_row([], |row| row.get(0))?;
            if latest == since {
                return Ok(KeyChanges { latest, subjects: Some(Vec::new()) });
            }
            let mut statement =
                connection.prepare_cached("SELECT DISTINCT subject FROM client_keys WHERE change > ?1 LIMIT ?2 + 1")?;
            let names: Vec<String> =
                statement.query_map(params![since, limit], |row| row.get(0))?.collect::<Result<_, _>>()?;
            let few = names.len() <= limit as usize;
            let subjects = few.then(|| names.into_iter().filter_map(|name| Subject::new(name).ok()).collect());
            Ok(KeyChanges { latest, subjects })
        })
        .await
    }
}

fn find(connection: &Connection, subject: &Subject, thumbprint: &str) -> Result<Option<ClientKeyRow>, StoreError> {
    Ok(connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM client_keys WHERE subject = ?1 AND thumbprint = ?2"))?
        .query_row(params![subject.as_str(), thumbprint], read)
        .optional()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<ClientKeyRow> {
    let seconds = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(ClientKeyRow {
        subject: Subject::new(row.get::<_, String>(0)?).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
        })?,
        thumbprint: row.get(1)?,
        public_key: row.get(2)?,
        label: row.get(3)?,
        enrolled_at: seconds(row.get(4)?),
        withdrawn_at: row.get::<_, Option<i64>>(5)?.map(seconds),
    })
}

/// SQLite's integers are signed.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &str) -> Subject {
        Subject::new(name).unwrap()
    }

    fn key(name: &str, byte: u8) -> ClientKeyRow {
        ClientKeyRow {
            subject: subject(name),
            thumbprint: format!("t{byte}"),
            public_key: [byte; 32],
            label: None,
            enrolled_at: 10,
            withdrawn_at: None,
        }
    }

    #[tokio::test]
    async fn a_withdrawn_key_comes_back_only_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.sqlite")).unwrap();
        let enrol = async |key, again| store.enrol_client_key(key, again).await.unwrap();
        assert_eq!(store.withdraw_client_key(subject("alice"), "t1".into(), 5).await.unwrap(), None);
        assert_eq!(enrol(key("alice", 1), false).await, Enrolment::Enrolled);
        assert_eq!(enrol(key("alice", 1), false).await, Enrolment::Already);
        let withdrawn = store.withdraw_client_key(subject("alice"), "t1".into(), 20).await.unwrap().unwrap();
        assert_eq!(withdrawn.withdrawn_at, Some(20));
        let again = store.withdraw_client_key(subject("alice"), "t1".into(), 30).await.unwrap().unwrap();
        assert_eq!(again.withdrawn_at, Some(20), "the first time stands");
        assert_eq!(enrol(key("alice", 1), false).await, Enrolment::Withdrawn);
        assert_eq!(enrol(key("alice", 1), true).await, Enrolment::Enrolled);
        assert_eq!(store.client_keys(Some(subject("alice")), 9).await.unwrap(), [key("alice", 1)]);
        assert_eq!(store.client_keys(Some(subject("bob")), 9).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_subject_has_so_many_keys_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.sqlite")).unwrap();
        for byte in 0..u8::try_from(KEYS_PER_SUBJECT_MAX).unwrap() {
            assert_eq!(store.enrol_client_key(key("alice", byte), false).await.unwrap(), Enrolment::Enrolled);
        }
        assert_eq!(store.enrol_client_key(key("alice", 99), false).await.unwrap(), Enrolment::Full);
        store.withdraw_client_key(subject("alice"), "t0".into(), 20).await.unwrap();
        assert_eq!(store.enrol_client_key(key("alice", 99), false).await.unwrap(), Enrolment::Enrolled);
        assert_eq!(store.enrol_client_key(key("bob", 99), false).await.unwrap(), Enrolment::Enrolled);
    }

    #[tokio::test]
    async fn changes_are_noticed_by_subject() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.sqlite");
        let (store, beside) = (Store::open(&path).unwrap(), Store::open(&path).unwrap());
        let changes = async |since, limit| store.client_key_changes(since, limit).await.unwrap();
        assert_eq!(changes(0, 9).await, KeyChanges { latest: 0, subjects: Some(vec![]) });
        beside.enrol_client_key(key("alice", 1), false).await.unwrap();
        let first = changes(0, 9).await;
        assert_eq!(first.subjects, Some(vec![subject("alice")]));
        beside.enrol_client_key(key("bob", 1), false).await.unwrap();
        beside.withdraw_client_key(subject("bob"), "t1".into(), 5).await.unwrap();
        let second = changes(first.latest, 9).await;
        assert_eq!(second.subjects, Some(vec![subject("bob")]));
        assert_eq!(changes(0, 1).await, KeyChanges { latest: second.latest, subjects: None }, "too many to name");
        assert_eq!(changes(second.latest, 9).await.subjects, Some(vec![]));
    }
}
