//! Tokens that are good no longer: single ones by `jti`, and all that a subject was issued up to a time.
//!
//! The store has them; every process keeps them in memory and asks the store twice a second what came since, so that
//! `llm-node token revoke` beside a node takes effect within a second. Open sockets listen to
//! [`Revocations::changed`].

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::RwLock;
use protocol::Subject;
use store::{REVOCATIONS_MAX, RevocationRow, Revoked, Store, StoreError};
use tokio::sync::watch;

use crate::{LIFETIME_SECS_MAX, token::now};

/// How often the store is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Revocations read at once.
const PAGE_ROWS: u32 = 1024;
/// Polls between two times that ended revocations are forgotten: an hour.
const POLLS_PER_CLEANUP: u32 = 7200;
/// How long a revocation outlives what it refuses, in seconds: more than any leeway.
const MARGIN_SECS: u64 = 3600;

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// As many are in force as are kept.
    #[error(
        "{REVOCATIONS_MAX} revocations are in force, which is the limit: revoke by subject, or end all tokens at once with \
         `llm-node token rotate-secret --overlap 0`"
    )]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is revoked. Clones share the memory.
#[derive(Clone)]
pub struct Revocations(Arc<Inner>);

struct Inner {
    store: Store,
    state: RwLock<State>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// The last revocation that was read.
    seen: i64,
    tokens: HashMap<String, u64>,
    subjects: HashMap<Subject, Cut>,
}

/// Until when (Unix seconds) a subject's tokens were issued that are revoked, and when that can be forgotten.
struct Cut {
    issued_until: u64,
    forget_at: u64,
}

impl std::fmt::Debug for Revocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revocations").finish_non_exhaustive()
    }
}

impl PartialEq for Revocations {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Revocations {}

impl Revocations {
    /// Reads what is revoked in this store.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn open(store: Store) -> Result<Self, StoreError> {
        store.forget_revocations(now()).await?;
        let revocations = Self(Arc::new(Inner { store, state: RwLock::default(), changes: watch::Sender::new(0) }));
        revocations.0.catch_up().await?;
        Ok(revocations)
    }

    /// Starts to notice what commands beside this process revoke. Must be called in a tokio runtime; the task ends when
    /// the last clone is dropped.
    #[must_use]
    pub fn watched(self) -> Self {
        tokio::spawn(watch(Arc::downgrade(&self.0)));
        self
    }

    /// Whether a token is revoked. From memory.
    #[must_use]
    pub fn is_revoked(&self, jti: &str, subject: &Subject, issued_at: u64) -> bool {
        let state = self.0.state.read();
        state.tokens.contains_key(jti) || state.subjects.get(subject).is_some_and(|cut| issued_at <= cut.issued_until)
    }

    /// Tells of every change, by a number that grows.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Revokes one token, durably and at once. `expires_at` is when it ends by itself (Unix seconds), if that is known.
    ///
    /// # Errors
    /// [`RevokeError`]; nothing changed.
    pub async fn revoke_token(&self, jti: &str, expires_at: Option<u64>) -> Result<(), RevokeError> {
        let ends = expires_at.unwrap_or_else(|| now().saturating_add(LIFETIME_SECS_MAX));
        self.revoke(Revoked::Token(jti.to_owned()), ends).await
    }

    /// Revokes all tokens of a subject that were issued at `issued_until` (Unix seconds) or before, durably and at once.
    /// Tokens have their time in seconds, so one that is issued in this same second would be revoked too.
    ///
    /// # Errors
    /// [`RevokeError`]; nothing changed.
    pub async fn revoke_subject(&self, subject: &Subject, issued_until: u64) -> Result<(), RevokeError> {
        let ends = issued_until.saturating_add(LIFETIME_SECS_MAX);
        self.revoke(Revoked::Subject { subject: subject.clone(), issued_until }, ends).await
    }

    async fn revoke(&self, revoked: Revoked, ends: u64) -> Result<(), RevokeError> {
        if !self.0.store.revoke(revoked, ends.saturating_add(MARGIN_SECS), now()).await? {
            return Err(RevokeError::Full);
        }
        Ok(self.0.catch_up().await?)
    }

    /// What is revoked, the oldest first; at most `limit` after the one numbered `after` (0 for the first).
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self, after: i64, limit: u32) -> Result<Vec<RevocationRow>, StoreError> {
        self.0.store.revocations_since(after, limit).await
    }
}

impl Inner {
    /// Reads what was revoked since the last time.
    async fn catch_up(&self) -> Result<(), StoreError> {
        loop {
            let seen = self.state.read().seen;
            let rows = self.store.revocations_since(seen, PAGE_ROWS).await?;
            if rows.is_empty() {
                return Ok(());
            }
            self.state.write().take(rows);
            self.changes.send_modify(|number| *number += 1);
        }
    }

    async fn clean_up(&self) -> Result<(), StoreError> {
        let now = now();
        self.store.forget_revocations(now).await?;
        let mut state = self.state.write();
        state.tokens.retain(|_, forget_at| *forget_at > now);
        state.subjects.retain(|_, cut| cut.forget_at > now);
        Ok(())
    }
}

impl State {
    fn take(&mut self, rows: Vec<RevocationRow>) {
        for RevocationRow { change, revoked, forget_at, .. } in rows {
            // Two readers at once may bring the same rows.
            self.seen = self.seen.max(change);
            match revoked {
                Revoked::Token(jti) => drop(self.tokens.insert(jti, forget_at)),
                Revoked::Subject { subject, issued_until } => {
                    let cut = self.subjects.entry(subject).or_insert(Cut { issued_until, forget_at });
                    cut.issued_until = cut.issued_until.max(issued_until);
                    cut.forget_at = cut.forget_at.max(forget_at);
                }
            }
        }
    }
}

async fn watch(revocations: Weak<Inner>) {
    let mut interval = tokio::time::interval(POLL_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    for poll in 1_u32.. {
        interval.tick().await;
        let Some(inner) = revocations.upgrade() else { return };
        let result = if poll.is_multiple_of(POLLS_PER_CLEANUP) {
            inner.clean_up().await.and(inner.catch_up().await)
        } else {
            inner.catch_up().await
        };
        if let Err(error) = &result
            && !failing
        {
            tracing::error!(%error, "revocations cannot be read: those made beside this node are not in force");
        }
        failing = result.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> Subject {
        Subject::new("alice").unwrap()
    }

    async fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.sqlite")).unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn what_is_revoked_is_refused_and_nothing_else() {
        let (_dir, store) = store().await;
        let list = Revocations::open(store.clone()).await.unwrap();
        let mut changed = list.changed();
        list.revoke_token("a", Some(now() + 60)).await.unwrap();
        changed.changed().await.unwrap();
        let until = now() - 1000;
        list.revoke_subject(&alice(), until).await.unwrap();
        let check = |list: &Revocations, jti: &str, subject: &str, iat: u64, expected: bool| {
            let subject = Subject::new(subject).unwrap();
            assert_eq!(list.is_revoked(jti, &subject, iat), expected, "{jti} {subject} {iat}");
        };
        for list in [&list, &Revocations::open(store).await.unwrap()] {
            check(list, "a", "bob", 500, true);
            check(list, "b", "bob", 0, false);
            check(list, "b", "alice", until, true);
            check(list, "b", "alice", until + 1, false);
            check(list, "alice", "a", 0, false);
        }
    }

    #[tokio::test]
    async fn a_revocation_beside_the_process_is_noticed() {
        let (_dir, store) = store().await;
        let list = Revocations::open(store.clone()).await.unwrap().watched();
        let mut changed = list.changed();
        let beside = Revocations::open(store).await.unwrap();
        beside.revoke_subject(&alice(), 100).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), changed.changed()).await.expect("it is noticed").unwrap();
        assert!(list.is_revoked("x", &alice(), 100));
    }

    #[tokio::test]
    async fn an_earlier_date_does_not_give_tokens_back() {
        let (_dir, store) = store().await;
        let list = Revocations::open(store.clone()).await.unwrap();
        let until = now() - 1000;
        list.revoke_subject(&alice(), until).await.unwrap();
        list.revoke_subject(&alice(), until - 50).await.unwrap();
        assert!(list.is_revoked("x", &alice(), until));
        assert!(Revocations::open(store).await.unwrap().is_revoked("x", &alice(), until));
    }

    #[tokio::test]
    async fn ended_revocations_are_forgotten() {
        let (_dir, store) = store().await;
        let list = Revocations::open(store).await.unwrap();
        list.revoke_token("old", Some(0)).await.unwrap();
        list.revoke_token("new", None).await.unwrap();
        list.0.clean_up().await.unwrap();
        assert!(!list.is_revoked("old", &alice(), 0) && list.is_revoked("new", &alice(), 0));
        assert_eq!(list.list(0, 10).await.unwrap().len(), 1);
    }
}
